"""Kill everything and compare: `python -m tests.benchmarks.bench_recovery --kills 50 [--samples 600] [--kinds driver,node,...]`.

The whole data path (unify to assemble; fake engines that claim a GPU, the real sandbox, real commits) runs on a Ray cluster of three
nodes on this machine: once undisturbed, then again and again while random processes are killed with SIGKILL:

    program, zygote     what runs in the sandbox, and the warm interpreter that it was forked from
    engine, sandbox     the Ray actors that own them
    worker              any other Ray worker of the job
    node                a raylet, with all that runs on it; a fresh node joins
    driver              `jobs/run.py`, which is then started again with the same command
    commit              the driver and whoever is committing, while a data file is there that the manifest does not name yet
    disk                nothing is killed: the disk is full for a while (where a file system of its own can be mounted)

The last line is JSON: `kills` (`by_kind`), `expected` rows over all disturbed runs and stages, `lost`, `duplicated` and `changed` ones
(measured seconds aside), `repeated_fraction` (rows that operators with a model or a sandbox began, over those of the undisturbed run,
less one), `repeated_shards_per_kill`, `conserved` (each stage's counts add up, and each starts from what the one before kept).
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

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
KINDS = ("program", "zygote", "engine", "sandbox", "worker", "node", "driver", "commit", "disk")
SHARD_ROWS, SEEDS = 20, 120
ROLES = ("unify", "sampler", "reverse", "solve", "judge")
NODE = {"num_cpus": 4, "num_gpus": 1, "object_store_memory": 100 * 1024 * 1024}
WORK_LOG = "CACO_RAY_BENCH_WORK_LOG"
PATIENCE_S = 600


def drive() -> None:
    """`jobs/run.py` whose engines and sandboxes note how many rows they begin."""
    import caco_ray.operators
    from caco_ray.cli import run_job
    from caco_ray.schema import live

    log = os.environ[WORK_LOG]
    operators: Any = caco_ray.operators

    def counting(base: Any) -> Any:
        class Counting(base):  # type: ignore[misc]
            def __call__(self, table: Any) -> Any:
                with open(log, "a") as file:  # one short write: atomic
                    file.write(f"{sum(1 for _ in live(table.to_pylist()))}\n")
                return super().__call__(table)

        return Counting

    operators.Generate = counting(operators.Generate)
    operators.Execute = counting(operators.Execute)

    def main(config: Any) -> None:
        from caco_ray.pipeline import run_loop

        run_loop(config)

    run_job(main)


@dataclass
class Bench:
    """`folder`: of the runs; `spare`: beside them, never full."""

    cluster: Cluster
    folder: Path
    spare: Path
    samples: int
    seconds_per_token: float
    dice: random.Random
    nodes: list[Any] = field(default_factory=list)
    restarts: int = 0

    def command(self, name: str) -> list[str]:
        settings = [
            "profile=fake", f"run.dir={self.folder / name}", f"cluster.address={self.cluster.address}", "until=assemble",
            f"scale.samples={self.samples}", f"scale.shard_rows={SHARD_ROWS}", f"seeds.shard_rows={SHARD_ROWS}", f"seeds.limit={SEEDS}", "sandbox.cpu_s=2",
            *[f"models.{role}.gpus=1" for role in ROLES], "models.sampler.replicas=2",
            *[f"models.{role}.seconds_per_token={self.seconds_per_token}" for role in ROLES],
        ]  # fmt: skip
        return [sys.executable, "-m", "tests.benchmarks.bench_recovery", "--drive", *settings]

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        log = self.spare / f"{name}.work"
        with (self.spare / f"{name}.out").open("ab") as out:
            return subprocess.Popen(self.command(name), cwd=ROOT, stdout=out, stderr=out, env={**os.environ, WORK_LOG: str(log)})

    def finish(self, name: str, driver: "subprocess.Popen[bytes] | None" = None) -> None:
        """Run to the end, with the same command again where a driver gives up."""
        for _ in range(5):
            driver = driver or self.start(name)
            if driver.wait(PATIENCE_S) == 0:
                return
            driver, self.restarts = None, self.restarts + 1
        raise SystemExit(f"the run does not end: {(self.spare / f'{name}.out').read_text()[-3000:]}")

    def begun(self, name: str) -> int:
        log = self.spare / f"{name}.work"
        return sum(int(line) for line in log.read_text().split())

    def disturb(self, name: str, kinds: Iterator[str], kills: Counter[str], most: int) -> None:
        """One run with kills until `most` in all have been made or the run has ended."""
        driver = self.start(name)
        while kills.total() < most:
            try:
                if driver.wait(self.dice.uniform(1.0, 5.0)) == 0:
                    return
                driver, self.restarts = self.start(name), self.restarts + 1
                continue
            except subprocess.TimeoutExpired:
                pass
            kind = next(kinds)
            if KILL[kind](self, name, driver):
                kills[kind] += 1
                print(f"{kills.total():3d} {kind:8s} {name}", flush=True)
            if kind in ("driver", "commit") and driver.poll() is not None:
                driver = self.start(name)
        self.finish(name, driver)


def kill_titled(bench: Bench, *titles: str) -> bool:
    found = [process for process in ours() if title(process).startswith("ray::") and any(part in title(process) for part in titles)]
    return bool(found) and kill(bench.dice.choice(found))


def guests() -> list[psutil.Process]:
    """Warm interpreters of sandboxes, and at L3 the guardians above them."""
    return [process for process in ours() if "-S" in command_line(process) and "-s" in command_line(process)]


def kill_zygote(bench: Bench) -> bool:
    found = guests()
    return bool(found) and kill(bench.dice.choice(found))


def kill_program(bench: Bench) -> bool:
    """Programs live for milliseconds: watch the interpreters for a child."""
    known = {process.pid for process in guests()}
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for pid in known:
            for child in children(pid) - known:
                with contextlib.suppress(OSError):
                    os.kill(child, signal.SIGKILL)
                    return True
        time.sleep(0.001)
    return False


def children(pid: int) -> set[int]:
    with contextlib.suppress(OSError):
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return set()


def kill_node(bench: Bench, name: str, driver: "subprocess.Popen[bytes]") -> bool:
    node = bench.dice.choice(bench.nodes)
    bench.nodes.remove(node)
    bench.cluster.remove_node(node, allow_graceful=False)
    bench.nodes.append(new_node(bench.cluster))
    return True


def new_node(cluster: Cluster) -> Any:
    """Ray gives a node 30 s to start, which other work on the machine may take."""
    for _ in range(2):
        with contextlib.suppress(Exception):  # Ray raises a bare one
            return cluster.add_node(wait=False, **NODE)
    return cluster.add_node(wait=False, **NODE)


def kill_driver(bench: Bench, name: str, driver: "subprocess.Popen[bytes]") -> bool:
    driver.kill()
    driver.wait()
    return True


def kill_commit(bench: Bench, name: str, driver: "subprocess.Popen[bytes]") -> bool:
    """As soon as a data file shows that no manifest entry names, whoever writes it and the driver die."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and driver.poll() is None:
        if any(half_committed(bench.folder / name / stage) for stage in STAGES.values()):
            driver.kill()
            for process in ours():
                if title(process).startswith("ray::") and "commit" in title(process):
                    kill(process)
            driver.wait()
            return True
    return False


