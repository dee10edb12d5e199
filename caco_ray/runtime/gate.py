"""What the workers of a running stage ask of its driver: may the next shard start, and may a shard with failed rows be committed?

One small actor for each stage. It holds nothing that cannot be told again: the driver repeats what it knows every second, so that the
actor may die like any other process.
"""

import asyncio
import time
from dataclasses import dataclass, field, replace

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from caco_ray.runtime.telemetry import Live, add_up


@dataclass(frozen=True)
class Limits:
    """`shards`: in flight at once; `infra_errors`: rows that may end with `infra_error` before the stage has too many."""

    shards: int
    infra_errors: int


@dataclass
class Pulse:
    """What the driver learns: `beats` counts events; `kills` counts dead workers by operator since rows last got through.

    `said`: the last words, by operator; `passed`: operators that some row got through in this execution.
    """

    beats: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    passed: set[str] = field(default_factory=set)
    live: Live = field(default_factory=Live)  # figures of the stage's engines


class Gate:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._done = 0
        self._errors: dict[int, int] = {}  # rows with `infra_error` by shard: committed, or on its way to the driver
        self._dead: dict[str, set[str]] = {}  # workers by operator
        self._pulse = Pulse()
        self._moved = asyncio.Condition()
        self._starts: dict[str, int] = {}  # of each actor, since it last was ready
        self._posts: dict[str, tuple[float, Live]] = {}
        self._waits: dict[str, str] = {}

    async def admitted(self, index: int) -> int:
        """Wait until the `index`-th pending shard may start; returns how many may by now."""
        async with self._moved:
            await self._moved.wait_for(lambda: index < self._done + self._limits.shards)
        return self._done + self._limits.shards

    async def tell(self, done: int, errors: dict[int, int]) -> Pulse:
        """From the driver: how many pending shards are committed by now, and by shard the rows with `infra_error` in them."""
        async with self._moved:
            if done > self._done:
                self._pulse.kills.clear()
                self._dead.clear()
            self._done = done
            self._errors.update(errors)
            self._moved.notify_all()
        live = add_up(self._posts.values(), time.monotonic())
        self._pulse.live = replace(live, waits=next(iter(self._waits.values()), ""))
        return self._pulse

    async def starts(self, actor: str) -> int:
        """An actor begins to make its resource; returns how often it died of that before. Ray starts it again for ever."""
        self._pulse.beats += 1
        self._starts[actor] = self._starts.get(actor, 0) + 1
        return self._starts[actor] - 1

    async def failed(self, operator: str, why: str) -> None:
        """An actor could not make its resource and tries again: a sign of life, and what the operator waits for until one is ready."""
        self._pulse.beats += 1
        self._waits[operator] = why

    async def ready(self, actor: str, operator: str) -> None:
        self._starts.pop(actor, None)
        self._waits.pop(operator, None)

    async def post(self, worker: str, live: Live) -> None:
        """Figures of one worker's engine."""
        self._posts[worker] = time.monotonic(), live

    async def granted(self, shard: int, errors: int) -> bool:
        """May this shard be committed with so many errored rows? Shards that are on their way to the driver count as well."""
        self._errors[shard] = errors
        return sum(self._errors.values()) <= self._limits.infra_errors

    async def beat(self, operator: str, killed: str | None, worker: str) -> None:
        """`killed`: what ended `worker`; all shards that it held say so. None: rows got through."""
        self._pulse.beats += 1
        dead = self._dead.setdefault(operator, set())
        if killed is None:
            dead.clear()
            self._pulse.passed.add(operator)
            self._waits.pop(operator, None)
        else:
            dead.add(worker)
            self._pulse.said[operator] = killed
        self._pulse.kills[operator] = len(dead)

    async def wait(self, operator: str, why: str) -> None:
        """An operator waits for something that is away, until some row gets through it. That is no sign of life."""
        self._waits[operator] = why

    async def passed(self, operator: str) -> bool:
        """Whether some row got through the operator in this execution."""
        return operator in self._pulse.passed or self._done > 0


def start_gate(limits: Limits) -> ray.actor.ActorHandle:
    """On the driver's node where that has one: what the driver's node loses, the driver loses too."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": 1000, "scheduling_strategy": here}
    return ray.remote(Gate).options(**options).remote(limits)
