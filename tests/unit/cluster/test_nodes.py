"""What a node tells of itself, and what a run says of it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from s3fs import S3FileSystem

from caco_ray import __version__
from caco_ray.cluster import nodes
from caco_ray.cluster.needs import drives_gpus, models_loaded, pools, stages_of
from caco_ray.cluster.node_look import SEEN, UNSEEN, look, versions
from caco_ray.cluster.nodes import Node, faults
from caco_ray.cluster.room import Place
from caco_ray.cluster.session import _reason
from caco_ray.config import Config, load_config
from caco_ray.errors import ClusterError, ConfigError

CONF = Path(__file__).resolve().parents[3] / "conf"
GIB = 1 << 30
PLACE = Place({"CPU": 4.0, "GPU": 2.0, "object_store_memory": float(GIB)})


def config(*overrides: str, profile: str = "fake", folder: str = "/runs/x") -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose("config", [f"profile={profile}", f"run.dir={folder}", *overrides])
    return load_config(OmegaConf.to_container(tree, resolve=True))  # type: ignore[arg-type]


def node(address: str = "10.0.0.1", **other: Any) -> Node:
    facts = {
        **versions(), "gpus": 2, "shm_bytes": GIB, "ray_disk_used": 0.5, "sandbox": "L2", "sandbox_said": "", "absent": [], "storage": SEEN, "free_bytes": GIB,
    }  # fmt: skip
    return Node(address, address, PLACE, {**facts, **other})


def test_a_node_that_has_everything_has_no_fault() -> None:
    assert faults(config("model@models.judge=instruct_32b"), ("scale", "judge"), [node()]) == []


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        ({"Python": "3.9.1"}, "Python 3.9.1, the driver has 3"),
        ({"Ray": "2.1.0"}, "Ray 2.1.0, the driver has 2"),
        ({"caco_ray": "0.0.1", "code": "x"}, f"caco_ray 0.0.1, the driver has {__version__}; use one image or lock everywhere"),
        ({"code": "x"}, f"caco_ray {__version__}, but other code than the driver's"),
        ({"shm_bytes": 64 << 20}, "/dev/shm has 0.06 GiB, Ray's object store 1.00"),
        ({"gpus": 0}, "Ray was told of 2 GPUs, the NVIDIA driver shows 0; models.judge need them"),
        ({"sandbox": "", "sandbox_said": "no Landlock"}, "sandbox.require=L2: no Landlock"),
        ({"storage": UNSEEN, "free_bytes": None}, "run.dir=/runs/x is not the driver's folder there"),
        ({"storage": "s3://b: the store cannot be reached", "free_bytes": None}, "run.dir: s3://b: the store cannot be reached"),
        ({"free_bytes": 1 << 20}, "run.dir=/runs/x has 0.00 GiB free, the run's rows may take 0.07"),
        ({"ray_disk_used": 0.97}, "the disk of /tmp/ray is 97% full"),
    ],
)
def test_each_thing_missing_is_one_line(fact: dict[str, Any], said: str) -> None:
    lines = faults(config("model@models.judge=instruct_32b"), ("scale", "judge"), [node(**fact)])
    assert len(lines) == 1 and lines[0].startswith(f"node 10.0.0.1: {said}") and "\n" not in lines[0], lines


def test_a_model_that_is_not_on_every_node_is_named() -> None:
    given = config("model@models.judge=instruct_32b", "models.judge.path=/models/judge")
    assert faults(given, ("judge",), [node(absent=[("/models/judge", None)]), node("10.0.0.2")]) == [
        "node 10.0.0.1: models.judge.path=/models/judge: no such folder"
    ]


def test_a_model_of_the_hub_must_be_in_the_cache_of_the_nodes_that_load_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = config("seeds=builtin", profile="cluster")
    assert {each.key: each.path for each in models_loaded(given, stages_of(given))} == {
        "models.base": "Qwen/Qwen2.5-Coder-7B",
        "models.reverse.path": "Qwen/Qwen3-8B",
        "models.solve.path": "Qwen/Qwen3-8B",
        "models.judge.path": "Qwen/Qwen3-32B",
        "models.student": "Qwen/Qwen2.5-Math-7B",
    }
    assert faults(given, ("judge",), [node(free_bytes=None, absent=[("Qwen/Qwen3-32B", None)])]) == [
        "node 10.0.0.1: models.judge.path=Qwen/Qwen3-32B: not in the Hugging Face cache there (HF_HOME); run `hf download Qwen/Qwen3-32B` on "
        "each such node, or allow it with cluster.allow_downloads=true"
    ]
    assert models_loaded(config("seeds=builtin", "+cluster.allow_downloads=true", profile="cluster"), ("judge",)) == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--a--b"
    (cached / "snapshots" / "0123").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123")
    assert look(str(tmp_path), "x", "me", None, [("a/b", None), ("a/b", "v2"), ("a/c", None)], 30)["absent"] == [
        ("a/b", "v2"),
        ("a/c", None),
    ]


def test_the_driver_reads_the_bases_of_trainings_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    given = config("seeds=builtin", "+training.codegen.enabled=false", profile="cluster", folder=str(tmp_path / "run"))
    monkeypatch.setattr(nodes, "listed", lambda besides=(): [])
    monkeypatch.setattr(nodes, "missing", lambda wanted: [])
    line = (
        "the driver: models.student=Qwen/Qwen2.5-Math-7B: not in the Hugging Face cache there (HF_HOME); run `hf download "
        "Qwen/Qwen2.5-Math-7B` there, or allow it with cluster.allow_downloads=true"
    )
    assert nodes.examine(given, stages_of(given)) == ([], [line])
    with pytest.raises(ClusterError) as raised:
        nodes.Preflight(given, stages_of(given), print).check()
    assert str(raised.value) == line
    assert nodes.examine(given, ("scale", "judge")) == ([], []), "no other model is loaded by the driver"


def test_nodes_that_lack_the_same_share_a_line() -> None:
    lines = faults(config(), ("scale",), [node(f"10.0.0.{number}", gpus=0, shm_bytes=0) for number in range(9)])
    assert len(lines) == 1 and lines[0].startswith("node 10.0.0.0, 10.0.0.1, 10.0.0.2 and 6 more: /dev/shm"), (
        lines
    )  # the fake engine has no GPU
    silent = Node("a", "10.0.0.7", PLACE, silence="no answer in 1 s")
    assert faults(config(), ("scale",), [node(), silent]) == ["node 10.0.0.7: no answer in 1 s"]


def test_a_node_looks_at_itself(tmp_path: Path) -> None:
    (tmp_path / "mark").mkdir()
    (tmp_path / "mark" / "driver").touch()
    facts = look(
        str(tmp_path), "mark/driver", "me", "L0", [(str(tmp_path), None), (str(tmp_path / "model"), None), ("nobody/nothing", None)], 30
    )
    assert {name: facts[name] for name in versions()} == versions() and len(facts["code"]) == 16
    assert facts["storage"] == SEEN and facts["free_bytes"] > 0 and (tmp_path / "mark" / "me").exists()
    assert facts["absent"] == [(str(tmp_path / "model"), None), ("nobody/nothing", None)]
    assert facts["sandbox"] >= "L0" and facts["shm_bytes"] > 0 and 0 <= facts["ray_disk_used"] < 1


def test_storage_that_is_not_the_drivers_is_not_written_to(tmp_path: Path) -> None:
    assert look(str(tmp_path / "run"), "mark/driver", "me", None, [], 30)["storage"] == UNSEEN
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    assert "a file stands where a folder is needed" in look(str(tmp_path / "file"), "mark/driver", "me", None, [], 30)["storage"]
    assert "no such storage" in look("nowhere://bucket/run", "mark/driver", "me", None, [], 30)["storage"]


def test_storage_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "mark").mkdir()
    os.mkfifo(tmp_path / "mark" / "driver")  # reading it waits for a writer
    said = look(str(tmp_path), "mark/driver", "me", None, [], 0.2)["storage"]
    os.open(tmp_path / "mark" / "driver", os.O_RDWR)  # let the reader go
    assert said == f"{tmp_path}: no answer in 0.2 s"


def test_a_store_that_the_driver_cannot_reach_is_a_line_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(nodes, "listed", lambda: [node()])
    monkeypatch.setattr(nodes, "missing", lambda wanted: [])
    found, lines = nodes.examine(config(folder=f"{tmp_path}/file/run"), ("scale",))
    assert [each.silence for each in found] == ["not asked"] and len(lines) == 1
    assert lines[0].startswith("the driver: run.dir: ") and "a file stands where a folder is needed" in lines[0]


@pytest.fixture
def no_s3_clients() -> Iterator[None]:
    """fsspec keeps clients, each with its endpoint: none of another test's, and none for another test."""
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("no_s3_clients")
def test_an_object_store_where_nothing_listens_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and not listened at
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        said = f"the store at {endpoint} cannot be reached (Connection refused)"
        monkeypatch.setattr(nodes, "listed", lambda: [node()])
        monkeypatch.setattr(nodes, "missing", lambda wanted: [])
        monkeypatch.setattr(S3FileSystem, "_call_s3", None)  # its client, which tries for minutes, is not asked
        _, lines = nodes.examine(config(folder="s3://closed/run"), ("scale",))
        assert len(lines) == 1 and lines[0].startswith(f"the driver: run.dir: s3://closed/run: {said}"), lines
        there = look("s3://closed/run", "mark/driver", "me", None, [], 60)["storage"]
        assert there.startswith(f"s3://closed/run: {said}"), there


