"""A judge's reply -> `judgement`, and its verdict."""

import re

from caco_ray.schema import Row, reject
from caco_ray.stages.reply import without_thinking

# A yes begins a line or a sentence and ends its line; a no needs no such care.
_YES = re.compile(
    r"(?:^|[.!?;][ \t])\W*(?:\d+\W+)?(?:(?:final|overall)\W+)?verdict\W*?:\W*yes\b"
    r"[\s*_.!]*(?:\([^()\n]*\)|\[[^\[\]\n]*\])?[\s*_.!]*$",
    re.IGNORECASE | re.MULTILINE,
)
_NO = re.compile(r"\bverdict\W*?:\W*no\b(?!\W*(?:or|yes)\b)", re.IGNORECASE)


def parse(row: Row, text: str) -> None:
    """Keep the whole reply in `judgement`. Reasons: `judge_says_no`, `judge_unparsable`.

    `Verdict: yes` counts, with a number, "final" or marks of Markdown before it and a remark in brackets after it. Verdicts that differ are
    no verdict.
    """
    row["judgement"] = without_thinking(text)
    is_yes, is_no = (pattern.search(row["judgement"]) is not None for pattern in (_YES, _NO))
    if is_yes == is_no:
        reject(row, "judge_unparsable")
    elif is_no:
        reject(row, "judge_says_no")
