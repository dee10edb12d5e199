"""Run one stage: a Ray Data plan `read shard -> operator -> ... -> commit`, over the shards that are not committed yet.

This module is the only caller of `map_batches`. A row of the plan is a whole shard (its table as Arrow IPC bytes): Ray cannot split,
merge or drop part of one, a slow row delays only its shard, and operators overlap because shards stream from pool to pool.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import ray
import ray.data

from caco_ray import errors
from caco_ray.errors import CacoError, ClusterError, StageContractError
from caco_ray.source import Source
from caco_ray.store import DatasetWriter, ShardEntry, StageInfo, Totals
from caco_ray.store.dataset import is_closed
from caco_ray.store.folder import Folder

TableFunction = Callable[[pa.Table], pa.Table]

# Reading, filtering and committing shards takes little: these tasks claim no core, so that pools of actors which hold every core of a
# small machine cannot starve them. Their number is bounded instead.
_TASKS = 4
_RELEASE_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Operator:
    """One step of a plan and what it needs.

    `make` returns the table function. With `actors` it is called once in each of that many long-lived actors, each holding `cpus`,
    `gpus` and `memory_mb`, and the object may have `close()`; without, in every task. `calls` shards are worked on at once in an actor,
    from threads.
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


def run_stage(stage: Stage, on_shard: Callable[[ShardEntry], None]) -> Totals:
    """Run what is left of a stage and close it. `on_shard` is called in the driver for each shard as it is committed.

    Raises:
        CacoError: what the operators raised; committed shards stay and the same call resumes.
    """
    started = time.monotonic()
    writer = DatasetWriter(stage.folder, stage.info, stage.schema)
    done = writer.open()
    for entry in done.values():
        on_shard(entry)
    pending = [shard for shard in range(stage.info.shards) if shard not in done]
    if pending and not is_closed(stage.folder):
        for entry in _stream(stage, writer, pending):
            on_shard(entry)
    return writer.close(time.monotonic() - started)


def _stream(stage: Stage, writer: DatasetWriter, pending: list[int]) -> Iterator[ShardEntry]:
    _check_room(stage)
    free_before = _free_resources()
    plan = ray.data.from_arrow([pa.table({"shard": [shard]}) for shard in pending])
    tasks = min(_TASKS, len(pending))
    plan = _append_task(plan, partial(_read, source=stage.source), tasks)
    for operator in stage.operators:
        plan = _append(plan, operator, tasks)
    plan = _append_task(plan, partial(_commit, writer=writer), tasks)
    for batch in plan.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            yield ShardEntry.from_json(_raise_if_failed(row)["entry"])
    _wait_for_release(free_before)


def _append(plan: ray.data.Dataset, operator: Operator, tasks: int) -> ray.data.Dataset:
    if not operator.actors:
        return _append_task(plan, partial(_apply_task, operator=operator), tasks)
    pool = ray.data.ActorPoolStrategy(
        size=operator.actors,
        max_concurrent_calls_per_actor=operator.calls,
        max_tasks_in_flight_per_actor=operator.calls + 1,
        enable_true_multi_threading=True,
    )
    return plan.map_batches(
        _ApplyActor,
        fn_constructor_args=(operator,),
        compute=pool,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=operator.cpus,
        num_gpus=operator.gpus or None,
        memory=operator.memory_mb * 1024 * 1024 or None,
    )


def _append_task(plan: ray.data.Dataset, function: TableFunction, tasks: int) -> ray.data.Dataset:
    return plan.map_batches(function, compute=ray.data.TaskPoolStrategy(size=tasks), batch_size=1, batch_format="pyarrow", num_cpus=0)