def half_committed(folder: Path) -> bool:
    """Whether a data file, perhaps under its temporary name, belongs to no recorded shard."""
    with contextlib.suppress(OSError):
        data = {name.lstrip(".").split("-")[1] for name in os.listdir(folder / "data")}
        return not data <= {name.removesuffix(".json") for name in os.listdir(folder / "manifest")}
    return False


def fill_disk(bench: Bench, name: str, driver: "subprocess.Popen[bytes]") -> bool:
    """Full until the driver gives up or 15 s have passed."""
    filler = bench.folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(64 * 1024)):
            pass
    with contextlib.suppress(subprocess.TimeoutExpired):
        driver.wait(15)
    filler.unlink()
    return True


KILL: dict[str, Callable[[Bench, str, "subprocess.Popen[bytes]"], bool]] = {
    "program": lambda bench, name, driver: kill_program(bench),
    "zygote": lambda bench, name, driver: kill_zygote(bench),
    "engine": lambda bench, name, driver: kill_titled(bench, "_model"),
    "sandbox": lambda bench, name, driver: kill_titled(bench, "(execute)"),
    "worker": lambda bench, name, driver: kill_titled(bench, "read", "filter", "commit", "admit", "agreement", "match", "mark", "Gate"),
    "node": kill_node,
    "driver": kill_driver,
    "commit": kill_commit,
    "disk": fill_disk,
}


def ours() -> list[psutil.Process]:
    return list(psutil.Process().children(recursive=True))


def title(process: psutil.Process) -> str:
    return " ".join(command_line(process))


