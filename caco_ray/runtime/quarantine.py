"""Find the row that kills its worker, and let the others go on.

A worker (a Ray worker process, an engine, a sandbox actor) may die of a row, or for reasons of its own. The first death proves nothing:
the shard is tried again, with few others that were in the worker with it where that held many, then alone. When it dies again the shard
is cut in parts, each run alone; a part that kills is cut again, down to single rows. A row that killed its worker
`quarantine.after_kills` times while it was alone in it is given up: it gets `infra_error` and takes no further part. Parts that went well
are kept on disk, so that no death costs more than one part. A death of the driver or of the machine is one like the others: a row that
causes it is found over as many restarts.

An operator that raises something which is not one of our own errors is treated alike, without the death. What the user can mend
(`UserError`) and a broken contract stop the stage instead. Failures that an operator reports row by row are tried again here.

An outage is no row's fault. An engine that cannot be reached is waited for. Before a row is given up, one that went through is run once
more: when that fails too, or when none of many rows goes through (for half a minute, where the operator reports them one by one), the stage
stops, and the driver forgets what was counted (`streaming.py`). Only where a shard has very few live rows does it suffice that the operator
let any other row through before.

An operator may have `needs(table)`, which rows it works on: the others say nothing about it. It may have `complete(table)`, for what it
takes all rows of a shard to say: it gets the shard when its rows are through, however they were run and however often, and is never run
on parts.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from caco_ray.config import QuarantineConfig
from caco_ray.errors import EngineError, EngineUnreachableError, InfraErrorsError, SandboxUnavailableError, StageContractError, UserError
from caco_ray.runtime.attempts import Attempt, Span
from caco_ray.schema import to_table

TableFunction = Callable[[pa.Table], pa.Table]
Beat = Callable[[str | None, str], None]  # what killed a worker, and which one; None: some rows went well

_PARTS = 16  # that a group of rows is cut into
_WHOLE_KILLS = 2  # of a whole shard before it is cut
_MANY = 4  # live rows of a shard: that all of so many are at fault is no chance
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0  # for an engine that cannot be reached
_MAX_MESSAGE = 400


class Turn:
    """Shards share a worker, except those that are suspected: they wait for it to be empty and keep it to themselves."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = self._waiting = 0
        self._taken = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken and not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._taken and not self._inside)
            self._waiting -= 1
            self._taken = True
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()


class _RowsFailedError(Exception):
    """The operator raised on these rows; it is in the attempt's record."""


class _NoneThroughError(Exception):
    """The operator failed on every one of many rows, and said so row by row."""


