"""A plan and a comparison, for the terminal."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from caco_ray.cost.compare import Compared
from caco_ray.cost.estimate import Estimate
from caco_ray.cost.plan import Plan, Prices
from caco_ray.cost.rates import Rates
from caco_ray.progress import format_seconds
from caco_ray.report.numbers import short
from caco_ray.stage_config import TRAININGS

UNKNOWN = "?"
LOG_WIDTH = 120  # in a file, where nobody wraps lines
_CHECKPOINTS = (
    "Disk is what stays, without models of a hub. A training with checkpoints holds up to 4 of them besides while it goes on, each of "
    "14 bytes per weight (2 with an adapter)"
)
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"))


def print_plan(console: Console, plan: Plan, rates: Rates, paper: Rates, prices: Prices) -> None:
    """The table, the sums in words, and what the paper needed for its own."""
    _wide(console).print(plan_table(plan, prices))
    for line in summary(plan, rates, paper, prices):
        console.print(Text(line))


def plan_table(plan: Plan, prices: Prices) -> Table:
    """One line per stage and one for the sums of what is known."""
    priced = prices.gpu_hour is not None or prices.cpu_hour is not None
    columns = ("stage", "in", "kept", "tokens in", "tokens out", "time", "GPU-hours", "CPU-hours", "disk")
    table = _table(*columns, *(["cost"] if priced else []))
    for stage in plan.stages:
        cost = _maybe(prices.of(stage.gpu_hours, stage.cpu_hours), amount)
        table.add_row(*_line(stage), *([cost] if priced else []))
    cost = _maybe(prices.of(plan.gpu_hours, plan.cpu_hours), amount)
    sums = (_time(plan.seconds), amount(plan.gpu_hours), amount(plan.cpu_hours), disk(plan.disk_bytes))
    known = " (known)" if plan.unknown or plan.unknown_disk else ""
    table.add_row(f"all{known}", "", "", "", "", *sums, *([cost] if priced else []), style="bold")
    return table


def summary(plan: Plan, rates: Rates, paper: Rates, prices: Prices) -> list[str]:
    """What stands below the table."""
    lines = [f"Rates: {rates.origin}" + (f"; GPU-hours of {rates.gpu}" if rates.gpu else "")]
    if plan.unknown:
        lines.append(f"No rate, so not in the sums ({UNKNOWN}): {', '.join(plan.unknown)}. Measure them: plan.rates=FOLDER_OF_A_SMALL_RUN")
    lines += _of_disk(plan)
    if prices == Prices():
        lines.append("Cost: give plan.gpu_hour and plan.cpu_hour, the prices of a GPU and of a core for an hour")
    if plan.shipped is not None and plan.gpu_hours and paper.total is not None:
        lines += _beside_paper(plan, plan.shipped, paper)
    return lines


def _of_disk(plan: Plan) -> list[str]:
    """What the sum of the disk leaves out."""
    lines = [f"Disk not known, so not in its sum ({UNKNOWN}): {', '.join(plan.unknown_disk)}"] if plan.unknown_disk else []
    if any(stage.label.split()[0] in TRAININGS for stage in plan.stages):
        lines.append(_CHECKPOINTS)
    return lines


def _beside_paper(plan: Plan, shipped: float, paper: Rates) -> list[str]:
    """Like with like: the paper's sum has no judge, no training and no evaluation of its own."""
    assert paper.total is not None
    theirs, ours = paper.total, plan.gpu_hours_of(paper.total.stages)
    each = f", {amount(ours / shipped * 1e6)} per million" if shipped else ""
    return [
        f"As the paper counts ({', '.join(theirs.stages)}): {amount(ours)} GPU-hours for {shipped:,.0f} rows{each}",
        f"The paper: {amount(theirs.gpu_hours)} hours of {paper.gpu} for {theirs.rows:,} rows, "
        f"{amount(theirs.gpu_hours / theirs.rows * 1e6)} per million",
    ]


def print_comparison(console: Console, rates: Rates, stages: Sequence[Compared]) -> None:
    """Predicted and real rows and seconds of each stage."""
    table = _table("stage", "rows", "real", "seconds", "real", "predicted / real")
    for stage in stages:
        ratio = _maybe(stage.ratio, lambda value: f"{value:.2f}")
        seconds = _maybe(stage.seconds, lambda value: f"{value:,.1f}")
        table.add_row(stage.label, f"{stage.rows:,.0f}", f"{stage.real_rows:,.0f}", seconds, f"{stage.real_seconds:,.1f}", ratio)
    _wide(console).print(table)
    console.print(Text(f"Rates: {rates.origin}"))
    for doubt in rates.doubts:
        console.print(Text(f"NOTE: {doubt}"))


def amount(value: float) -> str:
    """Three digits of a small amount, all of a large one."""
    return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"


def disk(value: float) -> str:
    limit, unit = next(((limit, unit) for limit, unit in _UNITS if value >= limit), (1e3, "kB"))
    return f"{value / limit:,.3g} {unit}"


def _time(seconds: float) -> str:
    return format_seconds(round(seconds, 1))  # sums of fractions end in 59.999 s


def _line(stage: Estimate) -> tuple[str, ...]:
    return (
        stage.label,
        f"{stage.rows_in:,.0f}" + (f" x {stage.rows / stage.rows_in:.3g}" if stage.rows_in and stage.rows != stage.rows_in else ""),
        f"{stage.kept:,.0f}",
        _maybe(stage.prompt_tokens, short),
        _maybe(stage.tokens, short),
        _maybe(stage.seconds, _time),
        _maybe(stage.gpu_hours, amount),
        _maybe(stage.cpu_hours, amount),
        _maybe(stage.disk_bytes, disk),
    )


def _maybe(value: float | None, words: Callable[[float], str]) -> str:
    return UNKNOWN if value is None else words(value)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    return table


def _wide(console: Console) -> Console:
    return console if console.is_terminal else Console(file=console.file, width=max(console.width, LOG_WIDTH))
