"""Does every node of the cluster offer what a run needs? One small task on each tells, before any model loads.

What is missing is one line each.
"""

import math
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.markup import escape

from caco_ray.cluster import node_look
from caco_ray.cluster.needs import Loaded, drives_gpus, models_loaded, pools, runs_programs, stages_of
from caco_ray.cluster.node_look import SEEN, UNSEEN, Model, is_there, versions
from caco_ray.cluster.room import Place, await_nodes, missing
from caco_ray.cluster.session import connected
from caco_ray.config import Config
from caco_ray.errors import ClusterError, StorageError
from caco_ray.stage_config import TRAININGS
from caco_ray.store import Folder
from caco_ray.store.reach import check_reachable

_NAMED = 3  # nodes that a line names
_SAMPLE_BYTES = 8_000  # on disk over all stages; 2,000 to 6,000 were seen
_SPARE_BYTES = 64 << 20
_RAY_STOPS_AT = 0.95  # of a full disk: Ray's default `local_fs_capacity_threshold`
_GIB = 1 << 30


@dataclass(frozen=True)
class Node:
    """One node as Ray lists it, and its facts (`node_look.look`), or why there are none."""

    id: str
    address: str
    place: Place
    facts: dict[str, Any] | None = None
    silence: str = ""

    def __str__(self) -> str:
        offers = [f"{self.place.resources.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU") if self.place.resources.get(kind)] or [
            "no CPUs"
        ]
        if self.facts is None:
            return f"{self.address} ({', '.join(offers)}): {self.silence}"
        facts = self.facts
        sandbox = f", sandbox {facts['sandbox']}" if facts["sandbox"] else ""
        disk = f", {facts['free_bytes'] / _GIB:.0f} GiB free in run.dir" if facts["free_bytes"] is not None else ""
        return (
            f"{self.address} ({', '.join(offers)}): Ray {facts['Ray']}, Python {facts['Python']}, caco_ray {facts['caco_ray']}{sandbox}, "
            f"/dev/shm {facts['shm_bytes'] / _GIB:.2f} GiB{disk}"
        )


def examine(config: Config, stages: Iterable[str]) -> tuple[list[Node], list[str]]:
    """All nodes with their facts, and a line for each thing missing. Where the driver itself cannot write to `run.dir` no node is asked."""
    on = tuple(stages)
    lines, found = missing({stage: pools(config, stage) for stage in on}) + driver_faults(config, on), listed()
    try:
        found = asked(config, on, found)
    except StorageError as error:
        return [replace(node, silence="not asked") for node in found], [*lines, f"the driver: run.dir: {error}"]
    return found, lines + faults(config, on, found)


def print_cluster(config: Config, console: Console) -> int:
    """One line for each node, and one for each thing missing; returns the exit code, 1 if there is any.

    Raises:
        ClusterError: the address does not answer.
    """
    with connected(config.cluster):
        found, lines = examine(config, stages_of(config))
    for node in found:
        console.print(f"[green]node[/green]    {node}")
    for line in lines:
        console.print(f"[red]MISSING[/red] {escape(line)}")
    return 1 if lines else 0


class Preflight:
    """Of one run. Each node is looked at once, those that join later too."""

    def __init__(self, config: Config, stages: Iterable[str], say: Callable[[str], object]) -> None:
        self._config, self._stages, self._say = config, tuple(stages), say
        self._seen: set[str] = set()

    def check(self) -> None:
        """Look at the nodes that are new.

        Raises:
            ClusterError: one line for each thing missing.
            StorageError: the driver itself cannot write to `run.dir`.
        """
        if not self._seen:
            if lines := driver_faults(self._config, self._stages):
                raise ClusterError("\n".join(lines))
            await_nodes({stage: pools(self._config, stage) for stage in self._stages}, self._config.cluster, self._say)
        new = asked(self._config, self._stages, listed(self._seen))
        if lines := faults(self._config, self._stages, new):
            raise ClusterError("\n".join(lines))
        self._seen.update(node.id for node in new)
        if new:
            self._say(f"{len(new)} {'node has' if len(new) == 1 else 'nodes have'} what the run needs: {', '.join(_offers(new))}")


