"""`jobs/train.py`: from a committed data set to a model, on Ray and under torchrun."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from unittest.mock import Mock

import pytest

from caco_ray.errors import ConfigError, RunDirError, SeedError
from caco_ray.schema import SHIPPED, row_id, to_table
from caco_ray.store import DatasetWriter, Folder, StageInfo
from caco_ray.store.lease import Lease
from caco_ray.training.job import _claim, run_train_job
from caco_ray.training.job_config import load_train_job
from caco_ray.training.progress import read_progress
from caco_ray.training.sources import open_data
from caco_ray.training.types import TrainResult
from tests.unit.training.conftest import make_rows, settings

ROOT = Path(__file__).parents[3]
JOB = ROOT / "jobs" / "train.py"
QUICK = {
    "epochs": 1, "learning_rate": 3e-3, "batch_rows": 8, "micro_batch_rows": 4, "max_length": 256, "dtype": "float32", "workers": 1,
    "min_steps": 1,
    "gpus_per_worker": 0, "cpus_per_worker": 1, "activation_checkpointing": "false", "checkpoint_every_steps": "null",
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed data set of two shards, one row of which was rejected, and one holds nothing to learn."""
    folder = tmp_path_factory.mktemp("run") / "dataset"
    writer = DatasetWriter(Folder(str(folder)), StageInfo("assemble", "f" * 16, {}, 2), SHIPPED)
    writer.open()
    for shard in range(2):
        rows = [
            {"row_id": row_id("x", "s", 16 * shard + number), "parent_id": "x", "instruction": row["question"], "output": row["cot"], "code": row["code"]}
            for number, row in enumerate(make_rows(16))
        ]
        rows[0]["reject_reason"] = "answer_disagrees" if shard else None
        rows[1]["output"] = "" if shard else rows[1]["output"]
        writer.commit(shard, to_table(rows, SHIPPED), 16, 0.0)
    writer.close(0.0)
    return folder


def arguments(base: Path, output: Path, changes: dict[str, str]) -> list[str]:
    given = {"training": "caco_student", "base": str(base), "output": str(output)} | changes
    return [f"{key}={value}" for key, value in given.items()] + [f"training.{key}={value}" for key, value in QUICK.items()]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment, check=False)


def test_a_committed_data_set_trains_a_model_once(base: Path, dataset: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(JOB), *arguments(base, tmp_path / "out", {"data": str(dataset)})]
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert "30 examples, 4 steps" in done.stdout
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
    said = " ".join(done.stdout.split())
    assert "loss" in said and "; learned: 30 solve; left out: 1 no_columns; the base's chat template gave way to that of the training" in said
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "Chat template: the text that it was trained with, instead of that of tiny-llama." in card
    assert str(dataset) in card and '"prompts": "alpaca"' in card
    again = run(command)
    assert (again.returncode, again.stderr) == (0, "") and "Nothing to do" in again.stdout
    other = run([*command, "training.learning_rate=0.1"])
    assert other.returncode == 2 and "made by another config (training.learning_rate was 0.003, is 0.1)" in other.stderr