def test_a_sandbox_level_that_a_node_does_not_give_is_one_line(tmp_path: Path) -> None:
    """The node refuses namespaces, as a default Kubernetes pod does: L3 needs them."""
    program = (
        "import json, sys; from caco_ray.cluster.node_look import look; from caco_ray.sandbox.guest import libc; from hostile.pod import runtime_default\n"
        "libc.no_new_privileges(); runtime_default(); print(json.dumps(look(sys.argv[1], 'none', 'me', 'L3', [], 30)))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{CONF.parent / 'tests'}:{CONF.parent}"}
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["sandbox"] == ""
    lines = faults(config("sandbox.require=L3"), ("scale",), [node(sandbox="", sandbox_said=facts["sandbox_said"])])
    assert len(lines) == 1 and lines[0].startswith("node 10.0.0.1: sandbox.require=L3: this machine does not give isolation level L3. L3: ")
    assert "\n" not in lines[0]


def test_needs_of_a_profile() -> None:
    given = config("seeds=builtin", profile="cluster")
    on = stages_of(given)
    assert {"train_codegen", "scale", "judge", "train_student"} <= set(on)
    assert {pool.name: pool.gpus for stage in on for pool in pools(given, stage)}[
        "training.codegen"
    ] == given.training.codegen.gpus_per_worker
    assert drives_gpus(given, on)[:2] == ["training.codegen", "models.sampler"] and drives_gpus(config(), stages_of(config())) == []
    assert stages_of(config("until=scale")) == ("seeds", "unify", "scale")


