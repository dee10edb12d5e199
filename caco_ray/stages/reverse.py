"""A back-translator's reply -> `question`. What makes a question usable is checked in `question`."""

import re

from caco_ray.prompts import question_style
from caco_ray.schema import Row, reject
from caco_ray.stages.reply import tagged, without_thinking

_HEADER = re.compile(r"^\W*(?:problem|question|exercise|task)(?:\s+(?:statement|text|\d+))?\s*[:.]\W*?(?=[\w$\\\"'(])", re.IGNORECASE)
# Never at the begin, and no "Note:" or "Hint:": these may say what the problem cannot do without.
_TRAILER = re.compile(r"(?!\A)^\W*(?:solution|answer|final answer|explanation)\b\s*\**\s*:.*", re.IGNORECASE | re.MULTILINE | re.DOTALL)


def parse(row: Row, text: str) -> None:
    """Fill `question` and `question_style`: the text in `<problem>` tags, or all of it less a heading and an appended solution.

    Reason: `empty_generation` if nothing is left.
    """
    text = without_thinking(text)
    question = tagged(text, "problem")
    if question is None:
        question = _TRAILER.sub("", text, count=1)
    question = _HEADER.sub("", question.strip(), count=1).strip().strip("*").strip()
    if not question:
        reject(row, "empty_generation")
    row["question"] = question or None
    row["question_style"] = question_style(row["reverse_prompt"].rpartition(":")[2], row)
