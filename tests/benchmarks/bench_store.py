"""What the commit layer costs: `python -m tests.benchmarks.bench_store [--parts overhead memory entries resume]`.

    overhead   one Ray Data plan, its rows committed by `DatasetWriter` or written by Ray's own `write_parquet` (same rows, compression and
               number of files), in turns; and the same two in one process without Ray, where nothing hides the difference
    memory     `run_stage` over 10^5 and over 10^7 rows, each in a process of its own: the driver's peak resident memory
    entries    what a driver holds of a stage's manifest: 10^7 rows in shards of 256 (as profiles set them) are 39,063 entries, heard of one by
               one, collected and written into the closing file, which is then read; in a process of its own, without rows and Ray
    resume     a complete stage of 10^4 shards: how long the driver needs to know that nothing is left to do, once with the closing file,
               once from the manifest entries alone

The last line is JSON: `write_overhead` (of the plan's time, 0.05 = 5% more), `bare_overhead` (without Ray), `bare_overhead_ms` (of one
shard), `driver_rss_growth` (0.1 = 10% more; of shards of 10,000 rows), `driver_rss_mb`, `entries`, `entries_held_mb` and `entries_peak_mb`
(more than before), `entries_collected` (1 = each was written once before the end), `resume_s`, `resume_open_s`, `shards`. Other work on the
machine spoils them.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from caco_ray.cluster.session import connected
from caco_ray.config import ClusterConfig
from caco_ray.schema import PROGRAM, to_table
from caco_ray.source import ShardInput
from caco_ray.stage import Stage, run_stage
from caco_ray.store import Dataset, DatasetWriter, Folder, ShardEntry, StageInfo
from caco_ray.store.manifest import entry_name

LINES = "\n".join(f"    step_{line} = first * {line + 3} - second // {line + 1}" for line in range(12))
ROWS_OF_SMALL_SHARD = 10_000
PARTS = ["overhead", "memory", "entries", "resume"]


@dataclass(frozen=True)
class Numbered:
    """`shards` shards of `rows` programs each, made by the column: the source must not be what is measured."""

    shards: int
    rows: int

    @property
    def expected_rows(self) -> int:
        return self.shards * self.rows

    def read(self, shard: int) -> ShardInput:
        return ShardInput(numbered(shard, self.rows), self.rows)


@cache
def _template(rows: int) -> pa.Table:
    code = [f"input = {{'first': {number * 7919 % 10007}, 'second': {number}}}\n{LINES}\noutput = step_11" for number in range(rows)]
    made = [{"row_id": "", "parent_id": "scale", "code": text, "sample_index": number} for number, text in enumerate(code)]
    return to_table(made, PROGRAM)


def numbered(shard: int, rows: int) -> pa.Table:
    """The rows of one shard; ids are unique over all shards."""
    ids = pa.array([f"{number:032x}" for number in range(shard * rows, (shard + 1) * rows)], pa.string())
    return _template(rows).set_column(PROGRAM.get_field_index("row_id"), PROGRAM.field("row_id"), ids)


def info(shards: int) -> StageInfo:
    return StageInfo("scale", "bench", {}, shards)


def overhead(place: Path, shards: int, rows: int, turns: int) -> float:
    """Share of time that a plan takes longer when it commits than when it writes."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    ratios = []
    for turn in range(turns + 1):  # the first warms up
        times = {}
        for name, sink in (("commit", _committed), ("write", _written))[:: 1 if turn % 2 else -1]:
            folder = place / f"{name}-{turn}"
            plan = ray.data.range(shards, override_num_blocks=shards).map_batches(_rows_of, fn_kwargs={"rows": rows}, batch_size=1)
            started = time.perf_counter()
            sink(plan, folder, shards, rows)
            times[name] = time.perf_counter() - started
        print(f"plan      commit {times['commit']:.2f} s, write_parquet {times['write']:.2f} s", flush=True)
        if turn:
            ratios.append(times["commit"] / times["write"])
    ray.shutdown()
    return statistics.median(ratios) - 1


def _rows_of(batch: dict[str, Any], rows: int) -> pa.Table:
    return numbered(int(batch["id"][0]), rows)


def _committed(plan: ray.data.Dataset, folder: Path, shards: int, rows: int) -> None:
    writer = DatasetWriter(Folder(str(folder)), info(shards), PROGRAM)
    writer.open()
    plan.map_batches(_commit, fn_kwargs={"writer": writer}, batch_size=None, batch_format="pyarrow").materialize()
    assert writer.close(0.0).rows == shards * rows


def _commit(batch: pa.Table, writer: DatasetWriter) -> pa.Table:
    shard = int(batch["row_id"][0].as_py(), 16) // batch.num_rows
    return pa.table({"entry": [writer.commit(shard, batch, batch.num_rows, 0.0).to_json()]})


