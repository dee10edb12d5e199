"""Where pools of actors may live: nodes by their labels (`ray start --labels pool=gpu`, or `labels` of a KubeRay worker group).

What holds GPUs lives on `cluster.gpu_labels`, everything else on `cluster.cpu_labels`; without them Ray chooses alone. Selectors are
Ray's: for each label a value, `!value`, `in(a, b)` or `!in(a, b)`. https://docs.ray.io/en/latest/ray-core/scheduling/labels.html
"""

from collections.abc import Iterable, Mapping
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


def check_labels(config: ClusterConfig, pools: Iterable[float] = (0, 1)) -> None:
    """`pools`: GPUs of each thing that is to be placed.

    Raises:
        ClusterError: a selector means no node of the cluster: Ray would wait for one for ever.
    """
    for gpus in pools:
        wanted = selector(config, gpus)
        if wanted and not nodes_with(wanted):
            key = "gpu_labels" if gpus else "cpu_labels"
            raise ClusterError(
                f"cluster.{key}={{{_shown(wanted)}}}: no node has these labels (there are: {_offered(wanted)}); "
                f"start the nodes with them (`ray start --labels`), or give cluster.{key}=null for any node"
            )


def _is_one_of(label: str | None, value: str) -> bool:
    plain = value.removeprefix("!")
    values = plain[3:-1].split(",") if plain.startswith("in(") else [plain]
    return (label in [each.strip() for each in values]) != value.startswith("!")


def _offered(wanted: Labels) -> str:
    offered = {f"{key}: {node['Labels'][key]}" for node in ray.nodes() if node["Alive"] for key in wanted if key in node["Labels"]}
    return ", ".join(sorted(offered)) or "none of this name"


def _shown(labels: Labels) -> str:
    return ", ".join(f"{key}: {value}" for key, value in labels.items())
