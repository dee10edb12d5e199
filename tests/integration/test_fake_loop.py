"""The whole loop with the fake engine: real Ray, real sandbox, real commits; no model."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = {
    "unify": "code_cot",
    "scale": "programs",
    "select": "selected",
    "reverse": "problems",
    "solve": "solutions",
    "judge": "judged",
    "assemble": "dataset",
}
SMALL = ("profile=fake", "scale.samples=60", "scale.shard_rows=20", "seeds.limit=24")


def job(name: str, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "jobs" / name), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def totals(folder: Path) -> dict:
    body = json.loads((folder / "_SUCCESS").read_text())
    sums = {key: sum(entry["totals"][key] for entry in body["entries"]) for key in ("rows_in", "rows", "kept", "quarantined")}
    sums["rejected"] = sum(sum(entry["totals"]["rejected"].values()) for entry in body["entries"])
    return {**sums, "fan_out": body["fan_out"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("loop") / "run"
    done = job("run.py", *SMALL, f"run.dir={folder}")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_stage_conserves_its_rows(finished: Path) -> None:
    counts = {stage: totals(finished / folder) for stage, folder in STAGES.items()}
    for stage, count in counts.items():
        assert count["rows_in"] * count["fan_out"] == count["rows"] == count["kept"] + count["rejected"] + count["quarantined"], stage
        assert count["quarantined"] == 0, stage
    chain = list(STAGES)
    for before, after in pairwise(chain[1:]):
        assert counts[after]["rows_in"] == counts[before]["kept"], after
    assert counts["assemble"]["kept"] > 20


def test_shipped_rows_have_the_published_columns_first_and_json_lines_beside(finished: Path) -> None:
    import pyarrow.parquet as pq

    files = sorted((finished / "dataset" / "data").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert list(rows[0])[:4] == ["instruction", "output", "answer", "code"]
    assert all(row[name] for row in rows for name in ("instruction", "output", "answer", "code", "program_id", "problem_id", "solution_id"))
    lines = [json.loads(line) for file in (finished / "dataset" / "jsonl").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert {line["row_id"] for line in lines} == {row["row_id"] for row in rows}
    assert (finished / "dataset" / "README.md").exists() and (finished / "report.html").exists()


def test_a_second_run_does_no_work_and_says_so(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")}
    again = job("run.py", *SMALL, f"run.dir={finished}")
    assert again.returncode == 0 and "Nothing to do" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")} == before


def test_another_config_is_refused_with_the_key(finished: Path) -> None:
    other = job("run.py", *SMALL, f"run.dir={finished}", "sampling.temperature=0.5")
    assert other.returncode == 2
    assert "sampling.temperature was 0.9, is 0.5" in other.stderr and other.stderr.count("\n") == 1


def test_verify_proves_every_row_and_finds_a_planted_lie(finished: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    honest = job("verify.py", f"dataset={finished / 'dataset'}")
    assert honest.returncode == 0 and "mismatches 0" in honest.stdout, honest.stdout + honest.stderr
    file = next((finished / "dataset" / "data").glob("*.parquet"))
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[0]["answer"] = "123456"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "lie.parquet")
    lying = job("verify.py", f"dataset={tmp_path}")
    assert lying.returncode == 1 and "mismatches 1, 1 answer_differs" in lying.stdout


def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    slow = (*SMALL, f"run.dir={tmp_path}", "models.sampler.seconds_per_token=0.003", "until=scale")
    first = subprocess.Popen([sys.executable, str(ROOT / "jobs/run.py"), *slow], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    manifest, deadline = tmp_path / "programs" / "manifest", time.monotonic() + 200
    while not (manifest.is_dir() and list(manifest.glob("*.json"))):
        assert first.poll() is None and time.monotonic() < deadline, first.stderr and first.stderr.read()
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGINT)
    _, errors = first.communicate(timeout=90)
    assert first.returncode == 130 and "the same command goes on" in errors
    kept = {path.name: path.read_bytes() for path in manifest.glob("*.json")}
    second = job("run.py", *slow)
    assert second.returncode == 0, second.stderr
    assert all((manifest / name).read_bytes() == data for name, data in kept.items())
    assert totals(tmp_path / "programs")["rows"] == 60


def test_from_needs_the_stages_before(tmp_path: Path) -> None:
    done = job("run.py", *SMALL, f"run.dir={tmp_path}", "from=solve")
    assert done.returncode == 2 and "not complete; run the stages before this one first" in done.stderr
