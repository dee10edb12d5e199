"""Training into an object store: a real S3 server (moto), real Ray Train, a real kill."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
import ray

from caco_ray.engines.model_folder import find_folder
from caco_ray.errors import ModelError, StorageError, UserError
from caco_ray.store import Folder
from caco_ray.store.transfer import send_folder
from caco_ray.training.ray_checkpoints import mend_note
from caco_ray.training.remote import _BestModel, _Sender, train_remote
from caco_ray.training.types import Step, TrainResult
from caco_ray.training.work import write_outcome
from tests.s3_server import Door
from tests.unit.training.conftest import made_up, settings
from tests.unit.training.test_trainer import NOTE, NOTHING, QUIET, RUNTIME, write_checkpoint


@pytest.fixture(scope="module")
def store_ray(door: Door) -> Iterator[None]:
    """A Ray of two CPUs whose workers know the store."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=RUNTIME)
        yield
        ray.shutdown()


def kill_a_worker_after_a_checkpoint(output: Folder, killed: list[int]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any("checkpoint_" in name and name.endswith("ranks.txt") for name in output.versions()):
            workers = [child for child in psutil.process_iter(["pid", "cmdline"]) if "RayTrainWorker" in " ".join(child.info["cmdline"] or [])]
            own = [worker for worker in workers if os.getpid() in {parent.pid for parent in worker.parents()}]
            own[0].send_signal(signal.SIGKILL)
            killed.append(own[0].pid)
            return
        time.sleep(0.1)


def test_a_training_survives_a_killed_worker_and_leaves_model_and_curve_in_the_store(
    store_ray: None, base: Path, s3: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACO_RAY_CACHE", str(tmp_path))
    killed: list[int] = []
    seen: list[Step] = []
    killer = threading.Thread(target=kill_a_worker_after_a_checkpoint, args=(s3, killed))
    killer.start()
    best = {"heldout_fraction": 0.1, "evaluate_every_steps": 10, "early_stop_after": 100}  # its best models go to the store as it trains
    training = settings(workers=2, zero_stage=3, epochs=20, checkpoint_every_steps=20, **best)
    result = train_remote(training, base=str(base), data=[made_up()], output=s3, on_step=seen.append)
    killer.join()
    assert killed and result.steps > 60
    curve = [json.loads(line)["step"] for line in s3.read("progress.jsonl").splitlines()]
    assert curve == list(range(1, result.steps + 1))
    assert s3.names() == ["model", "progress.jsonl", "result.json", "skipped.jsonl", "tensorboard"]
    assert [step.step for step in seen] == sorted({step.step for step in seen}) and seen[-1].steps == result.steps

    from transformers import AutoModelForCausalLM

    folder = find_folder(f"{s3}/model", None)
    assert folder == find_folder(f"{s3}/model", None) and folder.is_relative_to(tmp_path)
    AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    (s3 / "model").write("config.json", (folder / "config.json").read_bytes() + b"\n")
    assert find_folder(f"{s3}/model", None) != folder  # another model has come there


def write_model(folder: Path, weights: str) -> None:
    """As an export does: a folder made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.json").write_text(weights)
    (folder / "model.safetensors").write_text(weights)


def test_the_best_model_so_far_is_sent_once_and_never_in_parts(door: Door, s3: Folder, tmp_path: Path) -> None:
    model, kept = tmp_path / "one" / "model", s3 / "best"
    (tmp_path / "one").mkdir()
    best = _BestModel(model, kept)
    best.send()  # there is none yet
    for weights in ("first", "second"):
        write_model(model, weights)
        best.send()
    asked = len(door.requests)
    best.send()
    assert len(door.requests) == asked
    write_model(model, "third")
    door.next("PUT", "model.safetensors", "AccessDenied")
    with pytest.raises(StorageError):
        best.send()
    (tmp_path / "two").mkdir()
    after = _BestModel(tmp_path / "two" / "model", kept)
    after.fetch()
    assert {path.read_text() for path in (tmp_path / "two" / "model").iterdir()} == {"second"}
    asked = len(door.requests)
    after.send()
    assert len(door.requests) == asked  # it is there


def test_damaged_checkpoints_in_a_store_go(s3: Folder, tmp_path: Path) -> None:
    for name in ("checkpoint_1", "checkpoint_2"):
        write_checkpoint(tmp_path / name)
        send_folder(tmp_path / name, s3 / name)
    mend_note(s3)
    assert s3.names() == []  # there was no note
    for name in ("checkpoint_1", "checkpoint_2"):
        send_folder(tmp_path / name, s3 / name)
    s3.write(NOTE, b'{"check')
    s3.write("checkpoint_2/state/0.pt", b"w")
    mend_note(s3)
    assert s3.names() == ["checkpoint_1", NOTE]
    assert json.loads(s3.read(NOTE))["latest_checkpoint_result"]["checkpoint_dir_name"] == "checkpoint_1"


def test_figures_that_the_store_refuses_do_not_end_a_training(door: Door, s3: Folder, tmp_path: Path) -> None:
    sender, step = _Sender(tmp_path, s3), Step(1, 1, 0.5, 2.0, 1e-4, 0.7, 100, 50.0, 2.0)
    door.next("PUT", "step.json", "AccessDenied")
    sender.on_step(step)
    assert not s3.exists("work/step.json")
    sender.on_step(step)
    assert s3.exists("work/step.json")


def test_what_is_wrong_with_the_data_is_one_line_and_leaves_no_result(store_ray: None, base: Path, s3: Folder) -> None:
    with pytest.raises(UserError, match=r"^training diverged at step \d+.*rows of the step: row-"):
        train_remote(settings(learning_rate=1e30, warmup_fraction=0), base=str(base), data=[made_up()], output=s3)
    assert not s3.exists("result.json") and not s3.exists("model")
    assert len(json.loads(s3.read("diverged.json"))["row_ids"]) == 8


def test_a_kill_while_checkpoints_are_deleted_repeats_nothing(base: Path, s3: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(worker: object, given: dict[str, Any], *_: object) -> None:
        """What rank 0 leaves."""
        send_folder(base, given["output"] / "model")
        write_outcome(given["output"] / "work" / given["name"], NOTHING)

    train = partial(train_remote, settings(), base=str(base), data=[made_up()], output=s3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("caco_ray.training.remote.fit", fit)
        patch.setattr(Folder, "delete", Mock(side_effect=KeyboardInterrupt))
        train()
    s3.delete("work/tokens.arrow")
    monkeypatch.setattr("caco_ray.training.remote.fit", Mock(side_effect=AssertionError("trained again")))
    sequences = {"made_up": {"sample": 24, "reverse": 24, "solve": 24}}
    assert train() == replace(TrainResult(**NOTHING), sequences=sequences, replaced_template=True)
    assert s3.names() == ["model", "result.json", "skipped.jsonl"]


def test_an_url_without_a_model_is_one_line(s3: Folder) -> None:
    with pytest.raises(ModelError, match="no such folder in the object store"):
        find_folder(f"{s3}/nothing", None)
