"""Which actors the nodes of a cluster have room for. Nodes come (an autoscaler) and go (a machine dies); a run waits for those it needs,
and goes on with fewer actors where they stay away.

Ray places actors itself, a little otherwise than `fit` does: `fit` says what is possible at best.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import ray
from ray.autoscaler.sdk import request_resources

from caco_ray.config import ClusterConfig
from caco_ray.errors import ClusterError

Resources = Mapping[str, float]  # of one node, by Ray's names; memory in bytes
_LOOK_S = 1.0


@dataclass(frozen=True)
class Pool:
    """`actors` of one kind, each of which takes so much of one node."""

    name: str
    cpus: float
    gpus: float
    memory_mb: float
    actors: int

    @property
    def each(self) -> dict[str, float]:
        takes = {"CPU": float(self.cpus), "GPU": float(self.gpus), "memory": self.memory_mb * 1024 * 1024}
        return {kind: amount for kind, amount in takes.items() if amount}

    def __str__(self) -> str:
        takes = ", ".join(f"{amount:g} {kind}s" for kind, amount in self.each.items() if kind != "memory")
        return f"{self.name} {self.actors} x ({takes}{f', {self.memory_mb / 1024:.2g} GiB' if self.memory_mb else ''})"


def fit(pools: Iterable[Pool], nodes: Iterable[Resources]) -> dict[str, int]:
    """How many actors of each pool find a place, in turns, so that a small cluster gives each pool some. The largest choose first."""
    free = [dict(node) for node in nodes]
    placed = {pool.name: 0 for pool in pools}
    open_pools = sorted((pool for pool in pools if pool.actors), key=lambda pool: (pool.gpus, pool.cpus), reverse=True)
    while open_pools:
        for pool in list(open_pools):
            # Where few GPUs and then few CPUs are free: what needs no GPU leaves the nodes that have some alone.
            roomy = [node for node in free if has_room(node, pool.each)]
            best = min(roomy, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default=None)
            if best is None:
                open_pools.remove(pool)
                continue
            for kind, amount in pool.each.items():
                best[kind] -= amount
            placed[pool.name] += 1
            if placed[pool.name] == pool.actors:
                open_pools.remove(pool)
    return placed


def alive() -> list[Resources]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def missing(wanted: Mapping[str, Iterable[Pool]]) -> list[str]:
    """One line for each pool (by stage) of which no node of the cluster could hold even one actor."""
    nodes = alive()
    return [
        f"{stage} needs {pool}; no node is large enough for one (the most that a node has: {_most(nodes, pool)})"
        for stage, pools in wanted.items()
        for pool in pools
        if not any(has_room(node, pool.each) for node in nodes)
    ]


def await_nodes(wanted: Mapping[str, Iterable[Pool]], config: ClusterConfig, say: Callable[[str], object]) -> None:
    """Wait until each pool could have an actor, all others aside.

    Raises:
        ClusterError: the lines of `missing`, after `cluster.wait_for_nodes_s`.
    """
    if not (lines := missing(wanted)):
        return
    say(f"{'; '.join(lines)}; waiting up to {config.wait_for_nodes_s:g} s for nodes")
    shapes = {tuple(pool.each.items()): pool.each for pools in wanted.values() for pool in pools if missing({"": [pool]})}
    _wait(lambda: not missing(wanted), list(shapes.values()), config.wait_for_nodes_s)
    if lines := missing(wanted):
        raise ClusterError("\n".join(lines))


def make_room(stage: str, pools: list[Pool], config: ClusterConfig, say: Callable[[str], object]) -> dict[str, int]:
    """Actors of each pool that the cluster has room for, after waiting for nodes where some have none.

    Raises:
        ClusterError: one line for each pool that cannot even have one.
    """
    short = _short(pools)
    if short:
        say(f"{stage}: {', '.join(short)}; waiting up to {config.wait_for_nodes_s:g} s for nodes")
        _wait(lambda: not _short(pools), [pool.each for pool in pools for _ in range(pool.actors) if pool.each], config.wait_for_nodes_s)
    placed, short = fit(pools, alive()), _short(pools)
    if any(pool.actors and not placed[pool.name] for pool in pools):
        raise ClusterError(f"{stage}: {', '.join(short)}; give fewer CPUs or GPUs to each, or a larger cluster")
    if short:
        say(f"{stage}: {', '.join(short)}; going on with these")
    return placed


def _wait(is_enough: Callable[[], bool], bundles: list[dict[str, float]], timeout_s: float) -> None:
    """An autoscaler hears what is wanted: by itself it learns only of actors that wait, and some might wait for ever."""
    deadline = time.monotonic() + timeout_s
    request_resources(bundles=bundles)
    try:
        while not is_enough() and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
    finally:
        request_resources(bundles=[])


def _short(pools: list[Pool]) -> list[str]:
    """Pools that do not find room for all of their actors, in words."""
    placed = fit(pools, alive())
    return [f"room for {placed[pool.name]} of {pool}" for pool in pools if placed[pool.name] < pool.actors]


def _most(nodes: list[Resources], pool: Pool) -> str:
    return ", ".join(f"{max((node.get(kind, 0.0) for node in nodes), default=0):g} {kind}s" for kind in pool.each if kind != "memory")


def has_room(node: Resources, wanted: Resources) -> bool:
    """Whether a node offers so much, were it empty."""
    return all(node.get(kind, 0.0) >= amount for kind, amount in wanted.items())
