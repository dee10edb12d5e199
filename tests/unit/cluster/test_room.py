"""How many actors find a place on the nodes that there are."""

from dataclasses import replace

import pytest

from caco_ray.cluster import room
from caco_ray.cluster.room import Place, Pool, await_nodes, fit, make_room, missing
from caco_ray.config import ClusterConfig
from caco_ray.errors import ClusterError

GIB = 1 << 30
GPU_NODE = Place({"CPU": 8.0, "GPU": 4.0, "memory": 64 * GIB}, {"pool": "gpu"})
CPU_NODE = Place({"CPU": 16.0, "memory": 32 * GIB}, {"pool": "cpu"})
HEAD = Place({"memory": 8 * GIB, "object_store_memory": GIB})
ENGINES = Pool("engines", 2, 2, 0, 2)
SANDBOXES = Pool("sandboxes", 4, 0, 1024, 4)


@pytest.mark.parametrize(
    ("pools", "nodes", "placed"),
    [
        ([ENGINES, SANDBOXES], [HEAD, GPU_NODE, CPU_NODE], {"engines": 2, "sandboxes": 4}),
        ([ENGINES, SANDBOXES], [HEAD, GPU_NODE], {"engines": 2, "sandboxes": 1}),  # 8 cores: each pool has some
        ([ENGINES, SANDBOXES], [HEAD, CPU_NODE], {"engines": 0, "sandboxes": 4}),
        ([ENGINES, SANDBOXES], [HEAD], {"engines": 0, "sandboxes": 0}),
        ([Pool("wide", 0, 4, 0, 1)], [Place({"GPU": 2.0}), Place({"GPU": 2.0})], {"wide": 0}),  # on one node or nowhere
        ([Pool("large", 1, 0, 20 * 1024, 4)], [CPU_NODE], {"large": 1}),  # memory
        ([replace(SANDBOXES, labels={"pool": "cpu"})], [GPU_NODE, CPU_NODE], {"sandboxes": 4}),
        ([replace(SANDBOXES, labels={"pool": "cpu"})], [HEAD, GPU_NODE], {"sandboxes": 0}),
        ([Pool("grader", 0, 0, 0, 1), Pool("task", 0, 0, 0, 0)], [HEAD], {"grader": 1, "task": 0}),  # takes nothing
    ],
)
def test_fit(pools: list[Pool], nodes: list[Place], placed: dict[str, int]) -> None:
    assert fit(pools, nodes) == placed


def test_what_needs_no_gpu_leaves_the_nodes_with_gpus_alone() -> None:
    assert fit([Pool("engines", 8, 4, 0, 1), SANDBOXES], [CPU_NODE, GPU_NODE]) == {"engines": 1, "sandboxes": 4}
    assert fit([SANDBOXES, Pool("engines", 8, 4, 0, 1)], [GPU_NODE, CPU_NODE]) == {"engines": 1, "sandboxes": 4}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Place], list[list[dict[str, float]]]]:
    """Nodes, to be changed by the test, and what an autoscaler was asked for."""
    nodes: list[Place] = [HEAD, GPU_NODE]
    requests: list[list[dict[str, float]]] = []
    monkeypatch.setattr(room, "alive", lambda: nodes)
    monkeypatch.setattr(room, "request_resources", lambda bundles, bundle_label_selectors=None: requests.append(bundles))
    monkeypatch.setattr(room, "_LOOK_S", 0.01)
    return nodes, requests


def test_nodes_that_come_in_time_are_used(cluster: tuple[list[Place], list[list[dict[str, float]]]]) -> None:
    nodes, requests = cluster
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        nodes.append(CPU_NODE)  # the autoscaler heard

    assert make_room("scale", [ENGINES, SANDBOXES], ClusterConfig(wait_for_nodes_s=60), say) == {"engines": 2, "sandboxes": 4}
    assert said == ["scale: room for 1 of sandboxes 4 x (4 CPUs, 1 GiB); waiting up to 60 s for nodes"]
    assert requests == [2 * [ENGINES.each] + 4 * [SANDBOXES.each], []]


