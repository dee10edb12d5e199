"""Answers compared: a solution's with what its program computed, a program's with the known one, a student's with the gold one.

A question that the algebra system could not settle quarantines its row (`infra_error`): it is never recorded as a wrong answer. The
rules of agreement are in `grading.equality`. The operators own a child process (`grading.Algebra`): call `close()`.
"""

import pyarrow as pa

from caco_ray.errors import StageContractError
from caco_ray.grading import Algebra, ExecutedAnswer, Verdict, answers_agree, answers_equal, final_answer, stated_answers
from caco_ray.schema import Row, live, reject, to_table
from caco_ray.stages.vote import record_votes, reject_repeats

UNDECIDED = "grading: the algebra system gave no verdict on {answer!r} within its limits, twice"


class _Grading:
    """Applies `_grade` to the live rows of a table; same rows, order and columns out."""

    def __init__(self, cpu_s: int = 5) -> None:
        """`cpu_s`: CPU seconds for one question to the algebra system."""
        self._algebra = Algebra(cpu_s)

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        for row in live(rows):
            self._grade(row)
        return to_table(rows, table.schema)

    def close(self) -> None:
        self._algebra.close()

    def _grade(self, row: Row) -> None:
        raise NotImplementedError


class Agreement(_Grading):
    """Solutions: fills `language_answer` from `solution`; it must agree with the executed answer.

    Every final answer that the solution states must agree, not only the last: a solution that says 5 and then 7 proves neither.
    Reasons: `no_final_answer`, `answer_disagrees`. `complete` counts the solutions of one problem together and rejects those that are the
    same text as another (`vote`): `duplicate_solution`.
    """

    def __init__(self, cpu_s: int = 5, samples: int | None = None) -> None:
        """`samples`: solutions of each problem; None = they are not counted."""
        super().__init__(cpu_s)
        self._samples = samples

    def complete(self, table: pa.Table) -> pa.Table:
        """Fill the columns of `vote`: all rows of a shard, graded."""
        if self._samples is None:
            return table
        rows = table.to_pylist()
        record_votes(rows, self._samples, lambda one, other: answers_equal(one, other, self._algebra) is Verdict.AGREE)
        reject_repeats(rows)
        return to_table(rows, table.schema)

    def _grade(self, row: Row) -> None:
        stated = stated_answers(row["solution"] or "")
        if not stated:
            return reject(row, "no_final_answer")
        row["language_answer"] = stated[-1]
        executed = _executed(row)
        for answer in dict.fromkeys(stated):
            _settle(row, answer, answers_agree(answer, executed, self._algebra), "answer_disagrees")
        return None


class MatchKnownAnswer(_Grading):
    """Seeds: the program's output must agree with the known `answer`, by the rules for a written answer. Reason: `answer_mismatch`."""

    def _grade(self, row: Row) -> None:
        if row["answer"] is None:
            raise StageContractError(f"row {row['row_id']} has no known answer to compare with")
        known = final_answer(row["answer"]) or row["answer"]
        _settle(row, known, answers_agree(known, _executed(row), self._algebra), "answer_mismatch")


class Grade(_Grading):
    """Evaluation: fills `language_answer` and `correct` by comparing with the gold `answer`. A wrong attempt is kept, not rejected."""

    def _grade(self, row: Row) -> None:
        row["language_answer"] = final_answer(row["solution"] or "")
        row["correct"] = False
        if row["language_answer"] is not None:
            gold = final_answer(row["answer"]) or row["answer"]
            verdict = answers_equal(row["language_answer"], gold, self._algebra)
            row["correct"] = verdict is Verdict.AGREE
            if verdict is Verdict.UNDECIDED:
                row["correct"] = None
                row["infra_error"] = UNDECIDED.format(answer=row["language_answer"][:200])


def _executed(row: Row) -> ExecutedAnswer:
    if row["output_json"] is None:
        raise StageContractError(f"row {row['row_id']} is live but has no output_json: its program must have been executed")
    return ExecutedAnswer.from_json(row["output_json"], row["code"])


def _settle(row: Row, answer: str, verdict: Verdict, reason: str) -> None:
    """A disagreement found is final; an open question quarantines the row unless something else already rejected it."""
    if verdict is Verdict.DISAGREE:
        row["infra_error"] = None
        reject(row, reason)
    elif verdict is Verdict.UNDECIDED and row["reject_reason"] is None:
        row["infra_error"] = UNDECIDED.format(answer=answer[:200])
