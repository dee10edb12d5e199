"""Do engines and sandboxes work at the same time, and what holds a large cluster back first?

`python -m tests.benchmarks.bench_pipeline [--nodes 1 2 4] [--rows 600] [--rows-per-s 10]`

On local clusters of that many Ray nodes, each with a fake engine of a fixed pace and a sandbox, with the product's own plan:

    generate   the engines alone
    execute    filters and sandboxes alone, over the programs that `generate` made
    both       the plan of `scale`: generate -> filter -> execute -> filter

Each is timed from the moment when all its actors are there to the last commit, so that starting processes does not count. Rows and pace are
those of all nodes together: the nodes share this machine's cores, which more sandbox work at a time would fill. `overlap_ratio` is `both` over
the slower of the other two: 1 where nothing waits for anything (the largest of all cluster sizes; `overlap` has each).

Then what a shard costs the parts that do not grow with the cluster is measured: the driver (CPU seconds for a shard of a plan with as many
operators, and nothing to do in them), the commit (seconds in one of the stage's commit tasks, on this disk), the object store (seconds to
put and get one shard). A closed queueing network of these and of N engines is simulated up to 1,000 engines, each as fast as a GPU with an
8B model (`--gpu-rows-per-s`, an assumption): `limits` says how many engines keep each part fully busy (the object store: how many on one
node, since every node has its own), `saturates_first` and `at_engines` which of the shared parts that is first, `efficiency` the share of the
engines' time that is left to them. The last line is JSON.
"""

import argparse
import heapq
import json
import random
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from caco_ray.cluster.session import connected, keep_idle_workers
from caco_ray.config import ClusterConfig, FakeModel, FiltersConfig, SamplingConfig, SandboxConfig, VllmModel
from caco_ray.operators import executor, shards_in_flight, task
from caco_ray.schema import PROGRAM, row_id
from caco_ray.source import KeptRows, SampleRange, Source
from caco_ray.stage import _TASKS, Operator, Stage, run_stage
from caco_ray.stages import filters
from caco_ray.stages.generate import Generate
from caco_ray.store import Dataset, DatasetWriter, Folder, StageInfo

SHARD_ROWS, TOKENS_PER_ROW = 20, 118  # of the fake sampler's programs, roughly
LARGE_SHARD_ROWS = 1024  # of conf/profile/cluster.yaml
CALLS = shards_in_flight(VllmModel(path="any"), LARGE_SHARD_ROWS)
FILTERS = FiltersConfig(enabled=("does_not_parse", "no_input", "no_output", "too_short", "unused_input"))
_WARM_ROUNDS = 2  # of the simulation, that do not count
ENGINES = (1, 8, 64, 250, 500, 1000)


class Noted:
    """An operator that begins when all `actors` of its plan are there, and writes down when that was."""

    def __init__(self, make: Callable[[], Any], notes: Path, actors: int) -> None:
        self._function, self._notes, self._actors = make(), notes, actors
        self._lock, self._begun = threading.Lock(), False
        (notes / f"there-{uuid.uuid4().hex}").touch()

    def __call__(self, table: pa.Table) -> pa.Table:
        with self._lock:
            if not self._begun:
                while len(list(self._notes.glob("there-*"))) < self._actors:
                    time.sleep(0.02)
                (self._notes / f"begun-{uuid.uuid4().hex}").write_text(str(time.time()))
            self._begun = True
        return self._function(table)

    def close(self) -> None:
        self._function.close()


def generator(nodes: int, rows_per_s: float, notes: Path, actors: int) -> Operator:
    """`rows_per_s`: of all engines; `actors`: of the whole plan."""
    model = FakeModel(seconds_per_token=nodes / (rows_per_s * TOKENS_PER_ROW))
    make = partial(Generate, "sample", model, None, SamplingConfig(temperature=0.9, max_tokens=400), 0)
    return Operator("sample_model", partial(Noted, make, notes, actors), cpus=1, actors=nodes, calls=CALLS)


def checkers(nodes: int, notes: Path, actors: int) -> tuple[Operator, ...]:
    execute = executor(SandboxConfig(require="L0", allow_unsafe=True, cpu_s=1, actors=nodes), check_determinism=True)
    noted = Operator(execute.name, partial(Noted, execute.make, notes, actors), cpus=1, memory_mb=execute.memory_mb, actors=nodes)
    return task("filter_source", filters.before_execution, FILTERS), noted, task("filter_result", filters.after_execution, FILTERS)


def timed(folder: Folder, source: Source, operators: tuple[Operator, ...], notes: Path) -> float:
    """Seconds from the moment when all actors are there to the last commit."""
    for note in notes.iterdir():
        note.unlink()
    commits: list[float] = []
    plan = Stage(StageInfo("scale", "bench", {}, source.shards), folder, source, operators, PROGRAM)
    run_stage(plan, lambda _: commits.append(time.time()))
    return commits[-1] - min(float(note.read_text()) for note in notes.glob("begun-*"))


def overlap(nodes: int, rows: int, rows_per_s: float, folder: Path) -> dict[str, float]:
    """Seconds of the three plans on a cluster of `nodes`."""
    notes = folder / "notes"
    notes.mkdir(parents=True)
    at = Folder(str(folder))
    source = SampleRange("scale", rows, SHARD_ROWS, PROGRAM)
    generate = timed(at / "programs", source, (generator(nodes, rows_per_s, notes, nodes),), notes)
    execute = timed(at / "executed", KeptRows("scale", at / "programs", PROGRAM), checkers(nodes, notes, nodes), notes)
    both = timed(at / "both", source, (generator(nodes, rows_per_s, notes, 2 * nodes), *checkers(nodes, notes, 2 * nodes)), notes)
    return {"generate": generate, "execute": execute, "both": both, "ratio": both / max(generate, execute)}