class Guard:
    """Runs one operator over shards. `attempt` begins one at a shard; `passed` says whether any row got through the operator so far;
    `wait` is told what it waits for. `company`: of the shards whose worker died when it held many, how many are in it at once
    from then on. One more death leaves no more than these to be run alone."""

    def __init__(
        self,
        operator: str,
        attempt: Callable[[int], Attempt],
        config: QuarantineConfig,
        beat: Beat,
        passed: Callable[[], bool],
        wait: Callable[[str], object],
        company: int = 1,
    ) -> None:
        self._operator, self._attempt, self._config, self._beat, self._passed = operator, attempt, config, beat, passed
        self._wait = wait
        self._turn = Turn()
        self._company = threading.BoundedSemaphore(company)

    def run(self, function: TableFunction, table: pa.Table, shard: int) -> pa.Table:
        """`function(table)`, with `infra_error` in the rows that it cannot get through.

        Raises:
            UserError: from the operator.
            InfraErrorsError: it fails whatever the rows are.
            StageContractError: the operator returned other rows or columns than it was given.
        """
        complete = getattr(function, "complete", None)
        result = self._rows(function, table, shard) if _has_live(table) else table
        return result if complete is None else self._checked(complete, result)

    def _rows(self, function: TableFunction, table: pa.Table, shard: int) -> pa.Table:
        attempt = self._attempt(shard)
        if attempt.follows is not None:
            self._beat(attempt.follows, attempt.dead)
        whole = (0, table.num_rows)
        if not attempt.suspect:
            company = self._company if attempt.lost else contextlib.nullcontext()
            with contextlib.suppress(_RowsFailedError), company, self._turn.shared():
                return self._through(attempt, self._try(function, table, attempt, whole))
        with self._turn.alone():
            return self._through(attempt, self._isolate(function, table, attempt))

    def _through(self, attempt: Attempt, result: pa.Table) -> pa.Table:
        attempt.finish()
        return result

    def _isolate(self, function: TableFunction, table: pa.Table, attempt: Attempt) -> pa.Table:
        """The rows run alone, in parts where they killed before. All parts of one size come first: those that are well show it early."""
        done: dict[Span, pa.Table] = {}
        accused: list[Span] = []
        spans, failed = deque([(0, table.num_rows)]), 0
        while spans:
            span = spans.popleft()
            result = self._part(function, table, attempt, span)
            if result is not None:
                done[span] = result
                continue
            failed += 1
            if failed > _PARTS and not _healthy(function, table, done):
                self._blame_no_row(attempt.said(span))
            if span[1] - span[0] == 1:
                accused.append(span)
            else:
                spans.extend(_cut(span))
        if accused:
            self._check(function, table, attempt, done, attempt.said(accused[-1]))
        for span in accused:
            why = f"{self._operator}: failed {attempt.kills(span)} times, alone: {attempt.said(span)}"
            done[span] = _give_up(_slice(table, span), why)
        return pa.concat_tables([done[span] for span in sorted(done)])

    def _part(self, function: TableFunction, table: pa.Table, attempt: Attempt, span: Span) -> pa.Table | None:
        """What comes out of these rows; None where they failed as often as they may."""
        part = _slice(table, span)
        if not _has_live(part):
            return part
        result = attempt.kept(span, part)
        while result is None and attempt.kills(span) < self._limit(span, table):
            with contextlib.suppress(_RowsFailedError):
                result = self._try(function, part, attempt, span)
                attempt.keep(span, part, result)
        return result

    def _limit(self, span: Span, table: pa.Table) -> int:
        if span[1] - span[0] == 1:
            return self._config.after_kills
        return _WHOLE_KILLS if span == (0, table.num_rows) else 1

    def _check(self, function: TableFunction, table: pa.Table, attempt: Attempt, done: dict[Span, pa.Table], said: str) -> None:
        """Before rows are given up: does one that went through still do so, or does the operator fail by now whatever it gets?"""
        healthy = _healthy(function, table, done)
        for _ in range(self._config.after_kills if healthy else 0):
            row = min(healthy, key=attempt.kills)
            part = _slice(table, row)
            try:
                result = self._try(function, part, attempt, row)
            except _RowsFailedError:
                said = attempt.said(row)
                continue
            if any(_got_through(function, part, result)):
                return
            said = result["infra_error"][0].as_py()
        few = sum(_is_live(table)) < _MANY and self._passed()
        if healthy or not few:
            self._blame_no_row(said, always=bool(healthy))

    def _blame_no_row(self, said: str, always: bool = False) -> None:
        if always or self._config.max_infra_error_fraction < 1:
            raise InfraErrorsError(
                f"{self._operator} fails on all rows by now, the last time with: {said}. No row is blamed for it: "
                "mend it and run the same command again (or give up such rows with quarantine.max_infra_error_fraction=1)"
            )

    def _try(self, function: TableFunction, part: pa.Table, attempt: Attempt, span: Span) -> pa.Table:
        try:
            result = self._patiently(function, part, attempt, span)
        except (UserError, StageContractError):
            attempt.end()
            raise
        except (EngineError, SandboxUnavailableError) as error:
            _end_process(attempt, error)
        except Exception as error:  # whatever a row does to an operator, the other rows go on
            attempt.fail(span, f"{type(error).__name__}: {error}"[:_MAX_MESSAGE])
            raise _RowsFailedError from error
        attempt.end()
        if any(_got_through(function, part, result)):
            self._beat(None, "")
        return result

    def _patiently(self, function: TableFunction, part: pa.Table, attempt: Attempt, span: Span) -> pa.Table:
        """Waits for an engine that cannot be reached; if that takes too long, the watchdog ends the stage."""
        wait_s = _FIRST_WAIT_S
        while True:
            attempt.begin(span)
            try:
                result = self._checked(function, part)
                for _ in range(self._config.row_retries):
                    result = self._again(function, part, result)
                self._still_serves(function, part, result)
                return result
            except (EngineUnreachableError, _NoneThroughError) as error:
                attempt.wait(_one_line(error))
                self._wait(_one_line(error))
                if isinstance(error, _NoneThroughError) and wait_s >= _LONGEST_WAIT_S:
                    self._blame_no_row(_one_line(error))
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _still_serves(self, function: TableFunction, part: pa.Table, result: pa.Table) -> None:
        """Rows failed one by one: is it they, or the operator? One that got through before them is run again.

        Raises:
            EngineUnreachableError: that one fails by now as well.
            _NoneThroughError: none of many rows got through.
        """
        said = result["infra_error"].filter(_is_live(part)).drop_null()
        through = _got_through(function, part, result)
        if any(through) and len(said):
            again = self._checked(function, part.slice(through.index(True), 1))["infra_error"][0].as_py()
            if again is not None:
                raise EngineUnreachableError(again)
        elif len(said) >= _MANY and self._config.max_infra_error_fraction < 1:
            raise _NoneThroughError(said[0].as_py())

    def _checked(self, function: TableFunction, part: pa.Table) -> pa.Table:
        result = function(part)
        if result.schema != part.schema or not result["row_id"].equals(part["row_id"]):
            raise StageContractError(f"operator {self._operator!r} returned other rows or columns than it was given")
        return result

    def _again(self, function: TableFunction, given: pa.Table, result: pa.Table) -> pa.Table:
        """The same with the rows that came out with `infra_error` tried once more."""
        failed = pc.and_(pc.is_valid(result["infra_error"]), pc.is_null(given["infra_error"]))
        if not pc.any(failed).as_py():
            return result
        places = pc.indices_nonzero(failed).to_pylist()
        rows = result.to_pylist()
        for place, row in zip(places, self._checked(function, given.take(places)).to_pylist(), strict=True):
            rows[place] = row
        return to_table(rows, result.schema)


