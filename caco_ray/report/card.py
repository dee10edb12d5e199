"""The card of the shipped data set: `README.md` with the front matter that the Hugging Face hub reads
(https://huggingface.co/docs/hub/datasets-cards).

It says what is true of this data set at the time when it was assembled; what later stages train on it is in the run's report.
"""

import re
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from caco_ray.config import Config, FakeModel, ModelConfig, SandboxConfig, VllmModel
from caco_ray.report.funnel import RunReport, collect
from caco_ray.report.models import fake_roles
from caco_ray.report.shipped import Sample
from caco_ray.run import FOLDERS
from caco_ray.sandbox.limits import RANGES
from caco_ray.schema import REASONS, SHIPPED
from caco_ray.store import Dataset, Folder

CARD = "README.md"
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
COLUMNS: dict[str, str] = {
    "instruction": "the question",
    "output": "the solution in words; its final answer is the one that the program gave",
    "answer": "the value that the program gave, as a person would write it",
    "code": "the Python program: it assigns `input`, computes `output` and prints it",
    "row_id": "id of this row: a hash of its parent's id, the stage and the sample number",
    "parent_id": "id of the row of the stage before",
    "reject_reason": "always null: rejected rows are not shipped",
    "infra_error": "always null: rows on which the machinery failed are not shipped",
    "program_id": "id of the sampled program; rows that share it come from one program",
    "problem_id": "id of the question; rows that share it are solutions of one question",
    "solution_id": "id of the solution",
    "sample_index": "number of the sample among all that were asked of the sampler, through all rounds",
    "input_json": "the program's `input` as it was first assigned, as JSON that keeps the exact types",
    "output_json": "the program's `output`, as JSON that keeps the exact types",
    "language_answer": "the final answer as the solution states it",
    "solve_samples": "solutions of this problem that were drawn",
    "solve_pass_rate": "share of them whose answer agreed",
    "solve_majority": "the answer that most of them state",
    "question_style": "the style that was asked of the question",
    "sandbox_level": "isolation in which the program was proved",
}


def write_card(run_folder: Folder, config: Config) -> None:
    """Write the card into the closed data set of a run.

    Raises:
        RunDirError: the data set is not closed, or is damaged.
        StorageError: the storage refuses the write.
    """
    dataset = Dataset(run_folder / FOLDERS["assemble"])
    dataset.folder.write(CARD, render_card(collect(run_folder, samples=1), config, dataset).encode())


def render_card(report: RunReport, config: Config, dataset: Dataset) -> str:
    """The card as Markdown."""
    environment = Environment(loader=PackageLoader("caco_ray", "report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": _cell, "fenced": fenced}
    assert report.shipped is not None  # `dataset` is closed
    return environment.get_template("card.md").render(
        front_matter=yaml.safe_dump(_front_matter(report, config, dataset), sort_keys=False, allow_unicode=True).rstrip(),
        report=report,
        shipped=report.shipped,
        config=config,
        columns=[(field.name, str(field.type), _meaning(field.name)) for field in SHIPPED],
        example=_example(report.shipped.samples),
        reasons=REASONS,
        met=_reasons_met(report),
        limits=_other_limits(config.sandbox),
        check_determinism=config.filters.check_determinism,
        fake_roles=fake_roles(config),
        open_terms=_license(config) == "apache-2.0",
    )


def fenced(text: str, language: str = "") -> str:
    """Text in a code fence that it cannot close itself (CommonMark 0.31, section 4.5)."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def size_category(rows: int) -> str:
    """The hub's name for a number of rows."""
    return next((name for power, name in enumerate(_SIZES, start=3) if rows < 10**power), "10B<n<100B")


def _front_matter(report: RunReport, config: Config, dataset: Dataset) -> dict[str, Any]:
    assert report.shipped is not None
    license_name = _license(config)
    return {
        "pretty_name": f"Caco reasoning data, {config.profile}, {report.fingerprint}",
        "license": license_name,
        **({"license_name": "terms-of-seeds-and-models"} if license_name == "other" else {}),
        "language": ["en"],
        "task_categories": ["text-generation", "question-answering"],
        "tags": ["math", "reasoning", "chain-of-thought", "code", "synthetic", "verified-by-execution", "arxiv:2510.04081"],
        "size_categories": [size_category(report.shipped.rows)],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": _data_files(dataset)}]}],
    }


def _data_files(dataset: Dataset) -> str | list[str]:
    """The Parquet files that the manifest names: a pattern, unless others lie beside them (a killed commit leaves one)."""
    named = sorted(entry.file for entry in dataset.entries)
    there = [f"data/{name}" for name in dataset.folder.names("data") if name.endswith(".parquet") and not name.startswith(".")]
    return "data/*.parquet" if there == named else named


def _license(config: Config) -> str:
    """Apache-2.0 where all that the rows were made from is; else the user has to read the terms of seeds and models."""
    writers = [config.models.sampler, config.models.reverse, config.models.solve, config.models.unify]
    ours = config.seeds.path is None and all(_is_ours(model, config) for model in writers)
    return "apache-2.0" if ours else "other"


def _is_ours(model: ModelConfig, config: Config) -> bool:
    if isinstance(model, FakeModel):
        return True
    if not isinstance(model, VllmModel):
        return False
    bases = {"embedded": "embedded", "run:codegen": config.models.base, "run:student": config.models.student}
    return bases.get(model.path) == "embedded"


def _other_limits(sandbox: SandboxConfig) -> list[str]:
    """Arguments of `jobs/verify.py` for the limits of a program that are not the defaults: without the run nothing else tells them."""
    default = SandboxConfig()
    own = [(name, getattr(sandbox, name)) for name in RANGES if getattr(sandbox, name) != getattr(default, name)]
    return [f"sandbox.{name}={value:g}" if isinstance(value, float) else f"sandbox.{name}={value}" for name, value in own]


def _meaning(column: str) -> str:
    if column in COLUMNS:
        return COLUMNS[column]
    role, _, what = column.rpartition("_")
    return f"{'model' if what == 'model' else 'name and version of the prompt'} of the stage `{role}`; null if it was off"


def _reasons_met(report: RunReport) -> list[str]:
    """Reasons that a row of this run was rejected for, in the order of the vocabulary."""
    found = {reason for stage in report.stages for reason, _ in stage.rejected if not stage.name.startswith("evaluate")}
    return [reason for reason in REASONS if reason in found] + sorted(found - set(REASONS))


def _example(samples: tuple[Sample, ...]) -> Sample | None:
    return samples[0] if samples else None


def _cell(text: object) -> str:
    """Text in a cell of a Markdown table: one line, no pipes, no markup of its own."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(str(text).split()))
