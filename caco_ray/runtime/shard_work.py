"""What workers do with a shard: read it, apply one operator to it, commit it. Ray Data calls these with plan rows (`plan_row.py`)."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import ray

from caco_ray.errors import CacoError, EngineError, InfraErrorsError, StageContractError, TransientError, first_line
from caco_ray.runtime.attempts import Attempt
from caco_ray.runtime.plan import Operator, Stage
from caco_ray.runtime.plan_row import Travelling, describe, error_of, pack, pack_error, unpack
from caco_ray.runtime.quarantine import Guard, TableFunction
from caco_ray.runtime.telemetry import Reporter, watch
from caco_ray.source import Source
from caco_ray.store import DatasetWriter

_TRIES = 3  # at starting an engine


@dataclass(frozen=True)
class Session:
    """One execution of a stage: what its workers share. `token` is of this execution alone."""

    stage: Stage
    gate: ray.actor.ActorHandle
    token: str


class ApplyActor:
    """One operator's actor: makes the resource once, closes it when the pool drains.

    A resource that cannot be made fails the first call, not the constructor: Ray would start such an actor again and again.
    """

    def __init__(self, operator: Operator, session: Session) -> None:
        self._guard = _guard(operator, session)
        self._function: TableFunction | None = None
        self._failure: CacoError | None = None
        self._reporter: Reporter | None = None
        try:
            self._function = _made_with_care(operator, session)
        except CacoError as error:
            self._failure = error
        worker = ray.get_runtime_context().get_worker_id()
        self._reporter = watch(self._function, session.stage.info.stage, lambda live: session.gate.post.remote(worker, live))

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _apply(batch, self._run)

    def _run(self, given: Travelling) -> pa.Table:
        if self._function is None:
            raise self._failure or StageContractError("an operator made nothing")
        return self._guard.run(self._function, given.table, given.shard)

    def __del__(self) -> None:
        if self._reporter is not None:
            self._reporter.close()
        close = getattr(self._function, "close", None)
        if close is not None:
            close()


def apply_task(batch: pa.Table, operator: Operator, session: Session) -> pa.Table:
    return _apply(batch, lambda given: _guard(operator, session).run(operator.make(), given.table, given.shard))


def _made_with_care(operator: Operator, session: Session) -> TableFunction:
    """Raises EngineError where making it ended this actor's process several times: nobody is there to say why."""
    actor = ray.get_runtime_context().get_actor_id()
    deaths = ray.get(session.gate.starts.remote(actor))
    if deaths >= _TRIES:
        raise EngineError(
            f"{operator.name}: its process died {deaths} times while it started; the kernel ends one that takes too much memory"
        )
    made = _made(operator, session)
    ray.get(session.gate.ready.remote(actor, operator.name))
    return made


def _made(operator: Operator, session: Session) -> TableFunction:
    for attempt in range(1, _TRIES):
        try:
            return operator.make()
        except (EngineError, TransientError) as error:
            session.gate.failed.remote(operator.name, first_line(error))
            time.sleep(attempt)
    return operator.make()


def _guard(operator: Operator, session: Session) -> Guard:
    stage, gate = session.stage, session.gate
    attempts = partial(Attempt, stage.attempts, session.token, operator.name, shared=operator.calls > 1)
    return Guard(
        operator.name,
        attempts,
        stage.quarantine,
        lambda killed, worker: gate.beat.remote(operator.name, killed, worker),
        lambda: bool(ray.get(gate.passed.remote(operator.name))),
        lambda why: gate.wait.remote(operator.name, why),
        company=math.isqrt(operator.calls),
    )


def admit(batch: pa.Table, gate: ray.actor.ActorHandle) -> Iterator[pa.Table]:
    """The numbers of the pending shards, each when there is room for it. Run again from the start it gives the same ones."""
    allowed = 0
    for index, shard in enumerate(batch["shards"][0].as_py()):
        if index >= allowed:
            allowed = ray.get(gate.admitted.remote(index))
        yield pa.table({"shard": [shard]})


def read(batch: pa.Table, source: Source) -> pa.Table:
    shard, started = batch["shard"][0].as_py(), time.time()
    try:
        given = source.read(shard)
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


def commit(batch: pa.Table, writer: DatasetWriter, session: Session) -> pa.Table:
    error, entry = error_of(batch), None
    if error is None:
        given = unpack(batch)
        try:
            _check_errors(given, session)
            seconds = time.time() - given.started
            entry = writer.commit(given.shard, given.table, given.rows_in, seconds).to_json().decode()
        except CacoError as failure:
            error = describe(failure)
    return pa.table({"entry": pa.array([entry], pa.string()), "error": pa.array([error], pa.string())})


def _check_errors(given: Travelling, session: Session) -> None:
    said = given.table["infra_error"].drop_null()
    if len(said) and not ray.get(session.gate.granted.remote(given.shard, len(said))):
        raise InfraErrorsError(
            too_many(session.stage, len(said), f"in shard {given.shard}, which is not committed; the first: {said[0].as_py()}")
        )


def too_many(stage: Stage, errors: int, where: str) -> str:
    limit = stage.quarantine.max_infra_error_fraction
    return (
        f"{stage.info.stage}: the machinery failed on more rows than quarantine.max_infra_error_fraction={limit:g} of "
        f"{stage.source.expected_rows:,} rows allows: {errors:,} {where}. Mend it and run the same command again, or allow more"
    )