class _ApplyActor:
    """One operator's actor: makes the resource once, closes it when the pool drains.

    A resource that cannot be made fails the first call, not the constructor: Ray would start such an actor again and again.
    """

    def __init__(self, operator: Operator) -> None:
        self._name = operator.name
        self._function: TableFunction | None = None
        self._failure: CacoError | None = None
        try:
            self._function = operator.make()
        except CacoError as error:
            self._failure = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _apply(batch, self._run, self._name)

    def _run(self, table: pa.Table) -> pa.Table:
        if self._function is None:
            raise self._failure or StageContractError(f"operator {self._name!r} made nothing")
        return self._function(table)

    def __del__(self) -> None:
        close = getattr(self._function, "close", None)
        if close is not None:
            close()


def _apply_task(batch: pa.Table, operator: Operator) -> pa.Table:
    return _apply(batch, operator.make(), operator.name)


def _read(batch: pa.Table, source: Source) -> pa.Table:
    shard, started = batch["shard"][0].as_py(), time.time()
    try:
        given = source.read(shard)
    except CacoError as error:
        return _failed(shard, error)
    return _pack(shard, given.rows_in, started, given.table)


def _apply(batch: pa.Table, function: TableFunction, name: str) -> pa.Table:
    if batch["error"][0].is_valid:
        return batch
    table = _unpack(batch)
    shard, rows_in, started = (batch[key][0].as_py() for key in ("shard", "rows_in", "started"))
    try:
        result = function(table)
        if result.schema != table.schema or not result["row_id"].equals(table["row_id"]):
            raise StageContractError(f"operator {name!r} returned other rows or columns than it was given")
    except CacoError as error:
        return _failed(shard, error)
    return _pack(shard, rows_in, started, result)


def _commit(batch: pa.Table, writer: DatasetWriter) -> pa.Table:
    error, entry = batch["error"][0].as_py(), None
    if error is None:
        shard, rows_in, started = (batch[key][0].as_py() for key in ("shard", "rows_in", "started"))
        try:
            entry = writer.commit(shard, _unpack(batch), rows_in, time.time() - started).to_json().decode()
        except CacoError as failure:
            error = _describe(failure)
    return pa.table({"entry": pa.array([entry], pa.string()), "error": pa.array([error], pa.string())})


# One row of a plan: a shard on its way, or the error of ours that ended it. Ray hands exceptions over as text; these come back as
# what they were.
_PLAN_ROW = pa.schema(
    [("shard", pa.int64()), ("rows_in", pa.int64()), ("started", pa.float64()), ("rows", pa.large_binary()), ("error", pa.string())]
)


def _pack(shard: int, rows_in: int, started: float, table: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    row = {"shard": shard, "rows_in": rows_in, "started": started, "rows": sink.getvalue().to_pybytes(), "error": None}
    return pa.Table.from_pylist([row], schema=_PLAN_ROW)


def _unpack(batch: pa.Table) -> pa.Table:
    return pa.ipc.open_stream(batch["rows"][0].as_buffer()).read_all()


def _failed(shard: int, error: CacoError) -> pa.Table:
    return pa.Table.from_pylist([{"shard": shard, "error": _describe(error)}], schema=_PLAN_ROW)


def _describe(error: CacoError) -> str:
    return json.dumps({"type": type(error).__name__, "message": str(error)})


def _raise_if_failed(row: dict[str, str]) -> dict[str, str]:
    if row["error"] is not None:
        failure = json.loads(row["error"])
        raise getattr(errors, failure["type"], CacoError)(failure["message"])
    return row


def _check_room(stage: Stage) -> None:
    """Refuse a stage whose pools cannot all be placed: Ray would wait for ever."""
    have = ray.cluster_resources()
    for kind, key in (("CPU", "cpus"), ("GPU", "gpus")):
        wanted = {operator.name: getattr(operator, key) * operator.actors for operator in stage.operators if getattr(operator, key)}
        if sum(wanted.values()) > have.get(kind, 0):
            pools = ", ".join(f"{name} {amount:g}" for name, amount in wanted.items())
            raise ClusterError(
                f"{stage.info.stage} needs {sum(wanted.values()):g} {kind}s ({pools}), the cluster has {have.get(kind, 0):g}; "
                "give fewer replicas or workers, or a larger cluster"
            )


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