def test_two_ranks_of_torchrun_train_on_a_mixture(base: Path, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"instruction": f"Say {n}.", "output": str(n)}) + "\n" for n in range(10)))
    mixture = f"[{{path:{dataset},weight:0.5}},{{path:{tmp_path}/more.jsonl,weight:2}}]"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(JOB)]
    done = run([*command, *arguments(base, tmp_path / "out", {"data": mixture}), "training.batching=packed", "training.zero_stage=3"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("40 examples, 5 steps") == 1
    assert len(read_progress(tmp_path / "out")) == -(-(15 + 20) // 8)  # half of 30, twice 10
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "/nowhere/dataset"}, "/nowhere/dataset: not complete"),
        ({"data": "here.jsonl"}, "data=here.jsonl: give an absolute path"),
        ({"data": "[{path:/a,wieght:2}]"}, "data.0.wieght: no such key"),
        ({"data": "/a", "output": "out"}, "output=out: give an absolute path"),
        ({"data": "/a", "training": "nothing"}, "Could not find 'training/nothing'"),
    ],
)
def test_a_mistake_is_one_line(changes: dict[str, str], message: str, base: Path, tmp_path: Path) -> None:
    done = run([sys.executable, str(JOB), *arguments(base, tmp_path / "out", changes)])
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_output_folder_of_somebody_else_is_left_alone(base: Path, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = run([sys.executable, str(JOB), *arguments(base, tmp_path, {"data": str(dataset)})])
    assert done.returncode == 2 and "holds 'thesis.txt', which no training made" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_kill_while_the_config_is_written_leaves_a_folder_that_can_be_taken(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"base": str(base), "output": str(tmp_path), "data": "/a", "training": settings().model_dump()}
    config = load_train_job(tree)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", Mock(side_effect=KeyboardInterrupt))
        _claim(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] != ["config.json"]
    _claim(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["base"] == str(base)


def test_a_second_driver_is_refused(base: Path, tmp_path: Path) -> None:
    config = load_train_job({"base": str(base), "output": str(tmp_path), "data": "/a", "training": settings().model_dump()})
    with Lease(Folder(str(tmp_path)), print), pytest.raises(RunDirError, match="another driver is at work there"):
        run_train_job(config)
    assert [path.name for path in tmp_path.iterdir()] == ["driver"]


def test_what_a_kill_at_the_end_left_goes(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_train_job({"base": str(base), "output": str(tmp_path), "data": "/a", "training": settings().model_dump()})
    _claim(config, tmp_path)
    (tmp_path / "model").mkdir()
    former = {field.name: {} if field.name == "skipped" else 0 for field in fields(TrainResult) if field.name != "sequences"}
    (tmp_path / "result.json").write_text(json.dumps(former))
    (tmp_path / "work" / "training-x").mkdir(parents=True)
    run_train_job(config)
    assert "Nothing to do" in capsys.readouterr().out and not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("data", "paths"),
    [("/a", ["/a"]), (["/a", {"path": "s3://b/c", "weight": 2}], ["/a", "s3://b/c"]), ({"path": "/a", "domain": "algebra"}, ["/a"])],
)
def test_data_may_be_written_short(data: object, paths: list[str]) -> None:
    tree = {"base": "/m", "output": "/o", "data": data, "training": settings(domain_tags=True).model_dump()}
    assert [entry.path for entry in load_train_job(tree).data] == paths


def test_a_domain_that_nothing_reads_is_one_line() -> None:
    tree = {"base": "/m", "output": "/o", "data": {"path": "/a", "domain": "algebra"}, "training": settings().model_dump()}
    with pytest.raises(ConfigError, match="data domain algebra of /a needs training.domain_tags true"):
        load_train_job(tree)


def test_a_data_set_teaches_the_roles_that_are_said_of_it(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(json.dumps({"code": "print(1)", "question": "What is 1?", "cot": "1"}) + "\n")
    data = [{"path": f"{tmp_path}/own.jsonl", "roles": ["sample"]}, {"path": f"{tmp_path}/own.jsonl"}]
    config = load_train_job({"base": "/m", "output": "/o", "data": data, "training": settings().model_dump()})
    some, every = (open_data(entry.path, config.training, roles=entry.roles) for entry in config.data)
    assert (some.roles, every.roles) == (("sample",), ("sample", "reverse", "solve"))
    assert [[len(each.examples(row)) for row in each.rows()] for each in (some, every)] == [[1], [2]]
    data[0]["roles"] = ["judge"]
    with pytest.raises(ConfigError, match=r"data.0.roles.0='judge'"):
        load_train_job({"base": "/m", "output": "/o", "data": data, "training": settings().model_dump()})
    data[0]["roles"] = ["solve"]
    with pytest.raises(ConfigError, match=r"data roles solve of .*own.jsonl: training.roles are sample"):
        load_train_job({"base": "/m", "output": "/o", "data": data, "training": settings(roles=["sample"]).model_dump()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": "alpaca"}, "alpaca has the role solve alone"),
        ({"early_stop_after": 2}, "early_stop_after needs heldout_fraction"),
        ({"evaluate_every_steps": 2}, "evaluate_every_steps needs heldout_fraction"),
        ({"offload": "nvme"}, "offload nvme needs zero_stage 3 and nvme_dir"),
        (
            {"offload": "nvme", "zero_stage": 3, "nvme_dir": "/fast", "checkpoint_every_steps": 2},
            "offload nvme cannot go on from checkpoints: set checkpoint_every_steps null",
        ),
        ({"offload": "cpu", "zero_stage": 0}, "offload cpu needs zero_stage"),
        ({"nvme_dir": "/fast"}, "nvme_dir /fast needs offload nvme"),
        ({"prompts": "alpaca", "roles": ["solve"], "domain_tags": True}, "domain_tags begin programs, which roles .'solve'. do not learn"),
        ({"enabled": False}, "training.enabled false leaves nothing to do here"),
        ({"liger": True}, "liger needs gpus_per_worker 1"),
        ({"flash_attention": True}, "flash_attention true needs gpus_per_worker 1 and dtype bfloat16"),
        ({"batch_rows": 6}, "batch_rows 6 is not a multiple of micro_batch_rows 4 x workers 1"),
        ({"lora": {"rang": 4}}, "training.lora.rang: no such key"),
    ],
)
def test_settings_that_do_not_fit_together_are_one_line(changes: dict[str, object], message: str) -> None:
    tree = {"base": "/m", "output": "/o", "data": "/a", "training": {**settings().model_dump(), **changes}}
    with pytest.raises(ConfigError, match=message):
        load_train_job(tree)


def test_the_domain_of_a_data_set_is_part_of_what_its_tokens_are_made_of(dataset: Path, tmp_path: Path) -> None:
    training = settings(domain_tags=True)
    (tmp_path / "a.jsonl").write_text('{"code": "1"}\n')
    for path in (dataset, tmp_path / "a.jsonl"):
        prints = [open_data(str(path), training, domain=domain).fingerprint for domain in ("algebra", "geometry", None, None)]
        assert None not in prints and len(set(prints)) == 3


def test_a_plain_file_is_named_by_what_it_holds(tmp_path: Path) -> None:
    for name, code in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"code": code}) + "\n")
    one, same, other = (open_data(f"{tmp_path}/{name}.jsonl", settings()).fingerprint for name in "abc")
    assert one == same != other
    with pytest.raises(SeedError, match="cannot be read"):
        open_data(f"{tmp_path}/nothing.jsonl", settings())
