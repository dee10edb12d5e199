"""What a stage's engines do reaches the terminal and Prometheus while the stage runs."""

import io
import time
import urllib.request
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from rich.console import Console

from caco_ray import progress
from caco_ray.config import FakeModel, SamplingConfig, SandboxConfig
from caco_ray.engines.base import EngineStats
from caco_ray.metrics import CACHE_HITS, HELD_SECONDS, INFRA_ERRORS, METRICS, ROWS, SANDBOX_SECONDS, STAGE_SECONDS, TOKENS
from caco_ray.progress import StageBar
from caco_ray.runtime.telemetry import Board, Held, Live, Rates, add_up
from caco_ray.schema import PROGRAM
from caco_ray.source import SampleRange
from caco_ray.stage import Operator, Stage, run_stage
from caco_ray.stages.execute import Execute
from caco_ray.stages.generate import Generate
from caco_ray.store import Dataset, Folder, ShardEntry, StageInfo, Totals

BUSY = Live(1, 10, 2, EngineStats(running=4, waiting=3, prompt_tokens=100, tokens=50, cache_queries=10, cache_hits=5))


def test_engines_add_up_and_dead_ones_keep_only_what_they_have_done() -> None:
    whole = add_up([(99, BUSY), (98, BUSY), (10, BUSY)], now=100)
    assert (whole.engines, whole.up_s, whole.idle_s) == (2, 30, 6)
    assert whole.stats == EngineStats(running=8, waiting=6, prompt_tokens=300, tokens=150, cache_queries=30, cache_hits=15)
    assert add_up([], now=0) == Live()


def test_rates_are_of_the_time_between_two_looks() -> None:
    now = [0.0]
    rates = Rates(lambda: now[0])
    rates.look(Live())
    assert rates.text == ""
    now[0] = 10
    rates.look(BUSY)
    assert rates.text == "10 in 5 out tokens/s, 4 running 3 waiting, cache 50%, idle 20%"
    now[0] = 11
    rates.look(replace(BUSY, up_s=11))
    assert rates.text.startswith("10 in")  # too soon
    now[0] = 20
    rates.look(Live(1, 20, 12, replace(BUSY.stats, prompt_tokens=1100, tokens=1050, running=0)))
    assert rates.text == "100 in 100 out tokens/s, 0 running 3 waiting, cache 50%, idle 100%"


def entry(rows: int) -> ShardEntry:
    return ShardEntry(0, "part-000000.parquet", "", 0, 0.0, Totals(rows, rows, rows))


def test_what_was_done_before_counts_for_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    text = io.StringIO()
    with StageBar(Console(file=text, width=200), "scale", 1000, "rows") as bar:
        bar.advance(900)
        now[0] = 5
        bar.resume()
        now[0] = 15
        bar.advance(50)
    assert text.getvalue().splitlines()[-1].strip() == "scale: 950/1,000 rows, 5.0/s, 10.0 s left"


def test_what_rows_wait_for_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
    text = io.StringIO()
    with StageBar(Console(file=text, width=200), "solve", 8, "rows") as bar:
        board = Board("solve", bar)
        for waits in ("", "m at http://host: cannot be reached", ""):
            board.on_live(Live(waits=waits))
    lines = [line.strip() for line in text.getvalue().splitlines()]
    assert [line.endswith("waits: m at http://host: cannot be reached") for line in lines] == [False, True, False]


def scraped() -> str:
    """What Prometheus would be given."""
    ports = [node["MetricsExportPort"] for node in ray.nodes()]
    return "".join(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode() for port in ports)


def value(page: str, name: str, **tags: str) -> float | None:
    """Of a metric, added up over its series."""
    lines = [line for line in page.splitlines() if line.startswith(f"ray_{name}{{")]
    found = [float(line.split()[-1]) for line in lines if all(f'{key}="{tag}"' in line for key, tag in tags.items())]
    return sum(found) if found else None


def spoil(table: pa.Table) -> pa.Table:
    """The machinery fails on one row of the first shard."""
    rows = table.to_pylist()
    for row in rows:
        if row["sample_index"] == 3:
            row["infra_error"] = "made up"
    return pa.Table.from_pylist(rows, schema=table.schema)


def operators() -> tuple[Operator, ...]:
    sample = partial(Generate, "sample", FakeModel(seconds_per_token=0.002), None, SamplingConfig(temperature=1, max_tokens=400), 0)
    execute = partial(Execute, SandboxConfig(require="L0", allow_unsafe=True), False)
    return Operator("model", sample, actors=1), Operator("execute", execute, actors=1), Operator("spoil", lambda: spoil)


@pytest.mark.usefixtures("ray_cluster")
def test_a_running_stage_exports_every_metric(tmp_path: Path) -> None:
    source = SampleRange("telemetry", 40, 4, PROGRAM)
    plan = Stage(StageInfo("telemetry", "f" * 16, {}, source.shards), Folder(str(tmp_path)), source, operators(), PROGRAM)
    seen: list[Live] = []
    text = io.StringIO()
    with StageBar(Console(file=text), "telemetry", 40, "rows") as bar:
        board = Board("telemetry", bar, cpus=2)
        totals = run_stage(plan, board.on_shard, lambda live: (seen.append(live), board.on_live(live))[0])
    assert seen[0] == Live() and any(live.engines == 1 and live.stats.running for live in seen)
    assert seen[-1].stats.tokens > 0
    ran = Counter(row["exec_status"] for row in Dataset(Folder(str(tmp_path))).rows(kept_only=False) if row["exec_status"])
    assert totals.quarantined == 1 and len(ran) > 1

    now = [0.0]
    noted: list[tuple[float, float]] = []
    held = Held("training", cpus=2, gpus=8, note=lambda *seconds: noted.append(seconds), clock=lambda: now[0])
    now[0] = 5
    held.count()
    now[0] = 10
    held.count()
    assert noted == [(10, 40), (10, 40)]

    deadline, page = time.monotonic() + 120, ""
    while value(page, ROWS.name, outcome="kept") != totals.kept or value(page, f"{SANDBOX_SECONDS.name}_count") != ran.total():
        assert time.monotonic() < deadline, page  # Ray exports now and then
        time.sleep(1)
        page = scraped()
    assert value(page, INFRA_ERRORS.name, stage="telemetry") == 1
    assert [value(page, HELD_SECONDS.name, stage="training", resource=each) for each in ("CPU", "GPU")] == [20, 80]
    assert value(page, HELD_SECONDS.name, stage="telemetry", resource="CPU")
    assert {status: value(page, f"{SANDBOX_SECONDS.name}_count", status=status) for status in ran} == ran
    assert value(page, f"{SANDBOX_SECONDS.name}_bucket", le="+Inf") == ran.total()
    assert value(page, STAGE_SECONDS.name, stage="telemetry") and value(page, TOKENS.name, stage="telemetry", direction="out")
    for metric in METRICS:
        end = "_count" if metric.kind == "histogram" else ""
        assert value(page, f"{metric.name}{end}") is not None or metric is CACHE_HITS, metric  # the fake engine has no prefix cache
