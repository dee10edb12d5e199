"""One execution of a stage's plan, seen from the driver: shards as they are committed, errors as they were raised, no waiting for ever."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.data
from ray.exceptions import ActorDiedError, ActorUnschedulableError, NodeDiedError, ObjectLostError, RayError, WorkerCrashedError

from caco_ray.attempts import forgive, records
from caco_ray.errors import CacoError, ClusterError, StageStalledError
from caco_ray.gate import Pulse
from caco_ray.plan_row import revive
from caco_ray.shard_work import Session
from caco_ray.store import ShardEntry
from caco_ray.telemetry import Live
from caco_ray.watchdog import Watchdog

MAX_KILLS_IN_A_ROW = 20  # for each actor of an operator, while no row gets through it: it is not the rows
_TICK_S = 1.0


class Streaming:
    """One execution of a stage's plan, seen from the driver."""

    def __init__(self, session: Session, shards: int, plan: ray.data.Dataset, watchdog: Watchdog, on_live: Callable[[Live], None]) -> None:
        """`shards`: that the plan will give; `on_live` is called with the engines' figures each second or so."""
        self._on_live = on_live
        self._stage, self._gate = session.stage, session.gate
        self._shards, self._plan, self._watchdog = shards, plan, watchdog
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._asked: ray.ObjectRef | None = None
        self._beats = self._done = self._errors = 0

    def run(self) -> Iterator[ShardEntry]:
        threading.Thread(target=self._consume, daemon=True).start()
        try:
            while (result := self._next()) is not None:
                yield result
        except (StageStalledError, ClusterError):
            self._watchdog.stop()  # and who was at work may be to blame
            raise
        except (CacoError, KeyboardInterrupt, GeneratorExit):
            self._watchdog.stop()
            forgive(self._stage.attempts)
            raise
        finally:
            if self._asked is not None:
                ray.wait([self._asked], timeout=_TICK_S)  # a call that dies with the actor is told to the terminal
            ray.kill(self._gate)

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
            for operator in self._stage.operators:
                kills = pulse.kills.get(operator.name, 0)
                if kills >= MAX_KILLS_IN_A_ROW * max(1, operator.actors):
                    said = pulse.said[operator.name]
                    raise self._stalled(f"{operator.name} died {kills} times in a row and got no row through: {said}")
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
        if pulse is not None:
            self._on_live(pulse.live)
        self._asked = self._gate.tell.remote(self._done, self._errors)
        return pulse

    def _stalled(self, why: str) -> StageStalledError:
        stage = self._stage
        needs = {
            operator.name: {"CPU": operator.cpus, "GPU": operator.gpus, "GiB of memory": operator.memory_mb / 1024}
            for operator in stage.operators
        }
        lines = self._watchdog.report(needs, records(stage.attempts))
        stands = f"{self._done} of {self._shards} shards were committed and stay; the same command goes on from there"
        return StageStalledError("\n".join([f"{stage.info.stage}: {why}; stopped. {stands}.", *lines]))


def _lost(error: Exception) -> Exception:
    """What Ray reports of workers that it cannot bring back, in one line."""
    if not isinstance(error, ActorDiedError | NodeDiedError | WorkerCrashedError | ObjectLostError | ActorUnschedulableError):
        return error
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ClusterError(f"Ray lost a worker and cannot start it again ({first.strip()}); run the same command again")
