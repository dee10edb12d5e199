"""Where pools of actors may live: nodes by their labels (`ray start --labels pool=gpu`, or `labels` of a KubeRay worker group).

What holds GPUs lives on `cluster.gpu_labels`, everything else on `cluster.cpu_labels`; without them Ray chooses alone. Selectors are
Ray's: for each label a value, `!value`, `in(a, b)` or `!in(a, b)`. https://docs.ray.io/en/latest/ray-core/scheduling/labels.html
"""

from collections.abc import Mapping
from typing import Any

import ray

from caco_ray.config import ClusterConfig
from caco_ray.errors import ClusterError

Labels = Mapping[str, str]


def selector(config: ClusterConfig, gpus: float) -> dict[str, str]:
    """Labels of the nodes on which something may live that holds so many GPUs. Empty: any node."""
    return dict((config.gpu_labels if gpus else config.cpu_labels) or {})


def matches(labels: Labels, wanted: Labels) -> bool:
    """Whether a node with these labels is one that a selector means. A label that a node lacks differs from every value."""
    return all(_is_one_of(labels.get(key), value) for key, value in wanted.items())


def nodes_with(wanted: Labels) -> list[dict[str, Any]]:
    """The living nodes that a selector means, as `ray.nodes()` tells them."""
    return [node for node in ray.nodes() if node["Alive"] and matches(node["Labels"], wanted)]


def check_labels(config: ClusterConfig) -> None:
    """Raises ClusterError where a selector means no node of the cluster: Ray would wait for one for ever."""
    for key, wanted in (("gpu_labels", config.gpu_labels), ("cpu_labels", config.cpu_labels)):
        if wanted and not nodes_with(wanted):
            raise ClusterError(
                f"cluster.{key}={_shown(wanted)}: no node has these labels (there are: {_offered(wanted)}); "
                f"start the nodes with them (`ray start --labels`), or give cluster.{key}=null for any node"
            )


def check_pinned(stage: str, pools: Mapping[str, tuple[float, float]], config: ClusterConfig) -> None:
    """`pools`: CPUs and GPUs of all actors of a pool.

    Raises:
        ClusterError: a selector means no node, or nodes that are too small together.
    """
    check_labels(config)
    for key, on_gpus in (("gpu_labels", True), ("cpu_labels", False)):
        wanted = selector(config, on_gpus)
        mine = {name: amounts for name, amounts in pools.items() if bool(amounts[1]) == on_gpus}
        for at, kind in enumerate(("CPU", "GPU")):
            needs, has = sum(amounts[at] for amounts in mine.values()), sum(node["Resources"].get(kind, 0.0) for node in nodes_with(wanted))
            if wanted and needs > has:
                where = f"nodes with cluster.{key}={_shown(wanted)}"
                raise ClusterError(
                    f"{stage} needs {needs:g} {kind}s ({', '.join(mine)}) on {where}, which have {has:g}; "
                    "give fewer replicas, more such nodes, or another selector"
                )


def _is_one_of(label: str | None, value: str) -> bool:
    plain = value.removeprefix("!")
    values = plain[3:-1].split(",") if plain.startswith("in(") else [plain]
    return (label in [each.strip() for each in values]) != value.startswith("!")


def _offered(wanted: Labels) -> str:
    offered = {f"{key}: {node['Labels'][key]}" for node in ray.nodes() if node["Alive"] for key in wanted if key in node["Labels"]}
    return ", ".join(sorted(offered)) or "none of this name"


def _shown(labels: Labels) -> str:
    return f"{{{', '.join(f'{key}: {value}' for key, value in labels.items())}}}"
