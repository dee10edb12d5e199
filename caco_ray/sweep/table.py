"""States and key figures of a sweep: a live table on a terminal, a line for each change in a log."""

from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from caco_ray.progress import format_seconds
from caco_ray.report.numbers import number, percent, short
from caco_ray.sweep.follow import Sweep
from caco_ray.sweep.points import shown
from caco_ray.sweep.results import Reader, Result

LOG_WIDTH = 140  # in a file, where nobody wraps lines
_STYLES = {"SUCCEEDED": "green", "FAILED": "bold red", "STOPPED": "bold red", "RUNNING": "bold", "PENDING": "dim", "NOT SUBMITTED": "dim"}


class Board:
    """Shows a sweep while it is followed. Use as a context manager; it is a `follow.Look`."""

    def __init__(self, console: Console, read: Reader) -> None:
        self._console, self._read = console, read
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._said: dict[str, tuple[str, str, str]] = {}

    def __enter__(self) -> "Board":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, sweep: Sweep) -> None:
        results = [self._read(point, sweep.job(point)) for point in sweep.points]
        if self._live is not None:
            self._live.update(sweep_table(results), refresh=True)
            return
        for result in results:
            self._say(result)

    def _say(self, result: Result) -> None:
        news = (result.job.id if result.job else "", result.status, result.last_stage)
        if news[1:] == ("NOT SUBMITTED", "") or self._said.get(result.point.job_id) == news:
            return
        self._said[result.point.job_id] = news
        far = f", {result.last_stage} done" if result.last_stage and result.status == "RUNNING" else ""
        self._console.print(Text(f"{result.status:<9} {result.point.label}  ({news[0]}){far}"))


def print_table(console: Console, results: Sequence[Result]) -> None:
    wide = console if console.is_terminal else Console(file=console.file, width=max(console.width, LOG_WIDTH))
    wide.print(sweep_table(results), soft_wrap=False)


def sweep_table(results: Sequence[Result]) -> Table:
    """One line per point."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    keys = list(dict.fromkeys(key for result in results for key in result.point.swept))
    for name in (*keys, "state", "last stage"):
        table.add_column(name, overflow="fold")
    for name in ("programs", "kept", "shipped", "per program", "pass@1", "in stages"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        swept = [Text(shown(result.point.swept.get(key, ""))) for key in keys]
        table.add_row(*swept, Text(result.status, style=_STYLES[result.status]), result.last_stage, *_figures(result))
    return table


def _figures(result: Result) -> list[str]:
    figures = result.figures
    counts = [_count(figures[name]) for name in ("programs_sampled", "programs_kept", "shipped")]
    score = figures["pass_at_1_student"] if figures["pass_at_1_student"] is not None else figures["pass_at_1_base"]
    seconds = figures["seconds"]
    return [*counts, _ratio(figures["shipped_share"]), percent(score), format_seconds(seconds) if seconds else "–"]


def _ratio(value: float | None) -> str:
    return "–" if value is None else number(value)


def _count(value: int | None) -> str:
    return "–" if value is None else short(value)
