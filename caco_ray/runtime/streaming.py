"""One execution of a stage's plan, seen from the driver: shards as they are committed, errors as they were raised, no waiting for ever."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data
from ray.exceptions import ActorDiedError, ActorUnschedulableError, NodeDiedError, ObjectLostError, RayError, WorkerCrashedError

from caco_ray.errors import CacoError, ClusterError, InfraErrorsError, StageStalledError, WorkersDieError, first_line
from caco_ray.runtime.attempts import absolve, forgive, records
from caco_ray.runtime.gate import Pulse
from caco_ray.runtime.plan_row import revive
from caco_ray.runtime.shard_work import Session
from caco_ray.runtime.telemetry import Live
from caco_ray.runtime.watchdog import Watchdog
from caco_ray.store import ShardEntry

# Workers of an operator that may die in a row while no row gets through it, by actor and in all: then it is not the rows. A row at fault in
# the first shard takes five; each death may cost the loading of a model.
KILLS_AT_FIRST = 6, 14
KILLS_IN_A_ROW = 20, 60  # where rows got through before
_TICK_S = 1.0


class Streaming:
    """One execution of a stage's plan, seen from the driver."""

    def __init__(
        self, session: Session, shards: Sequence[int], plan: ray.data.Dataset, watchdog: Watchdog, on_live: Callable[[Live], None]
    ) -> None:
        """`shards`: that the plan will give; `on_live` is called with the engines' figures each second or so."""
        self._on_live = on_live
        self._stage, self._gate = session.stage, session.gate
        self._left, self._plan, self._watchdog = set(shards), plan, watchdog
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._asked: ray.ObjectRef | None = None
        self._beats = self._tokens = self._done = 0
        self._errors: dict[int, int] = {}  # rows with `infra_error` by shard
        self._waits = ""  # what the workers said last of why they wait

    def run(self) -> Iterator[ShardEntry]:
        threading.Thread(target=self._consume, daemon=True).start()
        try:
            while (result := self._next()) is not None:
                yield result
        except (CacoError, KeyboardInterrupt, GeneratorExit) as error:
            self._watchdog.stop()
            self._settle(error)
            raise
        finally:
            if self._asked is not None:
                ray.wait([self._asked], timeout=_TICK_S)  # a call that dies with the actor is told to the terminal
            ray.kill(self._gate)

    def _settle(self, error: BaseException) -> None:
        """What stays on record against the rows that were not committed."""
        if isinstance(error, InfraErrorsError | WorkersDieError):
            absolve(self._stage.attempts, self._left)
        elif not isinstance(error, StageStalledError | ClusterError):  # there, who was at work may be to blame
            forgive(self._stage.attempts)

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
            self._left.discard(entry.shard)
            self._done += 1
            if entry.totals.quarantined:
                self._errors[entry.shard] = entry.totals.quarantined
            self._tell()
            return entry

    def _tick(self) -> None:
        pulse = self._tell()
        if pulse is not None:
            self._check_kills(pulse)
            tokens = pulse.live.stats.tokens + pulse.live.stats.prompt_tokens
            if (pulse.beats, tokens) != (self._beats, self._tokens):
                self._beats, self._tokens = pulse.beats, tokens
                self._watchdog.feed()
        if self._watchdog.hungry:
            raise StageStalledError(self._stands(f"nothing moved for {self._watchdog.quiet_s:.0f} s (watchdog.timeout_s)"))

    def _check_kills(self, pulse: Pulse) -> None:
        for operator in self._stage.operators:
            kills = pulse.kills.get(operator.name, 0)
            each, most = KILLS_IN_A_ROW if self._done or operator.name in pulse.passed else KILLS_AT_FIRST
            if kills >= min(each * max(1, operator.actors), most):
                why = f"{operator.name} died {kills} times in a row and got no row through: {pulse.said[operator.name]}"
                raise WorkersDieError(self._stands(why))

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
        if pulse is not None:
            self._waits = pulse.live.waits
            self._on_live(pulse.live)
        self._asked = self._gate.tell.remote(self._done, self._errors)
        return pulse

    def _stands(self, why: str) -> str:
        stage = self._stage
        needs = {
            operator.name: {"CPU": operator.cpus, "GPU": operator.gpus, "GiB of memory": operator.memory_mb / 1024}
            for operator in stage.operators
        }
        lines = self._watchdog.report(needs, records(stage.attempts))
        stands = f"{self._done} of {self._done + len(self._left)} shards were committed and stay; the same command goes on from there"
        if self._waits and not any(self._waits in line for line in lines):
            lines.append(f"  The last that was heard: {self._waits}")
        return "\n".join([f"{stage.info.stage}: {why}; stopped. {stands}.", *lines])


def _lost(error: Exception) -> Exception:
    """What Ray reports of workers that it cannot bring back, in one line."""
    if not isinstance(error, ActorDiedError | NodeDiedError | WorkerCrashedError | ObjectLostError | ActorUnschedulableError):
        return error
    return ClusterError(f"Ray lost a worker and cannot start it again ({first_line(error)}); run the same command again")
