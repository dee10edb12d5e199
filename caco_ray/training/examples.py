"""Rows of any data set of ours -> training sequences, by the prompt family and roles of the training."""

import re
from functools import partial

from caco_ray.config import TrainingConfig
from caco_ray.prompts import Segment, student_example, training_examples
from caco_ray.schema import Row
from caco_ray.training.types import Examples

TAG = re.compile(r"# Domain: (.+)")  # `domain_tag`, read back


def make_examples(training: TrainingConfig, domain: str | None = None, roles: tuple[str, ...] | None = None) -> Examples:
    """`domain` is that of rows that name none; it counts with `domain_tags` only. `roles`: None = those of the training.

    A tag is learned as the first line of the program, so that sampling draws the domain first and a program of it then. Limit: no prompt of
    ours asks for one domain; a user of the model does, with a sampling prompt that goes on with the tag.
    """
    if training.prompts == "alpaca":
        return _student_examples
    return partial(_role_examples, roles=training.roles if roles is None else roles, tag=training.domain_tags, domain=domain)


def _student_examples(row: Row) -> list[tuple[Segment, ...]]:
    return [student_example(row)] if row.get("instruction") and row.get("output") else []


def _role_examples(row: Row, roles: tuple[str, ...], tag: bool, domain: str | None) -> list[tuple[Segment, ...]]:
    name = row.get("domain") or domain
    if tag and name and row.get("code"):
        row = {**row, "code": f"{domain_tag(name)}\n{row['code']}"}
    return training_examples(row, roles)


def domain_tag(domain: str) -> str:
    """The comment that begins a tagged program."""
    return f"# Domain: {' '.join(domain.split())}"
