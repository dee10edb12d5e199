"""`train_model` on a real local Ray."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import ray
from ray.train import CheckpointConfig, RunConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext

from caco_ray.errors import ClusterError, ModelError, RunDirError, StorageError, UserError
from caco_ray.store import Folder
from caco_ray.training.checkpoint import NoCheckpoints
from caco_ray.training.loop import train_loop
from caco_ray.training.prepare import prepare
from caco_ray.training.progress import read_progress
from caco_ray.training.ray_checkpoints import mend_note
from caco_ray.training.trainer import _fit, run_worker, train_model
from caco_ray.training.types import Step, TrainLoopConfig, TrainResult
from caco_ray.training.work import claim, finish, write_outcome
from tests.unit.training.conftest import made_up, settings

NOTE = "checkpoint_manager_snapshot.json"
NOTHING: dict[str, Any] = {field.name: {} if field.name in ("skipped", "sequences") else 0 for field in fields(TrainResult)}  # a result
ROOT = Path(__file__).parents[3]
DRIVER = """
import sys
from pathlib import Path
import ray
from caco_ray.training.trainer import train_model
from tests.unit.training.conftest import made_up
from tests.unit.training.test_trainer import LONG, RUNTIME
if __name__ == "__main__":
    address, base, output = sys.argv[1:]
    ray.init(address=address, log_to_driver=False, runtime_env=RUNTIME)
    train_model(LONG, base=base, data=[made_up()], output_dir=Path(output))
"""
LONG_SETTINGS = {"epochs": 15, "checkpoint_every_steps": 15}
LONG = settings(**LONG_SETTINGS)
# Ray Train's helpers are processes too: those that these tests do not need stay off.
QUIET = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "0", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
RUNTIME = {"env_vars": {"PYTHONPATH": str(ROOT), **QUIET}}


@pytest.fixture(scope="module")
def local_ray() -> Iterator[str]:
    """A Ray of two CPUs; its address."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=RUNTIME)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


def test_two_workers_train_and_errors_of_the_data_come_out_as_one_line(local_ray: str, base: Path, tmp_path: Path) -> None:
    seen: list[Step] = []
    train = partial(train_model, base=str(base), data=[made_up()])
    result = train(settings(workers=2, zero_stage=3, max_length=49), output_dir=tmp_path / "good", on_step=seen.append)
    assert [step.step for step in seen] == list(range(1, result.steps + 1))
    assert seen == read_progress(tmp_path / "good")
    assert result.examples + result.skipped["too_long"] == 48 and f"; left out: {48 - result.examples} too_long; " in result.remarks
    assert result.tokens == seen[-1].tokens > result.learned_tokens > 0
    assert result.final_loss == pytest.approx(seen[-1].loss)
    left = ["model", "progress.jsonl", "result.json", "skipped.jsonl", "tensorboard"]
    assert sorted(path.name for path in (tmp_path / "good").iterdir()) == left
    with pytest.raises(UserError, match=r"^training diverged at step \d+.*rows of the step: row-"):
        train(settings(learning_rate=1e30, warmup_fraction=0), output_dir=tmp_path / "bad")
    assert not (tmp_path / "bad" / "model").exists()