def test_without_them_it_goes_on_with_fewer_actors(cluster: tuple[list[Place], list[list[dict[str, float]]]]) -> None:
    said: list[str] = []
    assert make_room("scale", [ENGINES, SANDBOXES], ClusterConfig(wait_for_nodes_s=0), said.append) == {"engines": 2, "sandboxes": 1}
    assert said[-1] == "scale: room for 1 of sandboxes 4 x (4 CPUs, 1 GiB); going on with these"


def test_without_room_for_one_it_stops(cluster: tuple[list[Place], list[list[dict[str, float]]]]) -> None:
    nodes, requests = cluster
    nodes.remove(GPU_NODE)
    nodes.append(Place({"CPU": 3.0}))
    none = ClusterConfig(wait_for_nodes_s=0)
    with pytest.raises(ClusterError, match=r"scale: room for 0 of engines 2 x \(2 CPUs, 2 GPUs\), room for 0 of sandboxes 4 x "):
        make_room("scale", [ENGINES, SANDBOXES], none, print)
    with pytest.raises(ClusterError) as raised:
        await_nodes({"scale": [SANDBOXES], "solve": [ENGINES]}, none, print)
    assert str(raised.value).splitlines() == [
        "scale needs sandboxes 4 x (4 CPUs, 1 GiB); no node is large enough for one (the most that a node has: 3 CPUs)",
        "solve needs engines 2 x (2 CPUs, 2 GPUs); no node is large enough for one (the most that a node has: 3 CPUs, 0 GPUs)",
    ]
    assert requests[-2:] == [[SANDBOXES.each, ENGINES.each], []]


def test_a_training_needs_all_of_its_workers(cluster: tuple[list[Place], list[list[dict[str, float]]]]) -> None:
    nodes, requests = cluster
    workers, none = Pool("training.student", 2, 1, 0, 8, whole=True), ClusterConfig(wait_for_nodes_s=0)
    wanted = {"train_codegen": [replace(workers, name="training.codegen", actors=6)], "train_student": [workers]}
    with pytest.raises(ClusterError) as raised:
        await_nodes(wanted, none, print)
    assert str(raised.value).splitlines() == missing(wanted) == [
        "train_codegen needs training.codegen 6 x (2 CPUs, 1 GPUs) and no fewer; the nodes have room for 4",
        "train_student needs training.student 8 x (2 CPUs, 1 GPUs) and no fewer; the nodes have room for 4",
    ]  # fmt: skip
    assert requests == [8 * [workers.each], []], "one has the place after the other"
    with pytest.raises(ClusterError, match=r"train_student: room for 4 of training.student 8 x .*; give fewer of them, "):
        make_room("train_student", [workers], none, print)
    nodes.append(GPU_NODE)
    assert missing(wanted) == [] and make_room("train_student", [workers], none, print) == {"training.student": 8}


@pytest.mark.usefixtures("ray_cluster")
def test_a_real_cluster_is_asked_for_more() -> None:
    said: list[str] = []
    few = make_room("scale", [Pool("sandboxes", 1, 0, 0, 3)], ClusterConfig(wait_for_nodes_s=1), said.append)
    assert few == {"sandboxes": 2} and len(said) == 2
    assert make_room("scale", [Pool("sandboxes", 1, 0, 0, 2)], ClusterConfig(wait_for_nodes_s=1), said.append) == {"sandboxes": 2}
    labelled = Pool("engines", 1, 0, 0, 1, {"pool": "gpu"})
    with pytest.raises(ClusterError, match=r"scale: room for 0 of engines 1 x \(1 CPUs\) on pool=gpu; give fewer"):
        make_room("scale", [labelled], ClusterConfig(wait_for_nodes_s=0.1), said.append)
