"""Run one stage: a Ray Data plan `admit -> read shard -> operator -> ... -> commit`, over the shards that are not committed yet.

This module is the only caller of `map_batches`. A row of the plan is a whole shard (`plan_row.py`): a slow row delays only its shard, and
operators overlap because shards stream from pool to pool. The plan starts from a generator of shard numbers, which the driver lets go on
as shards are committed (`gate.py`): what is in flight, in memory and at risk does not grow with the number of shards.

A row that kills its worker is found and given up (`quarantine.py`); a stage in which nothing moves is stopped (`watchdog.py`).
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import ActorDiedError, ActorUnschedulableError, NodeDiedError, ObjectLostError, RayError, WorkerCrashedError

from caco_ray.attempts import ATTEMPTS, forgive, records
from caco_ray.cluster import check_room
from caco_ray.config import QuarantineConfig, WatchdogConfig
from caco_ray.errors import CacoError, ClusterError, EngineError, InfraErrorsError, StageContractError, StageStalledError, StorageError
from caco_ray.gate import Limits, Pulse, start_gate
from caco_ray.plan_row import Travelling, describe, error_of, pack, pack_error, revive, unpack
from caco_ray.quarantine import Guard, TableFunction
from caco_ray.source import Source
from caco_ray.store import DatasetWriter, ShardEntry, StageInfo, Totals
from caco_ray.store.dataset import is_closed
from caco_ray.store.folder import Folder
from caco_ray.watchdog import Watchdog

# Reading, filtering and committing shards takes little: these tasks claim no core, so that pools of actors which hold every core of a
# small machine cannot starve them. Their number is bounded instead.
_TASKS = 4
_RELEASE_TIMEOUT_S = 60.0
_TICK_S = 1.0
_MAX_KILLS_IN_A_ROW = 30  # of one operator, while no row gets through it: it is not the rows
_TRIES = 3  # at what a file system refuses, and at starting an engine

Result = TypeVar("Result")


@dataclass(frozen=True)
class Operator:
    """One step of a plan and what it needs.

    `make` returns the table function. With `actors` it is called once in each of that many long-lived actors, each holding `cpus`,
    `gpus` and `memory_mb`, and the object may have `close()`; without, in every task. `calls` shards are worked on at once in an actor,
    from threads. Rows must not depend on each other: a shard may be run in parts.
    """

    name: str
    make: Callable[[], TableFunction]
    cpus: float = 0
    gpus: float = 0
    memory_mb: int = 0
    actors: int = 0
    calls: int = 1


@dataclass(frozen=True)
class Stage:
    """A committed dataset and the plan that makes it."""

    info: StageInfo
    folder: Folder
    source: Source
    operators: tuple[Operator, ...]
    schema: pa.Schema
    quarantine: QuarantineConfig = field(default_factory=QuarantineConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)

    @property
    def attempts(self) -> Folder:
        return self.folder / ATTEMPTS

    @property
    def max_infra_errors(self) -> int:
        """Rows that may end with `infra_error`."""
        return int(self.quarantine.max_infra_error_fraction * self.source.expected_rows)


def run_stage(stage: Stage, on_shard: Callable[[ShardEntry], None]) -> Totals:
    """Run what is left of a stage and close it. `on_shard` is called in the driver for each shard as it is committed.

    Raises:
        InfraErrorsError: the machinery failed on too many rows.
        StageStalledError: nothing moved for `watchdog.timeout_s`.
        CacoError: what the operators raised; committed shards stay and the same call resumes.
    """
    started = time.monotonic()
    writer = DatasetWriter(stage.folder, stage.info, stage.schema)
    done = writer.open()
    for entry in done.values():
        on_shard(entry)
    pending = [shard for shard in range(stage.info.shards) if shard not in done]
    if pending and not is_closed(stage.folder):
        errors = sum(entry.totals.quarantined for entry in done.values())
        for entry in _Streaming(stage, writer, pending, errors).run():
            on_shard(entry)
    return writer.close(time.monotonic() - started)


class _Streaming:
    """One execution of a stage's plan, seen from the driver."""

    def __init__(self, stage: Stage, writer: DatasetWriter, pending: list[int], errors_before: int) -> None:
        check_room(stage.info.stage, {op.name: (op.cpus * op.actors, float(op.gpus * op.actors)) for op in stage.operators})
        self._stage, self._pending = stage, pending
        self._free_before = _free_resources()
        allowed = stage.max_infra_errors - errors_before
        if allowed < 0:
            raise InfraErrorsError(_too_many(stage, errors_before, "in shards that are committed already"))
        self._gate = start_gate(Limits(_shards_in_flight(stage), allowed))
        self._watchdog = Watchdog(stage.watchdog.timeout_s)
        self._plan = _build(stage, writer, pending, self._gate, self._watchdog)
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._asked: ray.ObjectRef | None = None
        self._beats = self._done = self._errors = 0

    def run(self) -> Iterator[ShardEntry]:
        threading.Thread(target=self._consume, daemon=True).start()
        try:
            while (result := self._next()) is not None:
                yield result
        except StageStalledError:
            self._watchdog.stop()
            raise
        except (CacoError, KeyboardInterrupt, GeneratorExit):
            self._watchdog.stop()
            forgive(self._stage.attempts)
            raise
        finally:
            ray.kill(self._gate)
        _wait_for_release(self._free_before)

    def _consume(self) -> None:
        """On a thread of its own: this waits inside Ray, where nobody can wake it."""
        try:
            for batch in self._plan.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in batch.to_pylist():
                    self._results.put(row)
            self._results.put(None)
        except Exception as error:  # handed to the driver's thread, which raises it
            self._results.put(error)

    def _next(self) -> ShardEntry | None:
        while True:
            try:
                result = self._results.get(timeout=_TICK_S)
            except queue.Empty:
                self._tick()
                continue
            if result is None:
                return None
            if isinstance(result, Exception):
                raise _lost(result) from result
            if result["error"] is not None:
                raise revive(result["error"])
            self._watchdog.feed()
            entry = ShardEntry.from_json(result["entry"])
            self._done, self._errors = self._done + 1, self._errors + entry.totals.quarantined
            self._tell()
            return entry

    def _tick(self) -> None:
        pulse = self._tell()
        if pulse is not None:
            for operator, kills in pulse.kills.items():
                if kills >= _MAX_KILLS_IN_A_ROW:
                    raise self._stalled(f"{operator} died {kills} times in a row and got no row through: {pulse.said[operator]}")
            if pulse.beats != self._beats:
                self._beats = pulse.beats
                self._watchdog.feed()
        if self._watchdog.hungry:
            raise self._stalled(f"nothing moved for {self._watchdog.quiet_s:.0f} s (watchdog.timeout_s)")

    def _tell(self) -> Pulse | None:
        """Tell the gate where we are, and take its last answer if there is one: it may be dead, and is then started again."""
        pulse: Pulse | None = None
        if self._asked is not None:
            ready, _ = ray.wait([self._asked], timeout=0)
            if not ready:
                return None
            try:
                pulse = ray.get(self._asked)
            except RayError:
                pulse = None
        self._asked = self._gate.tell.remote(self._done, self._errors)
        return pulse

    def _stalled(self, why: str) -> StageStalledError:
        stage = self._stage
        needs = {operator.name: {"CPU": operator.cpus, "GPU": operator.gpus, "MiB": operator.memory_mb} for operator in stage.operators}
        lines = self._watchdog.report(needs, records(stage.attempts))
        stands = f"{self._done} of {len(self._pending)} shards were committed and stay; the same command goes on from there"
        return StageStalledError("\n".join([f"{stage.info.stage}: {why}; stopped. {stands}.", *lines]))