def _written(plan: ray.data.Dataset, folder: Path, shards: int, rows: int) -> None:
    plan.write_parquet(str(folder), compression="zstd")
    assert sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet")) == shards * rows


def bare_overhead(place: Path, rows: int, turns: int) -> tuple[float, float]:
    """The same of one shard in one process: the share, and the milliseconds."""
    writer = DatasetWriter(Folder(str(place / "bare")), info(turns), PROGRAM)
    writer.open()
    committed, written = [], []
    for shard in range(turns):
        table = numbered(shard, rows)
        committed.append(_timed(partial(writer.commit, shard, table, rows, 0.0)))
        written.append(_timed(partial(pq.write_table, table, place / f"{shard}.parquet", compression="zstd")))
    more = statistics.median(committed) - statistics.median(written)
    return more / statistics.median(written), more * 1000


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_mb(rows: int) -> float:
    """Peak resident memory of a driver that runs a stage of so many rows, in a process of its own."""
    return float(_alone("--drive", rows))


def _alone(option: str, value: int) -> str:
    """The last line of this module run in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_store", option, str(value)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]


def drive(rows: int) -> None:
    source = Numbered(rows // ROWS_OF_SMALL_SHARD, ROWS_OF_SMALL_SHARD)
    with tempfile.TemporaryDirectory() as name, connected(ClusterConfig(num_cpus=2)):
        totals = run_stage(Stage(info(source.shards), Folder(name + "/programs"), source, (), PROGRAM), lambda _: None)
        assert totals.kept == rows
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def hold(shards: int) -> dict[str, object]:
    """Memory of a driver that hears of so many commits and closes the stage."""
    with tempfile.TemporaryDirectory() as name:
        folder = Folder(name + "/programs")
        writer = DatasetWriter(folder, info(shards), PROGRAM)
        writer.open()
        body = writer.commit(0, numbered(0, 256), 256, 0.0).to_json().decode()
        before = _resident_mb()
        for shard in range(shards):
            entry = ShardEntry.from_json(body.replace('"shard": 0', f'"shard": {shard}').replace("part-000000", f"part-{shard:06d}"))
            (folder.local_path / entry_name(shard)).touch()
            writer.note(entry)
        held = _resident_mb() - before
        writer.close(0.0)
        assert len(Dataset(folder).entries) == shards
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
        written = sum(len(folder.read(f"entries/{file}")) for file in folder.names("entries")) / len(folder.read("_SUCCESS"))
    return {"entries": shards, "entries_held_mb": round(held), "entries_peak_mb": round(peak), "entries_collected": round(written, 2)}


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def resume(place: Path, shards: int) -> tuple[float, float]:
    """Seconds to find a stage of so many shards complete: closed, and from its manifest entries."""
    folder, table = Folder(str(place / "many")), numbered(0, 1)
    writer = DatasetWriter(folder, info(shards), PROGRAM)
    writer.open()
    for shard in range(shards):
        writer.commit(shard, table, 1, 0.0)
    stage = Stage(info(shards), folder, Numbered(shards, 1), (), PROGRAM)
    opened = _timed(lambda: run_stage(stage, lambda _: None))
    return _timed(lambda: run_stage(stage, lambda _: None)), opened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--shards", type=int, default=10_000, help="of the stage that is resumed")
    parser.add_argument("--plan-shards", type=int, default=48)
    parser.add_argument("--plan-rows", type=int, default=16_384, help="of each shard")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs=2, default=[100_000, 10_000_000], help="of the two stages whose driver is watched")
    parser.add_argument("--entries", type=int, default=39_063)
    parser.add_argument("--drive", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--hold", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive is not None:
        drive(options.drive)
        return
    if options.hold is not None:
        print(json.dumps(hold(options.hold)))
        return
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if "resume" in options.parts:
            closed, opened = resume(place, options.shards)
            result |= {"resume_s": round(closed, 2), "resume_open_s": round(opened, 2), "shards": options.shards}
        if "overhead" in options.parts:
            share, more_ms = bare_overhead(place, options.plan_rows, 8 * options.turns)
            result |= {"bare_overhead": round(share, 3), "bare_overhead_ms": round(more_ms, 1)}
            result["write_overhead"] = round(overhead(place, options.plan_shards, options.plan_rows, options.turns), 3)
    if "memory" in options.parts:
        small, large = (peak_mb(rows) for rows in options.rows)
        result |= {"driver_rss_growth": round(large / small - 1, 3), "driver_rss_mb": [round(small), round(large)]}
    if "entries" in options.parts:
        result |= json.loads(_alone("--hold", options.entries))
    print(json.dumps(result))


if __name__ == "__main__":
    from tests.benchmarks import bench_store  # workers find what is cached by a module's name, which `__main__` is not

    bench_store.main()
