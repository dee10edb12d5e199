"""Which actors the nodes of a cluster have room for. Nodes come (an autoscaler) and go (a machine dies); a run waits for those it needs,
and goes on with fewer actors where they stay away.

Ray places actors itself, a little otherwise than `fit` does: `fit` says what is possible at best.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import ray
from ray.autoscaler.sdk import request_resources

from caco_ray.cluster.placement import matches
from caco_ray.config import ClusterConfig
from caco_ray.errors import ClusterError

_LOOK_S = 1.0


@dataclass(frozen=True)
class Place:
    """A node: what it offers by Ray's names (memory in bytes), and its labels."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pool:
    """`actors` of one kind, each of which takes so much of one node with these labels (a selector, see `placement.py`).

    `whole`: fewer of them are of no use, as in a training.
    """

    name: str
    cpus: float
    gpus: float
    memory_mb: float
    actors: int
    labels: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False

    @property
    def least(self) -> int:
        """Actors without which there is no point in starting."""
        return self.actors if self.whole else min(self.actors, 1)

    @property
    def each(self) -> dict[str, float]:
        takes = {"CPU": float(self.cpus), "GPU": float(self.gpus), "memory": self.memory_mb * 1024 * 1024}
        return {kind: amount for kind, amount in takes.items() if amount}

    def __str__(self) -> str:
        takes = ", ".join(f"{amount:g} {kind}s" for kind, amount in self.each.items() if kind != "memory")
        where = f" on {', '.join(f'{key}={value}' for key, value in self.labels.items())}" if self.labels else ""
        return f"{self.name} {self.actors} x ({takes}{f', {self.memory_mb / 1024:.2g} GiB' if self.memory_mb else ''}){where}"

    def fits(self, place: Place, free: Mapping[str, float] | None = None) -> bool:
        """Whether one actor may live there: while so much is free, by default all."""
        left = place.resources if free is None else free
        return matches(place.labels, self.labels) and all(left.get(kind, 0.0) >= amount for kind, amount in self.each.items())


def fit(pools: Iterable[Pool], places: Iterable[Place]) -> dict[str, int]:
    """How many actors of each pool find a place, in turns, so that a small cluster gives each pool some. The largest choose first."""
    free = [(place, dict(place.resources)) for place in places]
    placed = {pool.name: 0 for pool in pools}
    open_pools = sorted((pool for pool in pools if pool.actors), key=lambda pool: (pool.gpus, pool.cpus), reverse=True)
    while open_pools:
        for pool in list(open_pools):
            # Where few GPUs and then few CPUs are free: what needs no GPU leaves the nodes that have some alone.
            roomy = [left for place, left in free if pool.fits(place, left)]
            best = min(roomy, key=lambda left: (left.get("GPU", 0), left.get("CPU", 0)), default=None)
            if best is None:
                open_pools.remove(pool)
                continue
            for kind, amount in pool.each.items():
                best[kind] -= amount
            placed[pool.name] += 1
            if placed[pool.name] == pool.actors:
                open_pools.remove(pool)
    return placed


def alive() -> list[Place]:
    return [Place(node["Resources"], node["Labels"]) for node in ray.nodes() if node["Alive"]]


def missing(wanted: Mapping[str, Iterable[Pool]]) -> list[str]:
    """One line for each pool (by stage) of which the nodes of the cluster could not hold even one actor, or all where it needs all."""
    places = alive()
    return [
        f"{stage} needs {pool}{' and no fewer' if pool.whole else ''}; {_room(places, pool)}"
        for stage, pools in wanted.items()
        for pool in pools
        if fit([pool], places)[pool.name] < pool.least
    ]


def await_nodes(wanted: Mapping[str, Iterable[Pool]], config: ClusterConfig, say: Callable[[str], object]) -> None:
    """Wait until each pool could have an actor, all others aside.

    Raises:
        ClusterError: the lines of `missing`, after `cluster.wait_for_nodes_s`.
    """
    if not (lines := missing(wanted)):
        return
    say(f"{'; '.join(lines)}; waiting up to {config.wait_for_nodes_s:g} s for nodes")
    lacking = sorted((pool for pools in wanted.values() for pool in pools if missing({"": [pool]})), key=lambda pool: pool.least)
    shapes = {str((pool.each, pool.labels)): pool for pool in lacking}  # one after the other has the place: the largest is asked for
    _wait(lambda: not missing(wanted), [pool for pool in shapes.values() for _ in range(pool.least)], config.wait_for_nodes_s)
    if lines := missing(wanted):
        raise ClusterError("\n".join(lines))


def make_room(stage: str, pools: list[Pool], config: ClusterConfig, say: Callable[[str], object]) -> dict[str, int]:
    """Actors of each pool that the cluster has room for, after waiting for nodes where some have none.

    Raises:
        ClusterError: one line for each pool that cannot even have one, or not all where it needs all.
    """
    short = _short(pools)
    if short:
        say(f"{stage}: {', '.join(short)}; waiting up to {config.wait_for_nodes_s:g} s for nodes")
        _wait(lambda: not _short(pools), [pool for pool in pools for _ in range(pool.actors)], config.wait_for_nodes_s)
    placed, short = fit(pools, alive()), _short(pools)
    if lacking := [pool for pool in pools if placed[pool.name] < pool.least]:
        fewer = "give fewer of them, " if any(pool.whole for pool in lacking) else "give "
        raise ClusterError(f"{stage}: {', '.join(short)}; {fewer}fewer CPUs or GPUs to each, or a larger cluster")
    if short:
        say(f"{stage}: {', '.join(short)}; going on with these")
    return placed


def _wait(is_enough: Callable[[], bool], wanted: list[Pool], timeout_s: float) -> None:
    """An autoscaler hears what is wanted: by itself it learns only of actors that wait, and some might wait for ever."""
    deadline = time.monotonic() + timeout_s
    given = [pool for pool in wanted if pool.each]
    request_resources(bundles=[pool.each for pool in given], bundle_label_selectors=[dict(pool.labels) for pool in given] or None)
    try:
        while not is_enough() and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
    finally:
        request_resources(bundles=[])


def _short(pools: list[Pool]) -> list[str]:
    """Pools that do not find room for all of their actors, in words."""
    placed = fit(pools, alive())
    return [f"room for {placed[pool.name]} of {pool}" for pool in pools if placed[pool.name] < pool.actors]


def _room(places: list[Place], pool: Pool) -> str:
    if placed := fit([pool], places)[pool.name]:
        return f"the nodes have room for {placed}"
    return f"no node is large enough for one (the most that a node has: {_most(places, pool)})"


def _most(places: list[Place], pool: Pool) -> str:
    allowed = [place.resources for place in places if matches(place.labels, pool.labels)]
    return ", ".join(f"{max((each.get(kind, 0.0) for each in allowed), default=0):g} {kind}s" for kind in pool.each if kind != "memory")
