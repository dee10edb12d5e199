"""What a stage's engines do reaches the terminal and Prometheus while the stage runs."""

import io
import re
import time
import urllib.request
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ray
from rich.console import Console

from caco_ray import progress
from caco_ray.config import FakeModel, SamplingConfig
from caco_ray.engines.base import EngineStats
from caco_ray.progress import StageBar
from caco_ray.schema import PROGRAM
from caco_ray.source import SampleRange
from caco_ray.stage import Operator, Stage, run_stage
from caco_ray.stages.generate import Generate
from caco_ray.store import Folder, ShardEntry, StageInfo, Totals
from caco_ray.telemetry import Board, Live, Rates, add_up

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


def scraped(name: str, **tags: str) -> float | None:
    """Value of a metric in what Prometheus would be given."""
    for node in ray.nodes():
        page = urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10).read().decode()
        for line in page.splitlines():
            if line.startswith(f"ray_{name}{{") and all(f'{key}="{value}"' in line for key, value in tags.items()):
                return float(re.split(r"\s+", line)[-1])
    return None


@pytest.mark.usefixtures("ray_cluster")
def test_a_running_stage_tells_what_its_engine_does(tmp_path: Path) -> None:
    source = SampleRange("telemetry", 40, 4, PROGRAM)
    make = partial(Generate, "sample", FakeModel(seconds_per_token=0.002), None, SamplingConfig(temperature=1, max_tokens=400), 0)
    plan = Stage(
        StageInfo("telemetry", "f" * 16, {}, source.shards), Folder(str(tmp_path)), source, (Operator("m", make, 0, 0, 0, 1),), PROGRAM
    )
    seen: list[Live] = []
    text = io.StringIO()
    with StageBar(Console(file=text), "telemetry", 40, "rows") as bar:
        board = Board("telemetry", bar)
        totals = run_stage(plan, board.on_shard, lambda live: (seen.append(live), board.on_live(live))[0])
    assert seen[0] == Live() and any(live.engines == 1 and live.stats.running for live in seen)
    assert seen[-1].stats.tokens > 0
    deadline = time.monotonic() + 90
    kept = None
    while kept != totals.kept and time.monotonic() < deadline:  # Ray exports now and then
        time.sleep(0.5)
        kept = scraped("caco_rows_total", stage="telemetry", outcome="kept")
    assert kept == totals.kept
    assert scraped("caco_tokens_total", stage="telemetry", direction="out")