def _end_process(attempt: Attempt, error: Exception) -> NoReturn:
    """The engine or sandbox is dead and all shards in this process with it: Ray starts another one and gives them to it."""
    attempt.last_words(_one_line(error))
    os._exit(1)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_MESSAGE]


def _slice(table: pa.Table, span: Span) -> pa.Table:
    return table.slice(span[0], span[1] - span[0])


def _is_live(table: pa.Table) -> list[bool]:
    live: list[bool] = pc.and_(pc.is_null(table["reject_reason"]), pc.is_null(table["infra_error"])).to_pylist()
    return live


def _has_live(table: pa.Table) -> bool:
    return any(_is_live(table))


def _got_through(function: TableFunction, given: pa.Table, result: pa.Table) -> list[bool]:
    """Of each row, whether the operator did its work on it. One that has `needs(table)` passes the other rows on as they are."""
    needs = getattr(function, "needs", _is_live)
    failed = pc.is_valid(result["infra_error"]).to_pylist()
    return [needed and not lost for needed, lost in zip(needs(given), failed, strict=True)]


def _healthy(function: TableFunction, table: pa.Table, done: dict[Span, pa.Table]) -> list[Span]:
    """Rows that got through, each as a span."""
    rows: list[int] = []
    for span, result in done.items():
        well = _got_through(function, _slice(table, span), result)
        rows += [span[0] + place for place, through in enumerate(well) if through]
    return [(row, row + 1) for row in rows]


def _give_up(part: pa.Table, why: str) -> pa.Table:
    (row,) = part.to_pylist()
    return to_table([{**row, "infra_error": why[:_MAX_MESSAGE]}], part.schema)


def _cut(span: Span) -> list[Span]:
    step = -(-(span[1] - span[0]) // _PARTS)
    return [(first, min(first + step, span[1])) for first in range(span[0], span[1], step)]
