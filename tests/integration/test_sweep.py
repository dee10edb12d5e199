"""A sweep on a real Ray head with its job server: four points, one of which fails at first; submitting again starts nothing twice."""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import requests

ROOT = Path(__file__).resolve().parents[2]
SWEEP = "sampling.temperature=0.7,0.9 scale.samples=8,16"
SMALL = ("profile=fake", "seeds.limit=6", "++sandbox.workers=1", "until=select")
PATIENCE_S = 240


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def environment() -> dict[str, str]:
    """Of the head, its jobs and the submitter: `python` is the tests' own, and a job server on the loopback needs no token."""
    mine = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {**mine, "PATH": f"{Path(sys.executable).parent}:{mine['PATH']}", "RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Address of the job server of a head of four logical CPUs."""
    port, dashboard, agent, agent_grpc, metrics, client = free_ports(6)
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:  # short: Ray puts sockets there
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=4", f"--temp-dir={folder}", "--node-ip-address=127.0.0.1",
            f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
            f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}", f"--object-store-memory={100 << 20}", "--disable-usage-stats",
        ]  # fmt: skip
        log = Path(folder) / "start.log"
        with log.open("w") as file:
            started = subprocess.Popen(command, env=environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            address, deadline = f"http://127.0.0.1:{dashboard}", time.monotonic() + PATIENCE_S
            while not answers(address):
                assert started.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield address
        finally:
            family = psutil.Process(started.pid).children(recursive=True) if started.poll() is None else []
            for process in (started, *family):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            started.wait()


def answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/api/jobs/", timeout=5).ok
    except requests.RequestException:
        return False


def submit(address: str, base: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        str(ROOT / "jobs/submit.py"),
        *SMALL,
        f"sweep={SWEEP}",
        f"address={address}",
        "parallel=2",
        f"run.dir={base}",
        *arguments,
    ]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def jobs(address: str) -> dict[str, str]:
    return {job["submission_id"]: job["status"] for job in requests.get(f"{address}/api/jobs/", timeout=30).json() if job["submission_id"]}


def test_four_points_once_each_and_a_failed_one_again(head: str, tmp_path: Path) -> None:
    from caco_ray.sweep import expand

    base = tmp_path / "base"
    points = expand(SWEEP, [*SMALL, f"run.dir={base}"])
    base.mkdir()
    Path(points[3].run_dir).write_text("a file where the run's folder should be")

    first = submit(head, base)
    assert first.returncode == 1, first.stdout + first.stderr
    assert jobs(head) == {point.job_id: "SUCCEEDED" for point in points[:3]} | {points[3].job_id: "FAILED"}
    assert f"FAILED: {points[3].label}: error: {points[3].run_dir}" in first.stdout

    log = requests.get(f"{head}/api/jobs/{points[0].job_id}/logs", timeout=30).json()["logs"]
    assert "\x1b" not in log and re.search(r"^scale +8 rows, ", log, re.MULTILINE), log

    Path(points[3].run_dir).unlink()
    second = submit(head, base)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "1 submitted." in second.stdout
    after = jobs(head)
    assert after == {point.job_id: "SUCCEEDED" for point in points[:3]} | {points[3].job_id: "FAILED", f"{points[3].job_id}-2": "SUCCEEDED"}
    written = {path: path.stat().st_mtime_ns for path in base.rglob("*/manifest/*.json")}

    third = submit(head, base)
    assert third.returncode == 0 and "Nothing was submitted" in third.stdout
    assert jobs(head) == after
    assert {path: path.stat().st_mtime_ns for path in base.rglob("*/manifest/*.json")} == written

    rows = pq.read_table(base / "sweep.parquet").to_pylist()
    assert [(row["sampling.temperature"], row["scale.samples"], row["programs_sampled"]) for row in rows] == [
        (0.7, 8, 8), (0.7, 16, 16), (0.9, 8, 8), (0.9, 16, 16),
    ]  # fmt: skip
    for row in rows:
        assert row["status"] == "SUCCEEDED" and row["exit_code"] == 0 and row["job_seconds"] > 0 and row["fault"] is None
        assert row["select_rows_in"] == row["programs_kept"] == row["scale_kept"] > 0
    page = (base / "sweep.html").read_text()
    assert all(point.label in page for point in points)


def test_a_job_of_ray_s_own_command_line(head: str) -> None:
    """The shipped code runs, with its data; what a job cannot keep is refused, and the exit code says so."""
    count = "from caco_ray.seeds.builtin import builtin_seeds; import caco_ray; print('shipped', caco_ray.__file__, len(list(builtin_seeds('train'))))"
    script = f'python -c "{count}" && exec python jobs/run.py {" ".join(SMALL)} run.dir=runs/lost'
    command = [
        str(Path(sys.executable).parent / "ray"),
        "job",
        "submit",
        "--address",
        head,
        "--working-dir",
        str(ROOT),
        "--",
        "bash",
        "-c",
        script,
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and re.search(r"^shipped \S+/working_dir_files/\S+/caco_ray/__init__.py \d{3}$", said, re.MULTILINE), said
    assert "error: run.dir=runs/lost: give an absolute path or a URL" in said
    (job_id,) = re.findall(r"Job '(raysubmit_\w+)' submitted", said)
    info = requests.get(f"{head}/api/jobs/{job_id}", timeout=30).json()
    assert (info["status"], info["driver_exit_code"]) == ("FAILED", 2)