def test_a_killed_driver_goes_on_from_the_last_checkpoint(
    local_ray: str, base: Path, loop_config: Callable[..., TrainLoopConfig], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", DRIVER, local_ray, str(base), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 240
    while not any(note.stat().st_size for note in tmp_path.glob("out/work/*/checkpoint_manager_snapshot.json")):  # one is noted
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    while ray.available_resources().get("CPU", 0) < 2:  # its orphaned workers end
        assert time.monotonic() < deadline
        time.sleep(0.2)
    before = read_progress(tmp_path / "out")
    assert 15 <= len(before) < 90
    train_model(LONG, base=str(base), data=[made_up()], output_dir=tmp_path / "out")
    after = read_progress(tmp_path / "out")
    assert [step.step for step in after] == list(range(1, 91))
    assert after[:15] == before[:15]  # not trained again
    (undisturbed := tmp_path / "undisturbed").mkdir()
    train_loop(loop_config(undisturbed, **LONG_SETTINGS), NoCheckpoints())
    assert [step.loss for step in after] == pytest.approx([step.loss for step in read_progress(undisturbed)], rel=1e-5)
    assert not (tmp_path / "out" / "work").exists()


def write_checkpoint(folder: Path) -> None:
    """What two ranks leave of one."""
    (folder / "state").mkdir(parents=True)
    (folder / "ranks.txt").write_text("2")
    for rank in (0, 1):
        (folder / "state" / f"{rank}.pt").write_text("weights")
        (folder / f"files-of-rank-{rank}.json").write_text(json.dumps({f"state/{rank}.pt": 7}))


def known_to_ray(run: Path) -> list[str]:
    """The checkpoints that Ray Train finds when it starts again, oldest first."""
    manager = CheckpointManager(CheckpointConfig(num_to_keep=2), StorageContext(str(run.parent), run.name))
    found = [result.checkpoint for result in manager.best_checkpoint_results]
    assert not found or manager.latest_checkpoint_result.checkpoint == found[-1]
    return [Path(checkpoint.path).name for checkpoint in found]


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """A training with a cut-off note of checkpoints 1 and 2, and one that a kill left half-copied; mended once."""
    run = tmp_path / "training-x"
    for name in ("checkpoint_1", "checkpoint_2", "checkpoint_3"):
        write_checkpoint(run / name)
    (run / "checkpoint_3" / "files-of-rank-1.json").unlink()
    (run / NOTE).write_text('{"check')
    mend_note(Folder(str(run)))
    return run


def test_a_note_of_checkpoints_that_a_kill_cut_off_is_written_anew(noted: Path) -> None:
    assert known_to_ray(noted) == ["checkpoint_1", "checkpoint_2"]
    assert not (noted / "checkpoint_3").exists()
    before = (noted / NOTE).read_bytes()
    mend_note(Folder(str(noted)))
    assert (noted / NOTE).read_bytes() == before


@pytest.mark.parametrize("damage", ["deleted", "shorter", "without a file", "list cut off"])
def test_a_damaged_checkpoint_goes_and_the_one_before_is_taken(damage: str, noted: Path) -> None:
    newest = noted / "checkpoint_2"
    if damage == "deleted":
        shutil.rmtree(newest)
    elif damage == "without a file":
        (newest / "state" / "0.pt").unlink()
    else:
        (newest / ("state/1.pt" if damage == "shorter" else "files-of-rank-1.json")).write_text("{")
    mend_note(Folder(str(noted)))
    assert known_to_ray(noted) == ["checkpoint_1"] and not newest.exists()


def test_without_a_whole_checkpoint_a_training_starts_over(noted: Path) -> None:
    (noted / NOTE).unlink()
    mend_note(Folder(str(noted)))
    assert known_to_ray(noted) == [] and not list(noted.glob("checkpoint_*"))


@pytest.mark.parametrize("error", [StorageError("the store asks to slow down"), ClusterError("no GPU on this node")])
def test_a_fault_of_storage_or_node_is_no_result_of_the_training(
    error: UserError, loop_config: Callable[..., TrainLoopConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("caco_ray.training.loop.train_loop", fails)
    with pytest.raises(type(error)):
        run_worker(loop_config(tmp_path), NoCheckpoints(), lambda step: None)


@pytest.mark.parametrize("killed_in", ["put", "write", "delete"])
def test_a_kill_after_the_last_step_repeats_nothing(killed_in: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, data = Folder(str(tmp_path)), [replace(made_up(), fingerprint="rows")]
    prepared = prepare(settings(max_length=49), str(base), data, tmp_path)
    write_outcome(claim(output, prepared), NOTHING)
    (tmp_path / "model").mkdir()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Folder, killed_in, Mock(side_effect=KeyboardInterrupt))
        finish(output, prepared)
    if killed_in == "delete":  # that is not done at once
        shutil.rmtree(prepared.work / prepared.name)
    monkeypatch.setattr("caco_ray.training.trainer.fit", Mock(side_effect=AssertionError("trained again")))
    result = train_model(settings(max_length=49), base=str(base), data=data, output_dir=tmp_path)
    assert result == prepared.counted(TrainResult(**NOTHING)) and result.skipped
    assert (tmp_path / "skipped.jsonl").read_text() and not prepared.work.exists()


def test_checkpoints_of_other_settings_are_not_left_for_a_start_from_nothing(base: Path, tmp_path: Path) -> None:
    def start(**changes: object) -> Folder:
        return claim(Folder(str(tmp_path)), prepare(settings(**changes), str(base), [made_up()], tmp_path))

    write_checkpoint(start(zero_stage=2).local_path / "checkpoint_1")
    start(zero_stage=2, workers=2, micro_batch_rows=2)
    with pytest.raises(RunDirError, match=r"training-\w+: checkpoints .* cannot go on from, .*\(zero_stage was 2, is 1\); set it back"):
        start(zero_stage=1)
    shutil.rmtree(tmp_path / "work")
    start(zero_stage=1)


def test_a_note_is_mended_at_every_start_of_rays_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray calls `_fit` again where its process was killed."""
    run, seen = tmp_path / "training-x", []
    write_checkpoint(run / "checkpoint_1")
    (run / NOTE).write_text('{"check')
    trainer = Mock(fit=lambda: seen.append(known_to_ray(run)))
    monkeypatch.setattr("caco_ray.training.trainer._ray_trainer", lambda *_: trainer)
    _fit(Mock(), {}, Mock(), RunConfig(), Folder(str(run)))
    assert seen == [["checkpoint_1"]]


@pytest.mark.parametrize("name", ["tokens.arrow", "tokens.json", "skipped.jsonl"])
def test_tokens_that_a_kill_left_incomplete_are_made_again(name: str, base: Path, tmp_path: Path) -> None:
    train = partial(prepare, settings(max_length=49), str(base), [replace(made_up(), fingerprint="rows")], tmp_path)
    prepared = train()
    whole = (prepared.work / name).read_bytes()
    if name == "tokens.json":
        (prepared.work / name).write_text("")
    else:
        (prepared.work / name).unlink()
    assert train() == prepared and (prepared.work / name).read_bytes() == whole


@pytest.mark.parametrize(("missing", "message"), [("config.json", "no config.json"), ("model.safetensors", "no weights"), ("tokenizer.json", "tokenizer")])
def test_a_folder_that_is_no_model_is_one_clear_line(missing: str, message: str, base: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    (broken / missing).unlink()
    with pytest.raises(ModelError, match=message):
        train_model(settings(), base=str(broken), data=[made_up()], output_dir=tmp_path / "out")


def test_a_disk_too_small_is_found_before_the_first_step(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"0 MB free, the model need 100 MB"):
        train_model(settings(), base=str(base), data=[made_up()], output_dir=tmp_path / "out")
