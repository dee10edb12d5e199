"""Live figures of a running stage: what its engines and sandboxes do now, for the terminal and for Prometheus.

`metrics.py` lists what is exported. Each worker that owns an engine has a thread that looks at the engine, sets Ray's metrics (Prometheus
shows them with the prefix `ray_`) and posts what it saw to the stage's gate; the driver adds up. Figures are for people: losing one changes
no row.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from caco_ray.engines.base import EngineStats
from caco_ray.metrics import (
    CACHE_HITS,
    ENGINE_IDLE,
    ENGINE_RUNNING,
    ENGINE_WAITING,
    HELD_SECONDS,
    INFRA_ERRORS,
    ROWS,
    SANDBOX_SECONDS,
    SECONDS_LEFT,
    STAGE_SECONDS,
    TOKENS,
    Metric,
)
from caco_ray.progress import StageBar
from caco_ray.store import ShardEntry

LOOK_S, POST_S = 0.25, 2.0
_FRESH_S = 5 * POST_S  # an engine that is silent for longer is taken for dead: what it had running does not count any more


@dataclass(frozen=True)
class Live:
    """Of one engine, or of all of a stage. `idle_s`: of `up_s` seconds, those in which an engine had no request.

    `waits`: what rows wait for that is away, such as an endpoint.
    """

    engines: int = 0
    up_s: float = 0.0
    idle_s: float = 0.0
    stats: EngineStats = field(default_factory=EngineStats)
    waits: str = ""

    def __add__(self, other: "Live") -> "Live":
        mine, theirs = vars(self.stats), vars(other.stats)
        stats = EngineStats(**{name: mine[name] + theirs[name] for name in mine})
        return Live(self.engines + other.engines, self.up_s + other.up_s, self.idle_s + other.idle_s, stats, self.waits or other.waits)


def add_up(posts: Iterable[tuple[float, Live]], now: float) -> Live:
    """`posts`: the last one of each engine and when it came (seconds on the clock of `now`)."""
    whole = Live()
    for when, live in posts:
        stale = now - when > _FRESH_S
        whole += replace(live, engines=0, stats=replace(live.stats, running=0, waiting=0)) if stale else live
    return whole


def exported(metric: Metric) -> Any:
    """Ray's counter, gauge or histogram of that name, in this process."""
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.description, list(metric.boundaries), metric.labels)
    return (Counter if metric.kind == "counter" else Gauge)(metric.name, metric.description, metric.labels)


def watch(function: Any, stage: str, post: Callable[[Live], object]) -> "Reporter | None":
    """Export what an operator has figures of: one with `stats()` owns an engine, one with `on_program` a sandbox."""
    if hasattr(function, "on_program"):
        seconds = exported(SANDBOX_SECONDS)
        function.on_program = lambda status, wall_s: seconds.observe(wall_s, {"status": status})
    return Reporter(stage, function.stats, post) if hasattr(function, "stats") else None