def command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def kill(process: psutil.Process) -> bool:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.Error:
        return False
    return True


def rows_of(run: Path, stage: str) -> list[dict[str, Any]]:
    from caco_ray.schema import is_measured
    from caco_ray.store import Dataset, Folder

    rows = Dataset(Folder(str(run / STAGES[stage]))).rows(kept_only=False)
    return [{key: value for key, value in row.items() if not is_measured(key)} for row in rows]


def compare(expected: Path, got: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for stage in STAGES:
        wanted = {row["row_id"]: row for row in rows_of(expected, stage)}
        rows = rows_of(got, stage)
        made = {row["row_id"]: row for row in rows}
        counts["expected"] += len(wanted)
        counts["lost"] += len(wanted.keys() - made.keys())
        counts["duplicated"] += len(rows) - len(made) + len(made.keys() - wanted.keys())
        different = [row_id for row_id in wanted.keys() & made.keys() if wanted[row_id] != made[row_id]]
        counts["changed"] += len(different)
        for row_id in different[:3]:
            old, new = wanted[row_id], made[row_id]
            print(f"changed in {stage}: {[(key, old[key], new[key]) for key in old if old[key] != new[key]]}"[:2000], flush=True)
    return counts


def conserved(run: Path) -> bool:
    from caco_ray.store import Dataset, Folder

    sets = {stage: Dataset(Folder(str(run / folder))) for stage, folder in STAGES.items()}
    for data in sets.values():
        totals = data.totals
        if not totals.rows_in * data.info.fan_out == totals.rows == totals.kept + sum(totals.rejected.values()) + totals.quarantined:
            return False
    return all(sets[after].totals.rows_in == sets[before].totals.kept for before, after in pairwise(list(STAGES)[1:]))


def endless(kinds: list[str], dice: random.Random) -> Iterator[str]:
    while True:
        yield from dice.sample(kinds, len(kinds))


def own_disk(folder: Path) -> bool:
    """A small file system at `folder`, where this user may mount one."""
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(folder)], capture_output=True, check=False)
    return made.returncode == 0


def measure(bench: Bench, kinds: list[str], most: int) -> dict[str, Any]:
    started = time.monotonic()
    bench.finish("undisturbed")
    took, needed = time.monotonic() - started, bench.begun("undisturbed")
    print(f"undisturbed: {took:.0f} s, {needed} rows begun", flush=True)
    counts: Counter[str] = Counter()
    kills: Counter[str] = Counter()
    runs, begun, whole = 0, 0, conserved(bench.folder / "undisturbed")
    choice = endless(kinds, bench.dice)
    while kills.total() < most:
        name = f"disturbed-{runs}"
        bench.disturb(name, choice, kills, most)
        runs, begun = runs + 1, begun + bench.begun(name)
        counts.update(compare(bench.folder / "undisturbed", bench.folder / name))
        whole = whole and conserved(bench.folder / name)
        shutil.rmtree(bench.folder / name)
    repeated = begun - runs * needed
    return {
        "kills": kills.total(), **{key: counts[key] for key in ("expected", "lost", "duplicated", "changed")},
        "repeated_fraction": round(repeated / (runs * needed), 4), "conserved": whole,
        "repeated_shards_per_kill": round(repeated / SHARD_ROWS / kills.total(), 2),
        "by_kind": dict(kills), "runs": runs, "restarts": bench.restarts,
        "slowdown": round((time.monotonic() - started - took) / runs / took, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--seconds-per-token", type=float, default=0.001)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    with tempfile.TemporaryDirectory() as name:
        folder, spare = Path(name) / "runs", Path(name) / "spare"
        folder.mkdir()
        spare.mkdir()
        mounted = own_disk(folder)
        if not mounted and "disk" in kinds:
            print("disk: no file system can be mounted here; left out", flush=True)
            kinds.remove("disk")
        head = {
            **NODE,
            "num_gpus": 0,
            "include_dashboard": False,
            "_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 3},
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            bench = Bench(cluster, folder, spare, options.samples, options.seconds_per_token, random.Random(options.seed))
            bench.nodes = [cluster.add_node(wait=True, **NODE) for _ in range(2)]
            print(json.dumps(measure(bench, kinds, options.kills)))
        finally:
            cluster.shutdown()
            if mounted:
                subprocess.run(["umount", "-l", str(folder)], check=False)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--drive"]:
        del sys.argv[1]
        drive()
    else:
        main()
