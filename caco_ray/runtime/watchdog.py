"""Notice that a stage makes no progress, and say who waits for whom.

Ray Data waits for ever for a worker that hangs, for a core that is not there, or for an actor that dies whenever it starts (ray#64601,
ray#45822). The watchdog looks at Ray Data's operators from the driver: when no shard entered or left any of them for `timeout_s`, the
stage is to be stopped with a report. A shard that takes longer than `timeout_s` in one operator looks like a hang.

Reads attributes of Ray Data's executor that are not public (Ray is pinned; the tests of this module fail when they change).
"""

import time
from collections.abc import Iterable
from typing import Any

import ray

from caco_ray.runtime.attempts import Record

_NAMED = 4  # shards that the report names for each operator


class Watchdog:
    """Given to Ray Data as an execution callback. Ray copies and pickles its context: the driver's object stays the one."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._executor: Any = None
        self._seen: list[Any] = []
        self._moved = time.monotonic()

    def __call__(self) -> "Watchdog":
        return self  # Ray makes its callbacks by calling their classes

    def __deepcopy__(self, memo: object) -> "Watchdog":
        return self

    def __reduce__(self) -> tuple[type["Watchdog"], tuple[float]]:
        return Watchdog, (self._timeout_s,)

    def before_execution_starts(self, executor: Any) -> None:
        self._executor = executor

    def on_execution_step(self, executor: Any) -> None:
        seen = [(operator.metrics.num_outputs_taken, state.total_enqueued_input_blocks()) for operator, state in executor._topology.items()]
        if seen != self._seen:
            self._seen = seen
            self.feed()
            _forget_statistics(executor)

    def after_execution_succeeds(self, executor: Any) -> None: ...

    def after_execution_fails(self, executor: Any, error: Exception) -> None: ...

    def feed(self) -> None:
        """Something moved that Ray Data does not see."""
        self._moved = time.monotonic()

    @property
    def quiet_s(self) -> float:
        return time.monotonic() - self._moved

    @property
    def hungry(self) -> bool:
        return self.quiet_s >= self._timeout_s

    def stop(self) -> None:
        """End the plan and its actors, whatever they are doing."""
        if self._executor is not None:
            self._executor.shutdown(force=True)

    def report(self, needs: dict[str, dict[str, float]], records: Iterable[Record]) -> list[str]:
        """Lines: each operator with what runs, waits and lives in it, what it waits for, and what the cluster has free.

        `needs`: of one actor of each operator, in the order of the plan.
        """
        known = list(records)
        running = [record for record in known if record.running is not None]
        waits = {record.operator: record.waits for record in known if record.waits}
        lines, culprits = [], []
        states = list(self._executor._topology.items()) if self._executor is not None else []
        for operator, state in states[1:]:
            held = sorted((record for record in running if record.operator in operator.name), key=lambda record: record.since)
            wants = next((need for name, need in needs.items() if name in operator.name), {})
            info, waiting = operator.get_actor_info(), state.total_enqueued_input_blocks()
            line = f"  {_short(operator.name)}: {operator.num_active_tasks()} running, {waiting} waiting for it"
            if info.running or info.pending or info.restarting:
                line += f"; actors: {info.running} alive, {info.pending} not placed, {info.restarting} restarting"
            lines.append(line + _shards(held))
            if operator.num_active_tasks() or waiting:
                away = next((why for name, why in waits.items() if name in operator.name), None)
                culprits.append(f"{_short(operator.name)}: {away}" if away else _blame(_short(operator.name), held, info, wants))
        lines.append(f"  {room()}")
        if culprits:
            lines.append(f"  It waits for {culprits[-1]}.")
        return lines


def _blame(name: str, held: list[Record], info: Any, wants: dict[str, float]) -> str:
    """Why the last operator that holds shards does not let them go."""
    if (info.pending or info.restarting) and not info.running:
        needed = ", ".join(f"{amount:g} {kind}" for kind, amount in wants.items() if amount) or "room"
        return f"an actor of {name}, which needs {needed} on one node"
    if held:
        return f"{name}: shard {held[0].shard} is {time.time() - held[0].since:.0f} s in it, on {held[0].worker}"
    return name


def _shards(held: list[Record]) -> str:
    if not held:
        return ""
    named = ", ".join(f"{record.shard} ({time.time() - record.since:.0f} s)" for record in held[:_NAMED])
    return f"; shards in it: {named}{' ...' if len(held) > _NAMED else ''}"


def _short(name: str) -> str:
    """`MapBatches(read)->MapBatches(filter)` as `read -> filter`."""
    return name.replace("MapBatches(", "").replace(")->", " -> ").removesuffix(")")


def room() -> str:
    """What the cluster has free, as a few words."""
    have, free = ray.cluster_resources(), ray.available_resources()
    kinds = [kind for kind in ("CPU", "GPU") if kind in have]
    rooms = ", ".join(f"{free.get(kind, 0):g} of {have[kind]:g} {kind} free" for kind in kinds)
    rooms += f", {free.get('memory', 0) / 2**30:.1f} of {have.get('memory', 0) / 2**30:.1f} GiB of memory"
    dead = sum(not node["Alive"] for node in ray.nodes())
    return f"cluster: {rooms}" + (f"; {dead} nodes died" if dead else "")


def _forget_statistics(executor: Any) -> None:
    """Ray keeps the statistics of every block until the end, for a summary that nobody reads: the driver would grow with the shards."""
    for operator in executor._topology:
        kept = getattr(operator, "_output_blocks_stats", None)
        if kept is not None:
            kept.clear()
