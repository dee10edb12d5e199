"""Several solutions of one problem: how many agree with the program, and which answer most of them give.

`solve_samples`     solutions that were drawn; those that the machinery failed do not count, those that were cut short do
`solve_pass_rate`   the share of them that agreed; of solutions that are the same text each counts, though only the first is kept
`solve_majority`    the answer that most of them end with; of two with as many, the one that was given first

The same for all rows of a problem, and null where no solution could be drawn. A problem's rows are in one shard; it takes all of them.
"""

from collections.abc import Callable

from caco_ray.errors import StageContractError
from caco_ray.schema import Row, live, reject

SKIPPED = "solved_already"
UNDRAWN = frozenset({SKIPPED, "duplicate_question"})  # nothing was asked for these rows
Same = Callable[[str, str], bool]


def problems(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows of each problem, in order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["parent_id"], []).append(row)
    return groups


def record_votes(rows: list[Row], samples: int, same: Same) -> None:
    """Fill the columns in place. `samples`: rows that each problem has; `same`: do two written answers say the same?"""
    for problem, group in problems(rows).items():
        if len(group) != samples:
            raise StageContractError(f"{len(group)} of {samples} solutions of {problem} are in the shard: they are counted together")
        drawn = [row for row in group if row["infra_error"] is None and row["reject_reason"] not in UNDRAWN]
        if not drawn:
            continue
        kept = sum(row["reject_reason"] is None for row in drawn)
        majority = _majority([row["language_answer"] for row in drawn if row["language_answer"] is not None], same)
        for row in group:
            row.update(solve_samples=len(drawn), solve_pass_rate=kept / len(drawn), solve_majority=majority)


def reject_repeats(rows: list[Row]) -> None:
    """Of solutions of a problem that are the same text the first stays, and the others name it. In place."""
    for group in problems(rows).values():
        first: dict[str, str] = {}
        for row in live(group):
            earlier = first.setdefault(row["solution"].strip(), row["row_id"])
            if earlier != row["row_id"]:
                row["duplicate_of"] = earlier
                reject(row, "duplicate_solution")


def _majority(answers: list[str], same: Same) -> str | None:
    counts: dict[str, int] = {}
    for answer in answers:
        first = next((known for known in counts if known == answer or same(answer, known)), answer)
        counts[first] = counts.get(first, 0) + 1
    return max(counts, key=lambda answer: counts[answer], default=None)
