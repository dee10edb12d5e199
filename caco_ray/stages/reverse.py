"""A back-translator's reply -> `question`. What makes a question usable is checked in `question`."""

import re

from caco_ray.prompts import question_style
from caco_ray.schema import Row, reject
from caco_ray.stages.reply import tagged, without_thinking

# A full stop ends a heading only before a space: `Problem 3.5 litres` is none. Of what follows only marks of Markdown belong to it.
_HEADER = re.compile(
    r"^\W*(?:problem|question|exercise|task)(?:\s+(?:statement|text|\d+(?:\.\d+)*))?\s*[*_]*\s*(?::|\.(?=[*_\s]))[*_]*\s*"
    r"(?:[-=*_]{3,}[ \t]*\n\s*)?(?=\S)",
    re.IGNORECASE,
)
_BOLD = re.compile(r"\*\*((?:(?!\*\*).)+)\*\*|\*([^*]+)\*", re.DOTALL)
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
    question = _undressed(question.strip())
    if not question:
        reject(row, "empty_generation")
    row["question"] = question or None
    row["question_style"] = question_style(row["reverse_prompt"].rpartition(":")[2], row)


def _undressed(text: str) -> str:
    """Less a heading, the stars that it opened, and stars around all of the text; others say what is what: `**A** + **B**`."""
    if (header := _HEADER.match(text)) is not None:
        text = text[header.end() :]
        if header.group().count("**") % 2:
            text = text.replace("**", "", 1)
    whole = _BOLD.fullmatch(text.strip())
    return (whole[1] or whole[2] if whole else text).strip()