def test_trainings_need_all_of_their_workers() -> None:
    given = config(profile="gpu8")
    assert {pool.name: pool.least for stage in stages_of(given) for pool in pools(given, stage) if pool.least > 1} == {
        "training.codegen": given.training.codegen.workers,
        "training.student": given.training.student.workers,
    }


@pytest.mark.parametrize(
    ("seeds", "converts"),
    [
        ([], False),
        (["seeds=procedural"], True),
        (["seeds=file", "seeds.path=/data/mine.jsonl"], True),
        (["seeds=file", "seeds.path=/data/mine.jsonl", "+seeds.fields.code=program"], False),  # known when it has been read
    ],
)
def test_the_converter_is_needed_where_seeds_bring_no_code(seeds: list[str], converts: bool) -> None:
    given = config(*seeds, "until=unify", profile="gpu8")
    on = stages_of(given)
    assert ("models.unify" in [pool.name for stage in on for pool in pools(given, stage)]) == converts
    assert drives_gpus(given, on) == ["models.unify"] * converts
    assert [each.path for each in models_loaded(given, on)] == ["Qwen/Qwen2.5-72B-Instruct"] * converts


def test_a_sandbox_that_no_run_could_use_is_refused_with_its_config() -> None:
    """A node tries what is configured, whatever is allowed."""
    with pytest.raises(ConfigError, match="sandbox: require L0 isolates nothing: it needs allow_unsafe true"):
        config("++sandbox.require=L0")
    assert config("++sandbox.require=L0", "++sandbox.allow_unsafe=true").sandbox.require == "L0"


@pytest.mark.parametrize("arguments", [["cluster=True", "profile=cluster"], ["profile=cluster"], [".", "run.dir=/runs/x"]])
def test_the_doctor_takes_no_run_for_a_folder(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(CONF.parent / "jobs/doctor.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    wrong = next(each for each in arguments if "=" in each)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {wrong}: give cluster=true ") and done.stderr.count("\n") == 1


def test_unequal_versions_are_one_line() -> None:
    from ray._private.utils import check_version_info

    with pytest.raises(RuntimeError) as raised:
        check_version_info({"ray_version": "2.55.1", "python_version": "3.9.1"}, "node 10.0.0.1")
    said = _reason(raised.value)
    assert "\n" not in said and "Ray: 2.55.1 Python: 3.9.1" in said and f"Ray: {versions()['Ray']}" in said, said
