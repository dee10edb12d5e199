"""A real cluster (a head without CPUs and two workers, each with an address of its own), jobs by `ray job submit`, and a worker that is lost."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import ROOT, Hosts
from ray.job_submission import JobStatus

from caco_ray.config import FakeModel, SamplingConfig
from caco_ray.schema import PROGRAM
from caco_ray.source import SampleRange
from caco_ray.stages.generate import Generate
from caco_ray.store import Dataset, Folder

SAMPLES, SHARD_ROWS = 60, 20
SMALL = f"profile=fake cluster=job scale.samples={SAMPLES} scale.shard_rows={SHARD_ROWS} seeds.limit=24 until=assemble"
PACED = "models.sampler.seconds_per_token=0.003"  # so that there is time to lose a node in
PATIENCE_S = 300


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts(tmp_path_factory.mktemp("hosts")) as made:
        for _ in range(2):
            made.add("--num-cpus", "2")
        yield made


def wait_until(what: str, is_so: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)
    return found


def said(job: "subprocess.Popen[str]") -> str:
    return job.communicate(timeout=PATIENCE_S)[0]


def expected_programs() -> dict[str, str]:
    """What the sampler gives, without Ray. Its answers depend on the row alone."""
    source = SampleRange("scale", SAMPLES, SHARD_ROWS, PROGRAM)
    sample = Generate("sample", FakeModel(), None, SamplingConfig(temperature=0.9, max_tokens=1024), 0)
    tables = [sample(source.read(shard).table) for shard in range(source.shards)]
    sample.close()
    return {row["row_id"]: row["code"] for table in tables for row in table.to_pylist()}


def other_version(folder: Path) -> Path:
    """caco_ray with another version number."""
    shutil.copytree(ROOT / "caco_ray", folder / "caco_ray", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "caco_ray" / "__init__.py"
    file.write_text(file.read_text() + '\n__version__ = "0.0.9"\n')
    return folder


def test_what_a_node_lacks_is_one_line_each_before_a_run_starts(hosts: Hosts, tmp_path: Path) -> None:
    if not hosts.apart:
        pytest.skip("needs network and mount namespaces, and so root")
    runs = tmp_path / "runs"
    runs.mkdir()
    odd = hosts.add("--num-cpus", "1", "--num-gpus", "2", shm_mb=48, cover=runs, PYTHONPATH=str(other_version(tmp_path / "other")))
    wait_until("all nodes", lambda: all(host.joined for host in hosts.workers))
    command = f"profile=fake run.dir={runs}/run model@models.judge=instruct_32b seeds.limit=24"
    doctor = hosts.submit("doctor", "--", "bash", "-c", f"cd / && python {ROOT}/jobs/doctor.py cluster=true {command}")
    text = said(doctor)
    odd.lose()
    assert doctor.returncode == 1 and hosts.job("doctor").driver_exit_code == 1, text
    told = dict.fromkeys(text.splitlines())  # `ray job submit` repeats the last lines of a job that fails
    lines = [line for line in told if line.startswith("MISSING ")]
    assert sum(line.startswith("node ") for line in told) == 4, text
    for part in (
        "judge needs models.judge 4 x (4 CPUs, 2 GPUs); no node is large enough for one (the most that a node has: 2 CPUs, 2 GPUs)",
        "caco_ray 0.0.9, the driver has 0.1.0",
        "/dev/shm has 0.05 GiB, Ray's object store 0.10",
        "Ray was told of 2 GPUs, the NVIDIA driver shows 0; models.judge need them",
        f"run.dir={runs}/run is not the driver's folder there",
    ):
        assert sum(part in line for line in lines) == 1, (part, text)
    assert all(odd.address in line for line in lines[1:]) and len(lines) == 5, text
    assert not list(runs.glob("run/*")), "the doctor leaves nothing behind"


def test_a_job_survives_the_loss_of_a_worker(hosts: Hosts, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = hosts.submit("loop", "--working-dir", str(ROOT), "--", "python", "jobs/run.py", *SMALL.split(), PACED, f"run.dir={run}")
    manifest = run / "programs" / "manifest"
    wait_until("a shard of scale", lambda: job.poll() is not None or (manifest.is_dir() and list(manifest.glob("*.json"))))
    assert job.poll() is None, said(job)
    sampling = [host for host in hosts.workers if any("sample_model" in title for title in host.processes())]
    assert len(list(manifest.glob("*.json"))) < SAMPLES // SHARD_ROWS and len(sampling) == 1, "too late to disturb anything"
    sampling[0].lose()

    text, info = said(job), hosts.job("loop")
    assert (job.returncode, info.status, info.driver_exit_code) == (0, JobStatus.SUCCEEDED, 0), text
    assert "nodes have what the run needs: 4 CPUs" in text, text
    programs = {row["row_id"]: row["code"] for row in Dataset(Folder(str(run / "programs"))).rows(kept_only=False)}
    assert programs == expected_programs()
    command = [sys.executable, str(ROOT / "jobs/verify.py"), f"dataset={run / 'dataset'}"]
    proof = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert proof.returncode == 0 and "mismatches 0" in proof.stdout and "faults 0" in proof.stdout, proof.stdout + proof.stderr
