"""`train_model` on a real local Ray."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray

from caco_ray.errors import ModelError, StorageError, UserError
from caco_ray.store import Folder
from caco_ray.training.progress import read_progress
from caco_ray.training.trainer import forget_torn_note, train_model
from caco_ray.training.types import Step
from tests.unit.training.conftest import made_up, settings

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
LONG = settings(epochs=15, checkpoint_every_steps=15)
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
    result = train(settings(workers=2, zero_stage=3, max_length=40), output_dir=tmp_path / "good", on_step=seen.append)
    assert [step.step for step in seen] == list(range(1, result.steps + 1))
    assert seen == read_progress(tmp_path / "good")
    assert result.examples + result.skipped_too_long == 48 and result.skipped_too_long > 0
    assert result.tokens == seen[-1].tokens > result.learned_tokens > 0
    assert result.final_loss == pytest.approx(seen[-1].loss)
    left = ["model", "progress.jsonl", "result.json", "skipped.jsonl", "tensorboard"]
    assert sorted(path.name for path in (tmp_path / "good").iterdir()) == left
    with pytest.raises(UserError, match=r"^training diverged at step \d+.*rows of the step: row-"):
        train(settings(learning_rate=1e30, warmup_fraction=0), output_dir=tmp_path / "bad")
    assert not (tmp_path / "bad" / "model").exists()


def test_a_killed_driver_goes_on_from_the_last_checkpoint(local_ray: str, base: Path, tmp_path: Path) -> None:
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
    assert not (tmp_path / "out" / "work").exists()


@pytest.mark.parametrize(("note", "left"), [('{"checkpoint_results": []}', ["checkpoint", "checkpoint_manager_snapshot.json"]), ('{"check', None), ("", None), (None, ["checkpoint"])])
def test_a_note_of_checkpoints_that_a_kill_cut_off_does_not_stop_the_next_start(note: str | None, left: list[str] | None, tmp_path: Path) -> None:
    run = tmp_path / "training-x"
    run.mkdir()
    (run / "checkpoint").write_text("weights")
    if note is not None:
        (run / "checkpoint_manager_snapshot.json").write_text(note)
    forget_torn_note(Folder(str(run)))
    assert (sorted(path.name for path in run.iterdir()) if run.exists() else None) == left


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
