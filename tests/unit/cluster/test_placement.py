"""Where pools live and when they start, on a cluster of a node with (fake) GPUs and one without."""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group

from caco_ray.cluster.placement import check_labels, matches
from caco_ray.cluster.session import connected
from caco_ray.config import ClusterConfig, validate
from caco_ray.errors import ClusterError, ConfigError
from caco_ray.schema import PROGRAM, live, to_table
from caco_ray.source import SampleRange
from caco_ray.stage import Operator, Stage, run_stage
from caco_ray.store import Dataset, Folder, StageInfo

PINNED = ClusterConfig(gpu_labels={"pool": "gpu"}, cpu_labels={"pool": "!gpu"}, handover_timeout_s=1)


@pytest.fixture(scope="module", autouse=True)
def cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    cloudpickle.register_pickle_by_value(request.module)
    size = {"num_cpus": 2, "object_store_memory": 100 << 20}
    nodes = Cluster(initialize_head=True, head_node_args={**size, "num_gpus": 2, "labels": {"pool": "gpu"}, "include_dashboard": False})
    try:
        nodes.add_node(**size, labels={"pool": "cpu"})
        nodes.wait_for_nodes()
        with connected(ClusterConfig(address=nodes.address)):
            yield
    finally:
        nodes.shutdown()


class Where:
    """Notes the pool in which it ran, and the GPUs that it was given."""

    def __init__(self, column: str) -> None:
        self.column = column

    def __call__(self, table: pa.Table) -> pa.Table:
        rows, context = table.to_pylist(), ray.get_runtime_context()
        for row in live(rows):
            row[self.column] = f"{context.get_node_labels()['pool']} {len(ray.get_gpu_ids())}"
        return to_table(rows, table.schema)


def stage(folder: Path, *others: Operator, gpus: int = 2, cluster: ClusterConfig = PINNED) -> Stage:
    operators = (Operator("model", lambda: Where("code"), cpus=1, gpus=gpus, actors=1), *others)
    source = SampleRange("scale", 4, 2, PROGRAM)
    return Stage(StageInfo("scale", "f", {}, source.shards), Folder(str(folder / "programs")), source, operators, PROGRAM, cluster=cluster)


def run(made: Stage) -> list[dict]:
    run_stage(made, lambda entry: None)
    return list(Dataset(made.folder).rows())


def test_what_holds_gpus_lives_on_their_nodes_and_nothing_else_does(tmp_path: Path) -> None:
    tasks, actors = Operator("filter", lambda: Where("exec_status")), Operator("sandbox", lambda: Where("exec_error"), cpus=1, actors=1)
    rows = run(stage(tmp_path, tasks, actors))
    assert {(row["code"], row["exec_status"], row["exec_error"]) for row in rows} == {("gpu 2", "cpu 0", "cpu 0")}


def test_a_gpu_that_is_not_handed_over_is_noticed_and_its_holder_is_named(tmp_path: Path) -> None:
    @ray.remote(num_gpus=1)
    class Leaked:
        def pid(self) -> int:
            import os

            return os.getpid()

    held = Leaked.remote()
    pid = ray.get(held.pid.remote())
    said = rf"^scale needs 2 GPUs and finds 1 free after 1 s \(cluster.handover_timeout_s\): actor \S*Leaked \(\w+, pid {pid} on [\d.]+, .*holds 1\."
    with pytest.raises(ClusterError, match=said) as caught:
        run(stage(tmp_path))
    assert "\n" not in str(caught.value)
    assert Folder(str(tmp_path / "programs")).names("manifest") == []
    ray.kill(held)
    assert len(run(stage(tmp_path, cluster=PINNED.model_copy(update={"handover_timeout_s": 60})))) == 4  # waits for it to be gone


def test_a_placement_group_that_is_left_over_is_named_too(tmp_path: Path) -> None:
    group = placement_group([{"GPU": 2}], name="left-over")
    ray.get(group.ready())
    try:
        with pytest.raises(ClusterError, match="finds 0 free .*: placement group left-over holds 2"):
            run(stage(tmp_path, gpus=1))
    finally:
        remove_placement_group(group)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"gpu_labels": {"pool": "tpu"}}, "cluster.gpu_labels={pool: tpu}: no node has these labels (there are: pool: cpu, pool: gpu)"),
        ({"cpu_labels": {"rack": "7"}}, "cluster.cpu_labels={rack: 7}: no node has these labels (there are: none of this name)"),
    ],
)
def test_a_selector_that_means_no_node_is_refused(tmp_path: Path, labels: dict, said: str) -> None:
    with pytest.raises(ClusterError, match=re.escape(said)):
        run(stage(tmp_path, cluster=ClusterConfig(**labels)))
    with pytest.raises(ClusterError, match=re.escape(said)):
        check_labels(ClusterConfig(**labels))


def test_pinned_pools_must_fit_on_the_nodes_that_are_meant(tmp_path: Path) -> None:
    said = "scale needs 3 CPUs (sandbox) on nodes with cluster.cpu_labels={pool: !gpu}, which have 2; give fewer replicas"
    with pytest.raises(ClusterError, match=re.escape(said)):
        run(stage(tmp_path, Operator("sandbox", lambda: Where("exec_error"), cpus=1, actors=3)))


@pytest.mark.parametrize(
    ("value", "means"),
    [("a", {"a"}), ("!a", {"b", "c", None}), ("in(a, b)", {"a", "b"}), ("in(a,c)", {"a", "c"}), ("!in(a, b)", {"c", None})],
)
def test_selectors_mean_what_they_mean_to_ray(value: str, means: set[str | None]) -> None:
    labels = {label: {"pool": label} if label else {} for label in ("a", "b", "c", None)}
    assert {label for label, own in labels.items() if matches(own, {"pool": value})} == means


@pytest.mark.parametrize("value", ["", "!", "in()", "in(a", "a b", "!!a", "-a", "a" * 64])
def test_what_is_no_selector_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="gpu_labels.pool="):
        validate(ClusterConfig, {"gpu_labels": {"pool": value}})
