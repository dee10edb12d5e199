"""What a user can get wrong is one clear line and exit code 2 (75 where it may pass), and leaves nothing that a later run would trust."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "jobs/run.py"), *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env=env)


def assert_one_line(done: subprocess.CompletedProcess, *parts: str, code: int = 2) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["profile=quickstart"], ["run.dir: a value is needed"]),
        (["profile=nowhere"], ["Could not find 'profile/nowhere'", "quickstart"]),
        (["scale.sample=4"], ["scale.sample: no such key; did you mean samples?"]),
        (["scale.samples=many"], ["scale.samples='many'", "valid integer"]),
        (["filters.enabled=[too_long]"], ["filters.enabled", "too_long", "too_short"]),
        (["seed=1", "-m", "scale.samples=many,4"], ["scale.samples='many'", "valid integer"]),
    ],
)
def test_a_wrong_key_or_value(arguments: list[str], parts: list[str], tmp_path: Path) -> None:
    folder = [] if arguments == ["profile=quickstart"] else [f"run.dir={tmp_path}/r"]
    assert_one_line(run("profile=fake", *arguments, *folder) if folder else run(*arguments), *parts)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{"question": "q", "answer": 1}\n{"question": "q"\n', ["line 2", "not JSON"]),
        ('{"text": "q", "answer": 1}\n', ["line 1", "no field 'question'", "seeds.fields.question", "answer, text"]),
        ('{"question": "q", "answer": 1, "id": 1}\n{"question": "r", "answer": 1, "id": 1}\n', ["line 2", "id '1'", "line 1"]),
        ("", ["holds no problems"]),
    ],
)
def test_a_wrong_seed_file(content: str, parts: list[str], tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text(content)
    fields = ["seeds.fields.id=id"] if '"id"' in content else []
    assert_one_line(run("profile=fake", "seeds=file", f"seeds.path={seeds}", *fields, f"run.dir={tmp_path}/r"), *parts)
    assert not (tmp_path / "r" / "seeds").exists()


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.py")), ids=lambda job: job.stem)
def test_help_says_how_a_job_is_called_and_does_nothing(job: Path) -> None:
    done = subprocess.run([sys.executable, str(job), "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and f"jobs/{job.name}" in done.stdout and not done.stderr


def test_a_seed_file_that_is_not_there(tmp_path: Path) -> None:
    assert_one_line(run("profile=fake", "seeds=file", "seeds.path=/no/such.jsonl", f"run.dir={tmp_path}/r"), "/no/such.jsonl", "cannot be read")


def test_a_model_folder_that_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("weights to come")
    done = run("profile=quickstart", f"models.reverse.path={tmp_path}/model", f"run.dir={tmp_path}/r")
    assert_one_line(done, str(tmp_path / "model"), "config.json")
    assert not (tmp_path / "r" / "seeds").exists()


def test_a_ray_address_that_does_not_answer(tmp_path: Path) -> None:
    done = run("profile=fake", "cluster.address=127.0.0.1:1", "cluster.connect_timeout_s=2", f"run.dir={tmp_path}/r")
    assert_one_line(done, "cluster.address=127.0.0.1:1", "does not answer", code=75)


def test_a_cluster_that_is_too_small(tmp_path: Path) -> None:
    done = run("profile=fake", "sandbox.workers=64", "cluster.num_cpus=2", "seeds.limit=4", f"run.dir={tmp_path}/r")
    assert_one_line(done, "unify needs", "CPUs", "the cluster has 2", code=75)


def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "tomatoes.txt").write_text("sow in March")
    assert_one_line(run("profile=fake", f"run.dir={tmp_path}"), "tomatoes.txt", "choose another run.dir")


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk can be mounted by root only")
def test_a_full_disk_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        assert_one_line(run("profile=fake", f"run.dir={disk}/r", "until=seeds", "seeds.shard_rows=64"), "disk is full", str(disk), code=75)
        assert not (disk / "r/seeds/_SUCCESS").exists()
        for entry in (disk / "r/seeds/manifest").glob("*.json"):
            assert (disk / "r/seeds" / json.loads(entry.read_text())["file"]).exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
