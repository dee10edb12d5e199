"""Find the row that kills its worker, and let the others go on.

A worker (a Ray worker process, an engine, a sandbox actor) may die of a row, or for reasons of its own. The first death proves nothing:
the shard is tried again, this time alone in its worker. When it dies again the shard is cut in parts, each run alone; a part that kills
is cut again, down to single rows. A row that killed its worker `quarantine.after_kills` times while it was alone in it is given up: it
gets `infra_error` and takes no further part. Parts that went well are kept on disk, so that no death costs more than one part.

An operator that raises something which is not one of our own errors is treated alike, without the death. What the user can mend
(`UserError`) and a broken contract stop the stage instead. Failures that an operator reports row by row are tried again here.

An operator may have `complete(table)`, for what it takes all rows of a shard to say: it gets the shard when its rows are through, however
they were run and however often, and is never run on parts.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from caco_ray.attempts import Attempt, Span
from caco_ray.config import QuarantineConfig
from caco_ray.errors import EngineError, SandboxUnavailableError, StageContractError, UserError
from caco_ray.schema import to_table

TableFunction = Callable[[pa.Table], pa.Table]
Beat = Callable[[str | None], None]  # what killed a worker; None: some rows went well

_PARTS = 16  # that a group of rows is cut into
_WHOLE_KILLS = 2  # of a whole shard before it is cut
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


class Guard:
    """Runs one operator over shards. `attempt` begins one at a shard."""

    def __init__(self, operator: str, attempt: Callable[[int], Attempt], config: QuarantineConfig, beat: Beat) -> None:
        self._operator, self._attempt, self._config, self._beat = operator, attempt, config, beat
        self._turn = Turn()

    def run(self, function: TableFunction, table: pa.Table, shard: int) -> pa.Table:
        """`function(table)`, with `infra_error` in the rows that it cannot get through.

        Raises:
            UserError: from the operator.
            StageContractError: the operator returned other rows or columns than it was given.
        """
        complete = getattr(function, "complete", None)
        result = self._rows(function, table, shard) if _live_rows(table) else table
        return result if complete is None else self._checked(complete, result)

    def _rows(self, function: TableFunction, table: pa.Table, shard: int) -> pa.Table:
        attempt = self._attempt(shard)
        if attempt.follows is not None:
            self._beat(attempt.follows)
        whole = (0, table.num_rows)
        if not attempt.suspect:
            with contextlib.suppress(_RowsFailedError), self._turn.shared():
                return self._through(attempt, self._try(function, table, attempt, whole))
        with self._turn.alone():
            return self._through(attempt, self._isolate(function, table, attempt, whole))

    def _through(self, attempt: Attempt, result: pa.Table) -> pa.Table:
        attempt.finish()
        return result

    def _isolate(self, function: TableFunction, table: pa.Table, attempt: Attempt, span: Span) -> pa.Table:
        """The rows of `span`, run alone, in parts where they killed before."""
        part = table.slice(span[0], span[1] - span[0])
        if not _live_rows(part):
            return part
        while attempt.kills(span) < self._limit(span, table):
            kept = attempt.kept(span, part)
            if kept is not None:
                return kept
            with contextlib.suppress(_RowsFailedError):
                result = self._try(function, part, attempt, span)
                attempt.keep(span, part, result)
                self._beat(None)
                return result
        if span[1] - span[0] == 1:
            return _give_up(part, f"{self._operator}: failed {attempt.kills(span)} times, alone: {attempt.said(span)}")
        return pa.concat_tables([self._isolate(function, table, attempt, inner) for inner in _cut(span)])

    def _limit(self, span: Span, table: pa.Table) -> int:
        if span[1] - span[0] == 1:
            return self._config.after_kills
        return _WHOLE_KILLS if span == (0, table.num_rows) else 1

    def _try(self, function: TableFunction, part: pa.Table, attempt: Attempt, span: Span) -> pa.Table:
        attempt.begin(span)
        try:
            result = self._checked(function, part)
            for _ in range(self._config.row_retries):
                result = self._again(function, part, result)
        except (UserError, StageContractError):
            attempt.end()
            raise
        except (EngineError, SandboxUnavailableError) as error:
            _end_process(attempt, error)
        except Exception as error:  # whatever a row does to an operator, the other rows go on
            attempt.fail(span, f"{type(error).__name__}: {error}"[:_MAX_MESSAGE])
            raise _RowsFailedError from error
        attempt.end()
        return result

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
    attempt.last_words(" ".join(str(error).split())[:_MAX_MESSAGE])
    os._exit(1)


def _live_rows(table: pa.Table) -> bool:
    return bool(pc.any(pc.and_(pc.is_null(table["reject_reason"]), pc.is_null(table["infra_error"]))).as_py())


def _give_up(part: pa.Table, why: str) -> pa.Table:
    (row,) = part.to_pylist()
    return to_table([{**row, "infra_error": why[:_MAX_MESSAGE]}], part.schema)


def _cut(span: Span) -> list[Span]:
    step = -(-(span[1] - span[0]) // _PARTS)
    return [(first, min(first + step, span[1])) for first in range(span[0], span[1], step)]