def _build(stage: Stage, writer: DatasetWriter, pending: list[int], gate: ray.actor.ActorHandle, watchdog: Watchdog) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = 1  # bytes: each row leaves as a block of its own, at once
    context.custom_execution_callback_classes = [watchdog]
    tasks = min(_TASKS, len(pending))
    with ray.data.DataContext.current(context):
        plan = ray.data.from_arrow(pa.table({"shards": [pending]}))
        plan = plan.map_batches(_named("admit", partial(_admit, gate=gate)), batch_size=None, batch_format="pyarrow", num_cpus=0)
        plan = _append_task(plan, _named("read", partial(_read, source=stage.source)), tasks)
        for operator in stage.operators:
            plan = _append(plan, operator, stage, gate, tasks)
        return _append_task(plan, _named("commit", partial(_commit, writer=writer, stage=stage, gate=gate)), tasks)


def _shards_in_flight(stage: Stage) -> int:
    """Enough that every actor works and has the next shard at hand."""
    return _TASKS + sum(operator.actors * (operator.calls + 1) for operator in stage.operators)


def _append(plan: ray.data.Dataset, operator: Operator, stage: Stage, gate: ray.actor.ActorHandle, tasks: int) -> ray.data.Dataset:
    if not operator.actors:
        return _append_task(plan, _named(operator.name, partial(_apply_task, operator=operator, stage=stage, gate=gate)), tasks)
    pool = ray.data.ActorPoolStrategy(
        size=operator.actors,
        max_concurrent_calls_per_actor=operator.calls,
        max_tasks_in_flight_per_actor=operator.calls + 1,
        enable_true_multi_threading=True,
    )
    return plan.map_batches(
        type(operator.name, (_ApplyActor,), {}),
        fn_constructor_args=(operator, stage, gate),
        compute=pool,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=operator.cpus,
        num_gpus=operator.gpus or None,
        memory=operator.memory_mb * 1024 * 1024 or None,
    )


def _append_task(plan: ray.data.Dataset, function: TableFunction, tasks: int) -> ray.data.Dataset:
    return plan.map_batches(function, compute=ray.data.TaskPoolStrategy(size=tasks), batch_size=1, batch_format="pyarrow", num_cpus=0)


def _named(name: str, function: partial[Any]) -> Callable[[pa.Table], Any]:
    """Ray Data shows a function by its name."""

    def call(batch: pa.Table) -> Any:
        return function(batch)

    call.__name__ = name
    return call


