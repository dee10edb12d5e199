"""Run one stage: a Ray Data plan `admit -> read shard -> operator -> ... -> commit`, over the shards that are not committed yet.

This module is the only caller of `map_batches`. A row of the plan is a whole shard (`plan_row.py`): a slow row delays only its shard, and
operators overlap because shards stream from pool to pool. The plan starts from a generator of shard numbers, which the driver lets go on
as shards are committed (`gate.py`): what is in flight, in memory and at risk does not grow with the number of shards.

A row that kills its worker is found and given up (`quarantine.py`); a stage in which nothing moves is stopped (`watchdog.py`).
"""

import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data

from caco_ray.cluster.handover import wait_for_gpus
from caco_ray.cluster.placement import check_pinned, selector
from caco_ray.cluster.session import check_room
from caco_ray.errors import InfraErrorsError
from caco_ray.runtime.gate import Limits, start_gate
from caco_ray.runtime.plan import Operator, Stage
from caco_ray.runtime.quarantine import TableFunction
from caco_ray.runtime.shard_work import ApplyActor, Session, admit, apply_task, commit, read, too_many
from caco_ray.runtime.streaming import Streaming
from caco_ray.runtime.telemetry import Live
from caco_ray.runtime.watchdog import Watchdog
from caco_ray.store import DatasetWriter, ShardEntry, Totals
from caco_ray.store.dataset import is_closed

__all__ = ["Operator", "Stage", "TableFunction", "run_stage"]

# Reading, filtering and committing shards takes little: these tasks claim no core, so that pools of actors which hold every core of a
# small machine cannot starve them. Their number is bounded instead.
_TASKS = 4
_RELEASE_TIMEOUT_S = 60.0


def run_stage(stage: Stage, on_shard: Callable[[ShardEntry], None], on_live: Callable[[Live], None] = lambda live: None) -> Totals:
    """Run what is left of a stage and close it. `on_shard` is called in the driver for each shard as it is committed.

    `on_live` gets the engines' figures: empty ones after the shards that were committed before, then each second or so.

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
        on_live(Live())
        for entry in _stream(stage, writer, pending, sum(entry.totals.quarantined for entry in done.values()), on_live):
            writer.note(entry)
            on_shard(entry)
    return writer.close(time.monotonic() - started)


def _stream(
    stage: Stage, writer: DatasetWriter, pending: list[int], errors_before: int, on_live: Callable[[Live], None]
) -> Iterator[ShardEntry]:
    pools = {op.name: (op.cpus * op.actors, float(op.gpus * op.actors)) for op in stage.operators}
    check_room(stage.info.stage, pools)
    check_pinned(stage.info.stage, pools, stage.cluster)
    wait_for_gpus(stage.info.stage, sum(op.gpus * op.actors for op in stage.operators), stage.cluster)
    free_before = _free_resources()
    allowed = stage.max_infra_errors - errors_before
    if allowed < 0:
        raise InfraErrorsError(too_many(stage, errors_before, "in shards that are committed already"))
    session = Session(stage, start_gate(Limits(_shards_in_flight(stage), allowed)), uuid.uuid4().hex)
    watchdog = Watchdog(stage.watchdog.timeout_s)
    plan = _build(session, writer, pending, watchdog)
    errors = 0
    for entry in Streaming(session, pending, plan, watchdog, on_live).run():
        errors += entry.totals.quarantined
        yield entry
    if errors > allowed:  # a gate that died forgot what it had granted
        raise InfraErrorsError(too_many(stage, errors, "in shards that are committed already"))
    _wait_for_release(free_before)


def _build(session: Session, writer: DatasetWriter, pending: list[int], watchdog: Watchdog) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = 1  # bytes: each row leaves as a block of its own, at once
    context.custom_execution_callback_classes = [watchdog]
    tasks, labels = min(_TASKS, len(pending)), selector(session.stage.cluster, gpus=0)
    with ray.data.DataContext.current(context):
        plan = ray.data.from_arrow(pa.table({"shards": [pending]}))
        plan = plan.map_batches(_named("admit", partial(admit, gate=session.gate)), batch_size=None, batch_format="pyarrow", num_cpus=0)
        plan = _append_task(plan, _named("read", partial(read, source=session.stage.source)), tasks, labels)
        for operator in session.stage.operators:
            plan = _append(plan, operator, session, tasks)
        return _append_task(plan, _named("commit", partial(commit, writer=writer, session=session)), tasks, labels)


def _shards_in_flight(stage: Stage) -> int:
    """Enough that every actor works and has the next shard at hand."""
    return _TASKS + sum(operator.actors * (operator.calls + 1) for operator in stage.operators)


def _append(plan: ray.data.Dataset, operator: Operator, session: Session, tasks: int) -> ray.data.Dataset:
    labels = selector(session.stage.cluster, operator.gpus)
    if not operator.actors:
        return _append_task(plan, _named(operator.name, partial(apply_task, operator=operator, session=session)), tasks, labels)
    pool = ray.data.ActorPoolStrategy(
        size=operator.actors,
        max_concurrent_calls_per_actor=operator.calls,
        max_tasks_in_flight_per_actor=operator.calls + 1,
        enable_true_multi_threading=True,
    )
    return plan.map_batches(
        type(operator.name, (ApplyActor,), {}),
        fn_constructor_args=(operator, session),
        compute=pool,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=operator.cpus,
        num_gpus=operator.gpus or None,
        memory=operator.memory_mb * 1024 * 1024 or None,
        label_selector=labels or None,
    )


def _append_task(plan: ray.data.Dataset, function: TableFunction, tasks: int, labels: dict[str, str]) -> ray.data.Dataset:
    pool = ray.data.TaskPoolStrategy(size=tasks)
    return plan.map_batches(function, compute=pool, batch_size=1, batch_format="pyarrow", num_cpus=0, label_selector=labels or None)


def _named(name: str, function: partial[Any]) -> Callable[[pa.Table], Any]:
    """Ray Data shows a function by its name."""

    def call(batch: pa.Table) -> Any:
        return function(batch)

    call.__name__ = name
    return call


def _free_resources() -> dict[str, float]:
    free = ray.available_resources()
    return {key: free.get(key, 0.0) for key in ("CPU", "GPU")}


def _wait_for_release(before: dict[str, float]) -> None:
    """Wait until the pools' actors are gone; what needs GPUs next refuses to start beside those that stay (`handover`)."""
    deadline = time.monotonic() + _RELEASE_TIMEOUT_S
    while time.monotonic() < deadline:
        now, have = _free_resources(), ray.cluster_resources()  # what a node took along does not come back
        if all(now[key] >= min(amount, have.get(key, 0.0)) - 1e-6 for key, amount in before.items()):
            return
        time.sleep(0.2)