def listed(besides: Iterable[str] = ()) -> list[Node]:
    """Nodes that are alive, by id, without those named."""
    known = set(besides)
    return [
        Node(node["NodeID"], node["NodeManagerAddress"], Place(node["Resources"], node["Labels"]))
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in known
    ]


def asked(config: Config, stages: tuple[str, ...], nodes: list[Node]) -> list[Node]:
    """The nodes with their facts. A node that dies meanwhile is left out.

    Raises:
        StorageError: the driver itself cannot write to `run.dir`.
    """
    if not nodes:
        return []
    folder, marker = Folder(config.run.dir), f"preflight-{uuid.uuid4().hex[:12]}"
    require = config.sandbox.require if runs_programs(stages) else None
    timeout_s = config.cluster.preflight_timeout_s
    check_reachable(config.run.dir)
    folder.write(f"{marker}/driver", b"")
    try:
        cloudpickle.register_pickle_by_value(node_look)
        task = ray.remote(num_cpus=0, max_retries=0)(node_look.look)
        answers = {}
        for node in nodes:
            there = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False))
            wanted = _level(require, node, config), _models(config, stages, node)
            # Half of the time for the storage, so that a node that waits for it can still say so.
            answers[node.id] = there.remote(config.run.dir, f"{marker}/driver", node.id, *wanted, timeout_s / 2)
        ready = set(ray.wait(list(answers.values()), num_returns=len(answers), timeout=timeout_s)[0])
        found = [_answered(node, answers[node.id], answers[node.id] in ready, timeout_s) for node in nodes]
        alive = {node.id for node in listed()}
        return _returned(folder, marker, [node for node in found if node.facts is not None or node.id in alive])
    finally:
        cloudpickle.unregister_pickle_by_value(node_look)
        folder.delete(marker)


def _level(require: str | None, node: Node, config: Config) -> str | None:
    """Where a sandbox can be placed."""
    return require if any(pool.name == "sandbox" and pool.fits(node.place) for pool in pools(config, "unify")) else None


def _models(config: Config, stages: Iterable[str], node: Node) -> list[Model]:
    """That can be placed there."""
    return list(dict.fromkeys((each.path, each.revision) for each in models_loaded(config, stages) if each.pool.fits(node.place)))


def _answered(node: Node, answer: ray.ObjectRef, is_ready: bool, timeout_s: float) -> Node:
    if not is_ready:
        ray.cancel(answer, force=True)
        return replace(node, silence=f"no answer in {timeout_s:g} s (cluster.preflight_timeout_s)")
    try:
        return replace(node, facts=ray.get(answer))
    except RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return replace(node, silence=f"no task can be run there ({lines[-1][:300] if lines else error!r})")


def _returned(folder: Folder, marker: str, nodes: list[Node]) -> list[Node]:
    """What a node wrote must be seen here, too."""
    names = set(folder.names(marker))
    for node in nodes:
        if node.facts is not None and node.facts["storage"] == SEEN and node.id not in names:
            node.facts["storage"] = UNSEEN
    return nodes


def driver_faults(config: Config, stages: Iterable[str]) -> list[str]:
    """A training's base is read by the driver too, before its workers start: its tokenizer, and samples of its weights."""
    bases = models_loaded(config, [stage for stage in stages if stage in TRAININGS])
    return [f"the driver: {_model(each, 'there')}" for each in bases if not is_there(each.path, each.revision)]


def faults(config: Config, stages: tuple[str, ...], nodes: Iterable[Node]) -> list[str]:
    """One line for each thing that is missing, with the nodes that lack it."""
    mine, lacking = versions(), defaultdict[str, list[Node]](list)
    for node in nodes:
        for fault in (node.silence,) if node.facts is None else _faults(config, stages, mine, node.place.resources, node.facts):
            lacking[fault].append(node)
    return [f"{_names(where)}: {fault}" for fault, where in lacking.items()]


