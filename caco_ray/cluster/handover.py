"""The hand-over of GPUs: what needs some starts when those before it have let them go, and not on top of them.

Actors and placement groups of an earlier stage, or of a run that was killed, can outlive it (ray#64035). Ray would let the next model wait
for them without a word. This looks at what Ray has given away; whether the memory of a device is free as well, `engines.devices` checks in
the actor that holds it.

Reads Ray's table of actors, which is not public (Ray is pinned; the tests of this module fail when it changes).
"""

import time

from ray._private.state import available_resources_per_node, state
from ray.core.generated import gcs_pb2
from ray.util import placement_group_table

from caco_ray.cluster.placement import nodes_with, selector
from caco_ray.config import ClusterConfig
from caco_ray.errors import ClusterError

_LOOK_S = 0.2
_ALIVE = gcs_pb2.ActorTableData.ActorState.Value("ALIVE")


def wait_for_gpus(stage: str, wanted: float, config: ClusterConfig) -> None:
    """Wait until so many GPUs are free on the nodes where they may be.

    Raises:
        ClusterError: they are not after `cluster.handover_timeout_s`; says who holds what.
    """
    deadline = time.monotonic() + config.handover_timeout_s
    while wanted and (free := _free_gpus(config)) < wanted:
        if time.monotonic() >= deadline:
            waited = f"{config.handover_timeout_s:g} s (cluster.handover_timeout_s)"
            raise ClusterError(
                f"{stage} needs {wanted:g} GPUs and finds {free:g} free after {waited}: "
                f"{'; '.join(gpu_holders()) or 'tasks of other jobs hold the others'}. End what holds them, or wait longer"
            )
        time.sleep(_LOOK_S)


def gpu_holders() -> list[str]:
    """Who holds GPUs by Ray's books: living actors, and placement groups with all that is in them."""
    return [*_actors(), *_placement_groups()]


def _free_gpus(config: ClusterConfig) -> float:
    allowed = {node["NodeID"] for node in nodes_with(selector(config, gpus=1))}
    return float(sum(free.get("GPU", 0.0) for node, free in available_resources_per_node().items() if node in allowed))


def _actors() -> list[str]:
    found = []
    for packed in state._connect_and_get_accessor().get_actor_table(None, None):
        actor = gcs_pb2.ActorTableData.FromString(packed)
        gpus = actor.required_resources.get("GPU", 0.0)
        if gpus and actor.state == _ALIVE and not actor.placement_group_id:
            where = f"pid {actor.pid} on {actor.address.ip_address}, job {actor.job_id.hex()}"
            found.append(f"actor {actor.name or actor.class_name} ({actor.actor_id.hex()}, {where}) holds {gpus:g}")
    return found


def _placement_groups() -> list[str]:
    found = []
    for group in placement_group_table().values():
        gpus = sum(bundle.get("GPU", 0.0) for bundle in group["bundles"].values())
        if gpus and group["state"] == "CREATED":
            found.append(f"placement group {group['name'] or group['placement_group_id']} holds {gpus:g}")
    return found
