"""`repair=` on a real run: only the damaged shards are made again, and what was made of them where their rows changed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from caco_ray.store import Dataset, Folder

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("profile=fake", "scale.samples=40", "scale.shard_rows=10", "seeds.limit=12", "training.codegen.enabled=false", "until=reverse")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "jobs" / "run.py"), *SMALL, f"run.dir={folder}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repair") / "run"
    done = run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def parts(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("part-*.parquet") if "set_aside" not in path.parts}


def part(folder: Path, stage: str, shard: int) -> Path:
    return folder / stage / Dataset(Folder(str(folder / stage))).entries[shard].file


def test_damage_is_refused_and_repair_makes_the_damaged_shards_again(finished: Path) -> None:
    before = parts(finished)
    rows = [row["row_id"] for row in Dataset(Folder(str(finished / "problems"))).rows(kept_only=False)]
    broken = part(finished, "programs", 2)
    broken.write_bytes(broken.read_bytes()[:-9])
    lost = part(finished, "problems", 1)
    lost.unlink()
    (finished / "selected" / "data" / "notes.txt").write_text("mine")

    refused = run(finished)
    assert refused.returncode == 2 and "selected/data/notes.txt: no file of this stage" in refused.stderr, refused.stdout + refused.stderr
    assert refused.stderr.count("\n") == 1 and "repair=all" in refused.stderr

    mended = run(finished, "repair=all")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    for name in (broken.name, lost.name, "notes.txt"):
        assert f"{name}: " in mended.stdout
    after = parts(finished)
    kept = before.keys() - {str(path.relative_to(finished)) for path in (broken, lost)}
    assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}, "whole shards are left alone"
    assert len(after) == len(before)
    assert [row["row_id"] for row in Dataset(Folder(str(finished / "problems"))).rows(kept_only=False)] == rows
    assert (finished / "set_aside" / "selected" / "data" / "notes.txt").read_text() == "mine"
    assert "Nothing to do" in run(finished).stdout


def test_changed_rows_are_followed_by_what_was_made_of_them(finished: Path) -> None:
    """The old entry is made to tell of other rows, as if the model had answered otherwise the first time."""
    success = finished / "selected" / "_SUCCESS"
    body = json.loads(success.read_text())
    for entry in body["entries"]:
        entry["content"] = "0" * 64 if entry["shard"] == 3 else entry["content"]
    success.write_text(json.dumps(body))
    manifest = finished / "selected" / "manifest" / "000003.json"
    manifest.write_text(json.dumps(body["entries"][3]))
    part(finished, "selected", 3).unlink()
    before = parts(finished)

    mended = run(finished, "repair=select")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "made again with other rows than before: shards 3" in mended.stdout
    after = parts(finished)
    gone = before.keys() - after.keys()
    assert len(gone) == 1 and "problems/data/part-000003" in gone.pop(), "the child of the changed shard, and no other"
    assert "Nothing to do" in run(finished).stdout


def test_a_second_driver_is_refused_naming_the_first(finished: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", "import sys, time\nfrom caco_ray.store import Folder\nfrom caco_ray.store.lease import Lease\n"
         "with Lease(Folder(sys.argv[1]), print):\n print('held', flush=True)\n time.sleep(600)", str(finished)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    second = run(finished)
    assert second.returncode == 2 and f"another driver is at work there (pid {first.pid} on " in second.stderr, second.stderr
    first.kill()
    first.wait()
    first.stdout.close()
    third = run(finished)
    assert third.returncode == 0 and "taking over" in third.stdout