def _faults(
    config: Config, stages: tuple[str, ...], mine: dict[str, str], resources: Mapping[str, float], facts: dict[str, Any]
) -> list[str]:
    return [
        fault
        for fault in (
            *(_version(name, mine[name], facts[name]) for name in ("Python", "Ray", "caco_ray")),
            _code(mine, facts),
            _shared_memory(resources.get("object_store_memory", 0), facts["shm_bytes"]),
            _gpus(config, stages, int(resources.get("GPU", 0)), facts["gpus"]),
            f"sandbox.require={config.sandbox.require}: {facts['sandbox_said']}" if facts["sandbox_said"] else "",
            _storage(config, facts),
            _room(config, facts["free_bytes"]),
            *(_model(each) for each in models_loaded(config, stages) if (each.path, each.revision) in facts["absent"]),
            _ray_disk(facts["ray_disk_used"]),
        )
        if fault
    ]


def _version(name: str, mine: str, theirs: str) -> str:
    return f"{name} {theirs}, the driver has {mine}; use one image or lock everywhere" if mine != theirs else ""


def _code(mine: dict[str, str], facts: dict[str, Any]) -> str:
    if mine["caco_ray"] != facts["caco_ray"] or mine["code"] == facts["code"]:
        return ""
    return f"caco_ray {mine['caco_ray']}, but other code than the driver's; send it (ray job submit --working-dir .) or install it anew"


def _shared_memory(store: float, shared: int) -> str:
    """Ray keeps its objects in /tmp where /dev/shm is too small for them: a disk instead of memory."""
    if shared >= store:
        return ""
    return (
        f"/dev/shm has {shared / _GIB:.2f} GiB, Ray's object store {store / _GIB:.2f}; give the container a larger one (--shm-size, or an "
        "emptyDir in memory) or Ray a smaller store (--object-store-memory)"
    )


def _gpus(config: Config, stages: tuple[str, ...], told: int, shown: int) -> str:
    users = drives_gpus(config, stages)
    if not users or shown >= told:
        return ""
    return f"Ray was told of {told} GPUs, the NVIDIA driver shows {shown}; {', '.join(users)} need them: check driver and container runtime"


def _storage(config: Config, facts: dict[str, Any]) -> str:
    if facts["storage"] == UNSEEN:
        return f"run.dir={config.run.dir} is not the driver's folder there; give one that all nodes mount, or an object store's URL"
    return "" if facts["storage"] == SEEN else f"run.dir: {facts['storage']}"


def _room(config: Config, free: int | None) -> str:
    needed = _SPARE_BYTES + (config.scale.budget or config.scale.samples) * _SAMPLE_BYTES
    if free is None or free >= needed:
        return ""
    return f"run.dir={config.run.dir} has {free / _GIB:.2f} GiB free, the run's rows may take {math.ceil(needed / _GIB * 100) / 100:.2f}"


def _model(absent: Loaded, where: str = "on each such node") -> str:
    if absent.is_folder:
        return f"{absent.key}={absent.path}: no such folder"
    revision = f" --revision {absent.revision}" if absent.revision else ""
    return (
        f"{absent.key}={absent.path}: not in the Hugging Face cache there (HF_HOME); run `hf download {absent.path}{revision}` {where}, or "
        "allow it with cluster.allow_downloads=true"
    )


def _ray_disk(used: float) -> str:
    return f"the disk of /tmp/ray is {used:.0%} full; Ray stops making objects at {_RAY_STOPS_AT:.0%}" if used >= _RAY_STOPS_AT else ""


def _offers(nodes: list[Node]) -> list[str]:
    sums = Counter[str]()
    for node in nodes:
        sums.update({kind: node.place.resources.get(kind, 0) for kind in ("CPU", "GPU")})
    return [f"{amount:g} {kind}s" for kind, amount in sums.items()]


def _names(nodes: list[Node]) -> str:
    named = ", ".join(node.address for node in nodes[:_NAMED])
    return f"node {named}" + (f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else "")
