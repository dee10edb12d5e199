"""`scale.accept=N scale.budget=M` on real Ray with the fake engine: ends by itself, says why, and survives kills of the driver."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caco_ray.schema import is_measured
from caco_ray.store import Dataset, Folder

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("profile=fake", "scale.shard_rows=10", "seeds.limit=24", "until=scale")
TARGET = ("scale.samples=30", "scale.accept=45", "scale.budget=400")  # passes of three shards


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "jobs/run.py"), *SMALL, *arguments, f"run.dir={folder}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


def programs(folder: Path) -> list[dict]:
    rows = Dataset(Folder(str(folder / "programs"))).rows(kept_only=False)
    words = "exec_error"  # of a program that ran out of time, with the seconds that it used
    return [{name: value for name, value in row.items() if not is_measured(name) and name != words} for row in rows]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("calm") / "run"
    done = run(folder, *TARGET)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_it_samples_until_the_target_and_says_so(calm: tuple[Path, str]) -> None:
    folder, said = calm
    rows = programs(folder)
    kept = sum(row["reject_reason"] is None for row in rows)
    assert kept >= 45 and len(rows) < 400
    assert f"target of 45 programs reached: {kept} kept of {len(rows)} samples" in said
    assert sorted(row["sample_index"] for row in rows) == list(range(len(rows)))


def test_a_budget_that_is_spent_is_said_and_the_run_goes_on(tmp_path: Path) -> None:
    done = run(tmp_path, "scale.samples=20", "scale.accept=25", "scale.budget=25", "until=select")
    assert done.returncode == 0 and "budget of 25 samples spent, target of 25 programs missed" in done.stdout, done.stdout + done.stderr
    assert len(programs(tmp_path)) == 25 and (tmp_path / "selected" / "_SUCCESS").exists()


def test_a_kill_between_rounds_loses_and_repeats_nothing(calm: tuple[Path, str], tmp_path: Path) -> None:
    pace = "models.sampler.seconds_per_token=0.002"  # does not change the rows
    manifest = tmp_path / "programs" / "manifest"
    kill_after(tmp_path, 4, pace)  # shards: in the middle of the second pass
    assert not (tmp_path / "programs" / "_SUCCESS").exists()
    committed = {path.name: path.read_bytes() for path in manifest.glob("*.json")}
    last = run(tmp_path, *TARGET)
    assert last.returncode == 0, last.stderr
    assert all((manifest / name).read_bytes() == data for name, data in committed.items())
    assert sorted(programs(tmp_path), key=lambda row: row["sample_index"]) == programs(calm[0])


def kill_after(folder: Path, shards: int, pace: str) -> None:
    """Start the run and kill its driver once so many shards are committed."""
    command = [sys.executable, str(ROOT / "jobs/run.py"), *SMALL, *TARGET, pace, f"run.dir={folder}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    manifest, deadline = folder / "programs" / "manifest", time.monotonic() + 200
    while not (manifest.is_dir() and len(list(manifest.glob("*.json"))) >= shards):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr and process.stderr.read()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def test_the_entries_are_the_shards_of_all_rounds(calm: tuple[Path, str]) -> None:
    body = json.loads((calm[0] / "programs" / "_SUCCESS").read_text())
    assert [entry["shard"] for entry in body["entries"]] == list(range(body["shards"]))
