"""Draw the solutions of a problem one after the other, and no more once one has agreed.

Solving costs most (the paper spends 73% of its time there), and a problem whose first answer agrees seldom needs a second.
Samples that are not drawn are rejected as `solved_already`: the counts add up, and pass rates are over those that were drawn. All
problems of a shard take their turn together, so that a shard asks for one sample of each at most, and for fewer in each later turn; how
many shards an engine works on is reckoned from the first (`operators.solvers`).
"""

from collections.abc import Callable

import pyarrow as pa

from caco_ray.schema import Row, is_live, live, reject, to_table
from caco_ray.stages.agreement import Agreement
from caco_ray.stages.generate import Generate
from caco_ray.stages.vote import SKIPPED, problems


class SolveInTurn:
    """Owns an engine and a grader. Same rows, order and columns out."""

    def __init__(self, make_solver: Callable[[], Generate], make_agreement: Callable[[], Agreement]) -> None:
        self._solver, self._agreement = make_solver(), make_agreement()
        self.stats = self._solver.stats

    def __call__(self, table: pa.Table) -> pa.Table:
        rows, solved = table.to_pylist(), set[str]()
        groups = list(problems(rows).values())
        for turn in range(max(map(len, groups), default=0)):
            asked = [group[turn] for group in groups if turn < len(group)]
            for row in live(asked):
                if row["parent_id"] in solved:
                    reject(row, SKIPPED)
            self._ask(asked, table.schema)
            solved |= {row["parent_id"] for row in asked if is_live(row)}
        return to_table(rows, table.schema)

    def complete(self, table: pa.Table) -> pa.Table:
        return self._agreement.complete(table)

    def close(self) -> None:
        self._solver.close()
        self._agreement.close()

    def _ask(self, rows: list[Row], schema: pa.Schema) -> None:
        """Fill the rows in place."""
        if any(map(is_live, rows)):
            for row, answered in zip(rows, self._agreement(self._solver(to_table(rows, schema))).to_pylist(), strict=True):
                row.update(answered)
