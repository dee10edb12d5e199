"""Training into an object store: a real S3 server (moto), real Ray Train, a real kill."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from caco_ray.engines.model_folder import find_folder
from caco_ray.errors import ModelError, UserError
from caco_ray.store import Folder
from caco_ray.training.remote import train_remote
from caco_ray.training.types import Step
from tests.s3_server import Door
from tests.unit.training.conftest import made_up, settings
from tests.unit.training.test_trainer import QUIET, RUNTIME


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
    training = settings(workers=2, zero_stage=3, epochs=20, checkpoint_every_steps=20)
    result = train_remote(training, base=str(base), data=[made_up()], output=s3, on_step=seen.append)
    killer.join()
    assert killed and result.steps == 120
    curve = [json.loads(line)["step"] for line in s3.read("progress.jsonl").splitlines()]
    assert curve == list(range(1, 121))
    assert s3.names() == ["model", "progress.jsonl", "result.json", "skipped.jsonl", "tensorboard"]
    assert [step.step for step in seen] == sorted({step.step for step in seen}) and seen[-1].steps == 120

    from transformers import AutoModelForCausalLM

    folder = find_folder(f"{s3}/model", None)
    assert folder == find_folder(f"{s3}/model", None) and folder.is_relative_to(tmp_path)
    AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    (s3 / "model").write("config.json", (folder / "config.json").read_bytes() + b"\n")
    assert find_folder(f"{s3}/model", None) != folder  # another model has come there


def test_what_is_wrong_with_the_data_is_one_line_and_leaves_no_result(store_ray: None, base: Path, s3: Folder) -> None:
    with pytest.raises(UserError, match=r"^training diverged at step \d+.*rows of the step: row-"):
        train_remote(settings(learning_rate=1e30, warmup_fraction=0), base=str(base), data=[made_up()], output=s3)
    assert not s3.exists("result.json") and not s3.exists("model")


def test_an_url_without_a_model_is_one_line(s3: Folder) -> None:
    with pytest.raises(ModelError, match="no such folder in the object store"):
        find_folder(f"{s3}/nothing", None)
