"""A judge's reply -> `judgement`, and its verdict."""

import re

from caco_ray.schema import Row, reject
from caco_ray.stages.reply import without_thinking

_VERDICT = re.compile(r"^\W*verdict\W*?:\W*(yes|no)\b\W*$", re.IGNORECASE | re.MULTILINE)


def parse(row: Row, text: str) -> None:
    """Keep the whole reply in `judgement`. Reasons: `judge_says_no`, `judge_unparsable`.

    Only lines `Verdict: yes` or `Verdict: no` count; none, or two that differ, is no verdict.
    """
    row["judgement"] = without_thinking(text)
    verdicts = {verdict.lower() for verdict in _VERDICT.findall(row["judgement"])}
    if len(verdicts) != 1:
        reject(row, "judge_unparsable")
    elif verdicts == {"no"}:
        reject(row, "judge_says_no")