class _ApplyActor:
    """One operator's actor: makes the resource once, closes it when the pool drains.

    A resource that cannot be made fails the first call, not the constructor: Ray would start such an actor again and again.
    """

    def __init__(self, operator: Operator, stage: Stage, gate: ray.actor.ActorHandle) -> None:
        self._guard = _guard(operator, stage, gate)
        self._function: TableFunction | None = None
        self._failure: CacoError | None = None
        try:
            self._function = _made(operator)
        except CacoError as error:
            self._failure = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _apply(batch, self._run)

    def _run(self, given: Travelling) -> pa.Table:
        if self._function is None:
            raise self._failure or StageContractError("an operator made nothing")
        return self._guard.run(self._function, given.table, given.shard)

    def __del__(self) -> None:
        close = getattr(self._function, "close", None)
        if close is not None:
            close()


def _apply_task(batch: pa.Table, operator: Operator, stage: Stage, gate: ray.actor.ActorHandle) -> pa.Table:
    return _apply(batch, lambda given: _guard(operator, stage, gate).run(operator.make(), given.table, given.shard))


def _made(operator: Operator) -> TableFunction:
    for attempt in range(1, _TRIES):
        try:
            return operator.make()
        except EngineError:
            time.sleep(attempt)
    return operator.make()


def _guard(operator: Operator, stage: Stage, gate: ray.actor.ActorHandle) -> Guard:
    return Guard(operator.name, stage.attempts, stage.quarantine, lambda name, killed: gate.beat.remote(name, killed))


def _admit(batch: pa.Table, gate: ray.actor.ActorHandle) -> Iterator[pa.Table]:
    """The numbers of the pending shards, each when there is room for it. Run again from the start it gives the same ones."""
    allowed = 0
    for index, shard in enumerate(batch["shards"][0].as_py()):
        if index >= allowed:
            allowed = ray.get(gate.admitted.remote(index))
        yield pa.table({"shard": [shard]})


def _read(batch: pa.Table, source: Source) -> pa.Table:
    shard, started = batch["shard"][0].as_py(), time.time()
    try:
        given = _persistently(lambda: source.read(shard))
    except CacoError as error:
        return pack_error(shard, error)
    return pack(Travelling(shard, given.rows_in, started, given.table))


def _apply(batch: pa.Table, run: Callable[[Travelling], pa.Table]) -> pa.Table:
    if error_of(batch) is not None:
        return batch
    given = unpack(batch)
    try:
        return pack(replace(given, table=run(given)))
    except CacoError as error:
        return pack_error(given.shard, error)


def _commit(batch: pa.Table, writer: DatasetWriter, stage: Stage, gate: ray.actor.ActorHandle) -> pa.Table:
    error, entry = error_of(batch), None
    if error is None:
        given = unpack(batch)
        try:
            _check_errors(given, stage, gate)
            seconds = time.time() - given.started
            entry = _persistently(lambda: writer.commit(given.shard, given.table, given.rows_in, seconds)).to_json().decode()
        except CacoError as failure:
            error = describe(failure)
    return pa.table({"entry": pa.array([entry], pa.string()), "error": pa.array([error], pa.string())})


def _check_errors(given: Travelling, stage: Stage, gate: ray.actor.ActorHandle) -> None:
    said = given.table["infra_error"].drop_null()
    if len(said) and not ray.get(gate.granted.remote(given.shard, len(said))):
        raise InfraErrorsError(_too_many(stage, len(said), f"in shard {given.shard}, which is not committed; the first: {said[0].as_py()}"))


def _too_many(stage: Stage, errors: int, where: str) -> str:
    limit = stage.quarantine.max_infra_error_fraction
    return (
        f"{stage.info.stage}: the machinery failed on more rows than quarantine.max_infra_error_fraction={limit:g} of "
        f"{stage.source.expected_rows:,} rows allows: {errors:,} {where}. Mend it and run the same command again, or allow more"
    )


def _persistently(action: Callable[[], Result]) -> Result:
    """Try again what a file system refuses: shared ones do so now and then."""
    for attempt in range(1, _TRIES):
        try:
            return action()
        except OSError:
            time.sleep(attempt)
    try:
        return action()
    except OSError as error:
        raise StorageError(f"{error} ({_TRIES} tries)") from error


def _lost(error: Exception) -> Exception:
    """What Ray reports of workers that it cannot bring back, in one line."""
    if not isinstance(error, ActorDiedError | NodeDiedError | WorkerCrashedError | ObjectLostError | ActorUnschedulableError):
        return error
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ClusterError(f"Ray lost a worker and cannot start it again ({first.strip()}); run the same command again")


def _free_resources() -> dict[str, float]:
    free = ray.available_resources()
    return {key: free.get(key, 0.0) for key in ("CPU", "GPU")}


def _wait_for_release(before: dict[str, float]) -> None:
    """Wait until the pools' actors are gone, so that the next stage's model finds its GPUs free (ray#64035)."""
    deadline = time.monotonic() + _RELEASE_TIMEOUT_S
    while time.monotonic() < deadline:
        now = _free_resources()
        if all(now[key] >= amount - 1e-6 for key, amount in before.items()):
            return
        time.sleep(0.2)