class Reporter:
    """Looks at one engine until it is closed. `look` is called from a thread of its own."""

    def __init__(self, stage: str, look: Callable[[], EngineStats], post: Callable[[Live], object]) -> None:
        self._look, self._post, self._tags = look, post, {"stage": stage}
        self._running, self._waiting = exported(ENGINE_RUNNING), exported(ENGINE_WAITING)
        self._tokens, self._hits, self._idle = exported(TOKENS), exported(CACHE_HITS), exported(ENGINE_IDLE)
        self._live = Live(engines=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(POST_S)

    def _run(self) -> None:
        looked, posted, told = time.monotonic(), 0.0, self._live
        while not self._closed.wait(LOOK_S):
            now, stats = time.monotonic(), self._look()
            idle_s = 0.0 if stats.running or stats.waiting else now - looked
            self._export(self._live.stats, stats)
            self._live = Live(1, self._live.up_s + now - looked, self._live.idle_s + idle_s, stats)
            looked = now
            if now - posted >= POST_S:
                self._idle.set((self._live.idle_s - told.idle_s) / (self._live.up_s - told.up_s), self._tags)
                posted, told = now, self._live
                self._post(self._live)

    def _export(self, before: EngineStats, now: EngineStats) -> None:
        self._running.set(now.running, self._tags)
        self._waiting.set(now.waiting, self._tags)
        _count(self._tokens, now.prompt_tokens - before.prompt_tokens, {**self._tags, "direction": "in"})
        _count(self._tokens, now.tokens - before.tokens, {**self._tags, "direction": "out"})
        _count(self._hits, now.cache_hits - before.cache_hits, self._tags)


class Held:
    """Seconds of the cores and GPUs that a stage's pools hold, as they were asked for, from now on: what it costs, told at each `count`,
    to Prometheus and to `note(cpu_s, gpu_s)`."""

    def __init__(
        self, stage: str, cpus: float, gpus: float, note: Callable[[float, float], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._note = note
        self._stage, self._amounts, self._clock = stage, {"CPU": cpus, "GPU": gpus}, clock
        self._counter, self._since = exported(HELD_SECONDS), clock()

    def count(self) -> None:
        now = self._clock()
        for resource, amount in self._amounts.items():
            _count(self._counter, (now - self._since) * amount, {"stage": self._stage, "resource": resource})
        self._note(*((now - self._since) * amount for amount in self._amounts.values()))
        self._since = now


class Board:
    """The driver's side: a stage's bar, rows for Prometheus by what became of them, and what its pools hold (`cpus`, `gpus`)."""

    def __init__(
        self, stage: str, bar: StageBar, note: Callable[[float, float], None] = lambda cpu_s, gpu_s: None, cpus: float = 0, gpus: float = 0
    ) -> None:
        self._stage, self._bar, self._rates = stage, bar, Rates()
        self._holds = (cpus, gpus, note)
        self._held: Held | None = None
        self._rows, self._errors, self._seconds = exported(ROWS), exported(INFRA_ERRORS), exported(STAGE_SECONDS)
        self._left = exported(SECONDS_LEFT)
        self._working, self._waits = False, ""
        self._began = time.monotonic()
        self._kept = 0

    def on_shard(self, entry: ShardEntry) -> None:
        """Shards that come before the first figures were committed by an earlier run: they count for no rate."""
        self._kept += entry.totals.kept
        if self._working:
            self._add(entry)
        self._advance(entry.totals.rows)

    def on_live(self, live: Live) -> None:
        if not self._working:
            self._working, self._began = True, time.monotonic()
            self._bar.resume()
        elif self._held is None:  # the first sign of life of the plan: the wait for nodes and GPUs is over
            self._held = Held(self._stage, *self._holds)
        else:
            self._held.count()
        self._seconds.set(time.monotonic() - self._began, {"stage": self._stage})
        self._rates.look(live)
        self._waits = live.waits
        self._advance(0)

    def close(self) -> None:
        if self._held is not None:
            self._held.count()

    def _advance(self, rows: int) -> None:
        self._bar.advance(rows, self._note())
        if self._working and (left := self._bar.seconds_left) is not None:
            self._left.set(left, {"stage": self._stage})

    def _note(self) -> str:
        waits = f"waits: {self._waits}" if self._waits else ""
        return ", ".join(part for part in (f"kept {self._kept:,}", self._rates.text, waits) if part)

    def _add(self, entry: ShardEntry) -> None:
        self._count("kept", "", entry.totals.kept)
        self._count("quarantined", "", entry.totals.quarantined)
        _count(self._errors, entry.totals.quarantined, {"stage": self._stage})
        for reason, rows in entry.totals.rejected.items():
            self._count("rejected", reason, rows)

    def _count(self, outcome: str, reason: str, rows: int) -> None:
        _count(self._rows, rows, {"stage": self._stage, "outcome": outcome, "reason": reason})


class Rates:
    """Figures as a few words for the bar, with rates over the seconds between two looks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last, self.text = clock, (clock(), Live()), ""

    def look(self, live: Live) -> None:
        """Renew `text`, each `POST_S` at most: engines do not tell more often. It stays empty without engines."""
        when, before = self._last
        seconds = self._clock() - when
        if seconds >= POST_S and live.up_s:
            self._last, self.text = (self._clock(), live), _words(before, live, seconds)


def _words(before: Live, now: Live, seconds: float) -> str:
    then, stats = before.stats, now.stats
    read, written = ((new - old) / seconds for new, old in ((stats.prompt_tokens, then.prompt_tokens), (stats.tokens, then.tokens)))
    parts = [f"{read:,.0f} in {written:,.0f} out tokens/s", f"{stats.running:,} running {stats.waiting:,} waiting"]
    if stats.cache_queries:
        parts.append(f"cache {stats.cache_hits / stats.cache_queries:.0%}")
    if up_s := now.up_s - before.up_s:
        parts.append(f"idle {max(0.0, now.idle_s - before.idle_s) / up_s:.0%}")
    return ", ".join(parts)


def _count(counter: Counter, amount: float, tags: dict[str, str]) -> None:
    if amount > 0:
        counter.inc(amount, tags)