def on_cluster(nodes: int, work: Callable[[], Any]) -> Any:
    keep_idle_workers()  # these nodes have two CPUs
    each = {"num_cpus": 2, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**each, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**each)
        cluster.wait_for_nodes()
        with connected(ClusterConfig(address=cluster.address)):
            return work()
    finally:
        cluster.shutdown()


def _same(table: pa.Table) -> pa.Table:
    return table


def costs(folder: Path, programs: pa.Table) -> dict[str, float]:
    """Seconds that one shard takes of the driver, of a commit task, and of an object store."""
    shards = 100
    source = SampleRange("scale", shards, 1, PROGRAM)
    steps = tuple(Operator(f"step{number}", lambda: _same, cpus=0, actors=1 if number % 2 else 0) for number in range(4))
    begun = time.process_time()
    run_stage(Stage(StageInfo("scale", "bench", {}, shards), Folder(str(folder / "idle")), source, steps, PROGRAM), lambda _: None)
    driver = (time.process_time() - begun) / shards

    large = pa.concat_tables([programs] * -(-LARGE_SHARD_ROWS // programs.num_rows)).slice(0, LARGE_SHARD_ROWS)
    ids = pa.array([row_id("large", "large", number) for number in range(LARGE_SHARD_ROWS)])
    large = large.set_column(large.schema.get_field_index("row_id"), PROGRAM.field("row_id"), ids)
    writer = DatasetWriter(Folder(str(folder / "large")), StageInfo("scale", "bench", {}, 8), PROGRAM)
    writer.open()
    begun = time.perf_counter()
    for shard in range(8):
        writer.commit(shard, large, LARGE_SHARD_ROWS, 0.0)
    commit = (time.perf_counter() - begun) / 8

    begun = time.perf_counter()
    for _ in range(8):
        ray.get(ray.put(large))
    return {"driver": driver, "commit": commit, "object_store": (time.perf_counter() - begun) / 8, "shard_mb": large.nbytes / 1e6}


def simulate(engines: int, engine_s: float, driver_s: float, commit_s: float, rounds: int = 22) -> tuple[float, dict[str, float]]:
    """Efficiency of the engines, and how busy the driver and the commit tasks are. Shards go driver -> engine -> commit and round again."""
    draw = random.Random(0)
    servers = {"driver": 1, "engine": engines, "commit": _TASKS}
    after = {"driver": "engine", "engine": "commit", "commit": "driver"}
    takes = {"driver": lambda: driver_s, "engine": lambda: engine_s * draw.uniform(0.8, 1.2), "commit": lambda: commit_s}
    free, waiting = dict(servers), {name: deque[int]() for name in servers}
    events: list[tuple[float, int, str]] = []
    busy, now, done, number = dict.fromkeys(servers, 0.0), 0.0, 0, 0
    waiting["driver"].extend(range(_TASKS + engines * (CALLS + 1)))

    def start(name: str) -> None:
        nonlocal number
        while free[name] and waiting[name]:
            waiting[name].popleft()
            free[name] -= 1
            number += 1
            took = takes[name]()
            busy[name] += took
            heapq.heappush(events, (now + took, number, name))

    start("driver")
    warm = worked = 0.0
    while done < rounds * engines:
        now, which, name = heapq.heappop(events)
        free[name] += 1
        if name == "commit":
            done += 1
            if done == _WARM_ROUNDS * engines:
                warm, worked = now, busy["engine"]
        waiting[after[name]].append(which)
        start(name)
        start(after[name])
    efficiency = (busy["engine"] - worked) / (engines * (now - warm))
    return min(1.0, efficiency), {name: busy[name] / (servers[name] * now) for name in ("driver", "commit")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--rows-per-s", type=float, default=10, help="of all fake engines together")
    parser.add_argument("--gpu-rows-per-s", type=float, default=10, help="of each engine in the simulation")
    options = parser.parse_args()
    results: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for nodes in options.nodes:
            work = partial(overlap, nodes, options.rows, options.rows_per_s, folder / f"{nodes}")
            results[nodes] = on_cluster(nodes, work)
            print(f"{nodes} nodes: {', '.join(f'{part} {value:.2f}' for part, value in results[nodes].items())}", flush=True)
        programs = Dataset(Folder(str(folder / f"{options.nodes[0]}" / "both"))).read(0, kept_only=False)
        cost = on_cluster(1, partial(costs, folder, programs))
    print(", ".join(f"{part} {value:.4f}" for part, value in cost.items()), flush=True)
    engine_s = LARGE_SHARD_ROWS / options.gpu_rows_per_s
    shared = {"driver": engine_s / cost["driver"], "manifest": engine_s * _TASKS / cost["commit"]}
    limits = {**shared, "object_store_of_a_node": engine_s / cost["object_store"]}
    first = min(shared, key=lambda part: shared[part])
    simulated = {engines: simulate(engines, engine_s, cost["driver"], cost["commit"]) for engines in ENGINES}
    for engines, (efficiency, busy) in simulated.items():
        print(f"{engines} engines: efficiency {efficiency:.3f}, busy: {', '.join(f'{part} {share:.1%}' for part, share in busy.items())}")
    result = {
        "overlap_ratio": round(max(result["ratio"] for result in results.values()), 3),
        "overlap": {nodes: round(result["ratio"], 3) for nodes, result in results.items()},
        "saturates_first": first,
        "at_engines": int(limits[first]),
        "limits": {part: int(engines) for part, engines in limits.items()},
        "efficiency": {engines: round(efficiency, 3) for engines, (efficiency, _) in simulated.items()},
        "shard_costs_s": {part: round(cost[part], 4) for part in ("driver", "commit", "object_store")},
        "shard_mb": round(cost["shard_mb"], 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
