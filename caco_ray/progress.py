"""What a person sees while a run goes on: one line per committed stage, and a bar with counts, rate and time left in between.

On a terminal the bar is drawn by `rich`; in a log file a line is printed every `LOG_EVERY_S` seconds instead.
"""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_EVERY_S = 15.0


def make_console() -> Console:
    return Console(highlight=False, soft_wrap=True)


class StageBar:
    """A bar over `total` units of one stage. Use as a context manager; `advance` or `set` from one thread."""

    def __init__(self, console: Console, stage: str, total: int, unit: str) -> None:
        self._console, self._stage, self._total, self._unit = console, stage, total, unit
        self._done = self._done_before = 0
        self._started = self._last_line = time.monotonic()
        self._bar = _rich_bar(console) if console.is_terminal else None
        self._task: TaskID | None = None

    def __enter__(self) -> "StageBar":
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._stage, total=self._total, rate="", note="starting")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, amount: int, note: str = "") -> None:
        """`amount` more units are done; `note` is shown beside the counts."""
        self.set(self._done + amount, self._total, note)

    def resume(self) -> None:
        """The work begins now: what is done so far was done before, and counts for no rate."""
        self._done_before, self._started = self._done, time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.reset(self._task, completed=self._done)

    def set(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` units are done, where the total is known only when the work has begun."""
        self._done, self._total = done, total
        now, rate = time.monotonic(), self._rate()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, total=self._total, rate=f"{rate:,.1f} {self._unit}/s", note=note)
        elif now - self._last_line >= LOG_EVERY_S:
            self._last_line = now
            left = format_seconds(self.seconds_left or 0)
            line = f"  {self._stage}: {self._done:,}/{self._total:,} {self._unit}, {rate:,.1f}/s, {left} left"
            self._console.print(f"{line}  {note}".rstrip())

    @property
    def seconds_left(self) -> float | None:
        """At the mean pace so far; None before the first unit."""
        rate = self._rate()
        return (self._total - self._done) / rate if rate > 0 else None

    def _rate(self) -> float:
        """Units per second."""
        return (self._done - self._done_before) / max(time.monotonic() - self._started, 1e-6)


def _rich_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )


def format_seconds(seconds: float) -> str:
    """`7.3 s`, `4 min 05 s` or `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
