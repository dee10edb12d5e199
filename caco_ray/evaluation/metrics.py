"""pass@1 with a 95 % Wilson interval, over all problems and per domain and difficulty, and the unbiased pass@k estimator.

Limits: the interval describes the sampling of problems only. Quarantined rows (the machinery failed) are left out of the rates and
counted; rejected attempts (truncated, empty) and attempts without an answer count as wrong.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from caco_ray.schema import Row

_Z95 = 1.959963984540054  # 97.5 % point of the normal distribution


@dataclass(frozen=True)
class Accuracy:
    """`pass_at_1` of `problems` problems with its 95 % interval; 0 to 1, None where there are no problems."""

    problems: int
    attempts: int
    correct: int
    pass_at_1: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Evaluation:
    """`unanswered`: attempts without a final answer, those of them included that were `truncated` (cut off at `max_tokens`); `undecided`:
    quarantined attempts, in no rate. `prompts`: what was asked, as `name@version:family`."""

    overall: Accuracy
    by_domain: dict[str, Accuracy]
    by_difficulty: dict[str, Accuracy]
    unanswered: int
    truncated: int
    undecided: int
    prompts: tuple[str, ...]

    @property
    def remarks(self) -> str:
        """What a rate must be read with."""
        return remarks(self.unanswered, self.truncated, self.prompts)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return asdict(self)


def evaluate_rows(rows: Iterable[Row]) -> Evaluation:
    """Summarise rows of the schema EVALUATED: one row per problem and attempt, `parent_id` names the problem."""
    rows = list(rows)
    counted = [row for row in rows if row["infra_error"] is None]
    return Evaluation(
        overall=_accuracy(counted),
        by_domain=_grouped(counted, "domain"),
        by_difficulty=_grouped(counted, "difficulty"),
        unanswered=sum(row["language_answer"] is None for row in counted),
        truncated=sum(row["reject_reason"] == "truncated" for row in counted),
        undecided=len(rows) - len(counted),
        prompts=tuple(sorted({row["solve_prompt"] for row in rows if row["solve_prompt"] is not None})),
    )


def remarks(unanswered: int, truncated: int, prompts: tuple[str, ...]) -> str:
    """In words: attempts that gave no answer, and what was asked."""
    return f"{unanswered:,} without an answer, {truncated:,} of them truncated; asked with {', '.join(prompts) or 'no prompt'}"


def wilson_interval(rate: float, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953).

    Raises:
        ValueError: no trials, or a rate outside 0 to 1.
    """
    if trials < 1 or not 0 <= rate <= 1:
        raise ValueError(f"a rate from 0 to 1 of at least one trial is needed, not {rate} of {trials}")
    spread = _Z95**2 / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of `k` samples is right, from `samples` drawn of which `correct` were right:
    `1 - C(n - c, k) / C(n, k)` (Chen et al. 2021, https://arxiv.org/abs/2107.03374, section 2.1).

    Raises:
        ValueError: not `1 <= k <= samples`, or not `0 <= correct <= samples`.
    """
    if not (1 <= k <= samples and 0 <= correct <= samples):
        raise ValueError(f"pass@{k} is not defined for {correct} correct of {samples} samples")
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def _accuracy(rows: list[Row]) -> Accuracy:
    """Problems weigh the same, whatever their number of attempts; the interval is over problems."""
    problems: Mapping[str, list[bool]] = defaultdict(list)
    for row in rows:
        problems[row["parent_id"]].append(bool(row["correct"]))
    correct = sum(map(sum, problems.values()))
    if not problems:
        return Accuracy(0, 0, 0, None, None, None)
    rate = sum(pass_at_k(len(attempts), sum(attempts), 1) for attempts in problems.values()) / len(problems)
    return Accuracy(len(problems), len(rows), correct, rate, *wilson_interval(min(1.0, rate), len(problems)))


def _grouped(rows: list[Row], column: str) -> dict[str, Accuracy]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups["unknown" if row[column] is None else str(row[column])].append(row)
    return {name: _accuracy(groups[name]) for name in sorted(groups)}
