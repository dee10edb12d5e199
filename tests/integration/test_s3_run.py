"""A whole run in an object store: a real S3 server (moto), data stages, a training, and the same command again."""

import json
import subprocess
import sys
from pathlib import Path

from caco_ray.store import Dataset, Folder
from tests.s3_server import Door
from tests.unit.training.conftest import base  # noqa: F401  # a fixture

ROOT = Path(__file__).resolve().parents[2]
TRAINING = (
    *("enabled=true", "max_steps=3", "max_length=512", "batch_rows=8", "micro_batch_rows=8"),
    *("workers=1", "gpus_per_worker=0", "cpus_per_worker=1"),
)
SMALL = ("profile=fake", "scale.samples=20", "scale.shard_rows=10", "seeds.limit=12", "judge.enabled=false", "until=train_student")


def run(folder: Folder, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs/run.py"), *SMALL, *arguments, f"run.dir={folder}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)


def test_the_loop_and_its_student_in_an_object_store(door: Door, s3: Folder, base: Path) -> None:  # noqa: F811
    trained = (f"models.student={base}", *(f"training.student.{setting}" for setting in TRAINING))
    done = run(s3, *trained)
    assert done.returncode == 0, done.stdout + done.stderr
    shipped = list(Dataset(s3 / "dataset").rows())
    assert shipped and (s3 / "dataset").exists("README.md")
    body = json.loads((s3 / "models/student").read("_SUCCESS"))
    assert body["metrics"]["steps"] == 3
    assert (s3 / "models/student/model").exists("model.safetensors") and not (s3 / "models/student").exists("work")
    again = run(s3, *trained)
    assert again.returncode == 0 and "Nothing to do" in again.stdout, again.stdout + again.stderr
