"""Does a run keep its pace with the nodes, and what would stop it at 1,000 nodes and 10^9 rows?

`python -m tests.benchmarks.bench_scale [--nodes 1 2 4] [--rows 500] [--engine-rows-per-s 5]`

On local clusters of a head without CPUs and 1, 2 and 4 workers, each with a fake engine of a fixed pace and a sandbox, the plan of `scale`
(sample -> filter -> execute twice -> filter -> commit) runs over `--rows` rows for each worker, in shards of 20: a shard takes an engine
four seconds, where one of 1,024 rows takes a GPU minutes. All nodes share this machine's cores: how busy those were is printed beside each
rate, and rates near 100% say nothing about nodes that have their own. Rates are taken between the first and the last tenth of the commits, so
that starting and draining do not count. `efficiency_2` and `efficiency_4` are rates over 2 and 4 times that of one worker;
`driver_rss_growth` is the driver's memory after the largest run over that after the smallest, each in a process of its own.

Then what each shard costs the parts that do not grow with the cluster is measured (driver, commit, the driver's memory, the collected
manifest), and a table is worked out up to 1,000 nodes of 8 engines of `--gpu-rows-per-s` each and 10^9 rows: how busy each part is for
shards of 1,024 rows and of 16,384. A queueing simulation (`bench_pipeline.simulate`) gives the share of the engines' time that is left to them.
`saturates_first` is the part that would be busiest, `at_engines` how many engines keep it fully busy, `with_large_shards` the same for
shards of 16,384 rows. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
import pyarrow as pa
from ray.cluster_utils import Cluster

from caco_ray.cluster.session import connected, keep_idle_workers
from caco_ray.config import ClusterConfig
from caco_ray.schema import PROGRAM
from caco_ray.source import SampleRange
from caco_ray.stage import _TASKS, Operator, Stage, run_stage
from caco_ray.store import Dataset, Folder, StageInfo
from caco_ray.store.manifest import ShardEntry, Totals
from tests.benchmarks.bench_pipeline import LARGE_SHARD_ROWS, SHARD_ROWS, checkers, costs, generator, on_cluster, simulate

ROOT = Path(__file__).resolve().parents[2]
NODES, ENGINES_PER_NODE = (1, 10, 100, 1000), 8
ROWS = (10**6, 10**7, 10**8, 10**9)
SHARDS_OF = (LARGE_SHARD_ROWS, 16 * LARGE_SHARD_ROWS)


def child(nodes: int, rows: int, rows_per_s: float, folder: Path) -> None:
    """One cluster, one run, in this process; prints rows per second and the driver's memory."""
    keep_idle_workers()  # these nodes have two CPUs
    each = {"num_cpus": 2, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 << 20, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(wait=False, **each)
        cluster.wait_for_nodes()
        with connected(ClusterConfig(address=cluster.address)):
            notes = folder / "notes"
            notes.mkdir(parents=True)
            source = SampleRange("scale", rows * nodes, SHARD_ROWS, PROGRAM)
            operators = (generator(nodes, rows_per_s * nodes, notes, 2 * nodes), *checkers(nodes, notes, 2 * nodes))
            commits: list[tuple[float, float]] = []
            plan = Stage(StageInfo("scale", "bench", {}, source.shards), Folder(str(folder / "scale")), source, operators, PROGRAM)
            run_stage(plan, lambda _: commits.append((time.monotonic(), busy_s())))
            tenth = max(1, len(commits) // 10)
            (begun, busy_before), (ended, busy_after) = commits[tenth - 1], commits[-tenth - 1]
            rate = (len(commits) - 2 * tenth) * SHARD_ROWS / (ended - begun)
            cores = (busy_after - busy_before) / (ended - begun) / len(os.sched_getaffinity(0))
            print(json.dumps({"rows_per_s": rate, "rss_mb": psutil.Process().memory_info().rss / 1e6, "cores_busy": cores}))
    finally:
        cluster.shutdown()


def busy_s() -> float:
    """CPU seconds that this machine has spent on anything."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def measured(nodes: int, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_scale", "--child", str(nodes), str(folder)]
    command += ["--rows", str(options.rows), "--engine-rows-per-s", str(options.engine_rows_per_s)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=1200)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def shard_memory(folder: Path) -> float:
    """Megabytes by which the driver grows with each thousand shards of a run in which nothing else is to do."""

    def grown(shards: int) -> float:
        before = psutil.Process().memory_info().rss
        steps = (Operator("step", lambda: lambda table: table, actors=1),)
        plan = Stage(
            StageInfo("scale", "bench", {}, shards),
            Folder(str(folder / f"{shards}")),
            SampleRange("scale", shards, 1, PROGRAM),
            steps,
            PROGRAM,
        )
        run_stage(plan, lambda _: None)
        return float(psutil.Process().memory_info().rss - before) / 1e6

    grown(100)  # what the first run loads and keeps does not count
    return grown(600) / 0.6


def collected_s() -> float:
    """Seconds in which the driver writes one entry into the collected manifest."""
    entries = [
        ShardEntry(shard, f"data/part-{shard:06d}-{'0' * 12}.parquet", "0" * 64, 10**6, 9.9, Totals(1024, 1024, 900))
        for shard in range(2000)
    ]
    begun = time.process_time()
    json.dumps([json.loads(entry.to_json()) for entry in entries]).encode()
    return (time.process_time() - begun) / len(entries)


def busy(engines: int, rows: int, shard_rows: int, rows_per_s: float, cost: dict[str, float]) -> dict[str, float]:
    """How much of its time (memory: of 8 GB) each part is busy. Driver and object store work for a shard whatever its size, commits for rows."""
    shards, larger = rows / shard_rows, shard_rows / LARGE_SHARD_ROWS
    shards_per_s = engines * rows_per_s / shard_rows
    return {
        "driver": shards_per_s * (cost["driver"] + cost["collect"]),
        "commit": shards_per_s * cost["commit"] * larger / _TASKS,
        "driver_memory": shards / 1000 * cost["memory_mb"] / 8000,
    }


def table(rows_per_s: float, cost: dict[str, float]) -> dict[str, object]:
    """Prints the table; returns what saturates first in the largest run, for each size of shards."""
    results = {}
    for shard_rows in SHARDS_OF:
        print(f"shards of {shard_rows:,} rows; share of its time that a part works")
        for nodes in NODES:
            engines = nodes * ENGINES_PER_NODE
            for rows in ROWS:
                shares = busy(engines, rows, shard_rows, rows_per_s, cost)
                days = rows / (engines * rows_per_s) / 86400
                shown = ", ".join(f"{part} {share:.1%}" for part, share in shares.items())
                print(f"  {nodes:5,d} nodes, {rows:.0e} rows ({days:8.2f} days): {shown}")
        engines = NODES[-1] * ENGINES_PER_NODE
        largest = busy(engines, ROWS[-1], shard_rows, rows_per_s, cost)
        first = max(largest, key=lambda part: largest[part])
        engine_s = shard_rows / rows_per_s
        larger = shard_rows / LARGE_SHARD_ROWS
        left, _ = simulate(engines, engine_s, cost["driver"] + cost["collect"], cost["commit"] * larger)
        results[shard_rows] = {
            "part": first,
            "at_engines": int(engines / largest[first]) if first != "driver_memory" else None,
            "busy": {part: round(share, 3) for part, share in largest.items()},
            "efficiency": round(left, 3),
        }
    small, large = (results[shard_rows] for shard_rows in SHARDS_OF)
    return {
        "saturates_first": small["part"],
        "at_engines": small["at_engines"],
        "at_1000_nodes_1e9_rows": small,
        "with_large_shards": large,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rows", type=int, default=500, help="of each node")
    parser.add_argument("--engine-rows-per-s", type=float, default=5, help="of each fake engine")
    parser.add_argument(
        "--gpu-rows-per-s", type=float, default=10, help="of each engine in the table (an assumption: an 8B model on one GPU)"
    )
    parser.add_argument("--child", nargs=2, metavar=("NODES", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(int(options.child[0]), options.rows, options.engine_rows_per_s, Path(options.child[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = {}
        for nodes in options.nodes:
            runs[nodes] = measured(nodes, options, folder / f"{nodes}")
            rate, rss_mb, cores = (runs[nodes][figure] for figure in ("rows_per_s", "rss_mb", "cores_busy"))
            print(f"{nodes} nodes: {rate:.2f} rows/s, driver {rss_mb:.0f} MB, cores {cores:.0%} busy", flush=True)
        programs: pa.Table = Dataset(Folder(str(folder / f"{options.nodes[0]}" / "scale"))).read(0, kept_only=False)
        cost = on_cluster(1, partial(costs, folder, programs))
        cost = {**cost, "memory_mb": on_cluster(1, partial(shard_memory, folder)), "collect": collected_s()}
    print(", ".join(f"{part} {value:.6f}" for part, value in cost.items()), flush=True)
    first, last = runs[options.nodes[0]], runs[options.nodes[-1]]
    per_node = first["rows_per_s"] / options.nodes[0]
    result = {
        f"efficiency_{nodes}": round(run["rows_per_s"] / nodes / per_node, 3) for nodes, run in runs.items() if nodes != options.nodes[0]
    }
    result["driver_rss_growth"] = round(last["rss_mb"] / first["rss_mb"], 3)
    print(
        json.dumps(
            {**result, **table(options.gpu_rows_per_s, cost), "shard_costs": {part: round(value, 6) for part, value in cost.items()}}
        )
    )


if __name__ == "__main__":
    main()
