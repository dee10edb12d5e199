"""The report in short, for the terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from caco_ray.progress import format_seconds
from caco_ray.report.funnel import RunReport, StageReport
from caco_ray.report.models import EvaluationReport
from caco_ray.report.numbers import metric, number, short
from caco_ray.report.rounds import compare

TOP_REASONS = 3
LOG_WIDTH = 110  # in a file, where nobody wraps lines


def print_table(console: Console, report: RunReport) -> None:
    """Print the funnel, what was trained and evaluated, and loudly what does not add up."""
    if report.stages:
        wide = console if console.is_terminal else Console(file=console.file, width=max(console.width, LOG_WIDTH))
        wide.print(funnel_table(report), soft_wrap=False)
        console.print(Text(f"all stages: {format_seconds(report.seconds)}, {short(report.tokens)} tokens generated"))
    if len(report.rounds) > 1:
        console.print(rounds_table(report))
    for training in report.trainings:
        results = ", ".join(f"{metric(key)} {number(value)}" for key, value in training.metrics.items())
        console.print(Text(f"{training.name}: {format_seconds(training.seconds)}; {results}"))
    for evaluation in report.evaluations:
        console.print(Text(_pass_at_1(evaluation)))
    for fault in report.faults:
        console.print(Text(f"ERROR: the counts do not add up. {fault}", style="bold red"))


def funnel_table(report: RunReport) -> Table:
    """One line per closed stage."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("stage", "in", "kept", "rejected", "quar.", "why", "time", "tokens"):
        words = name in ("stage", "why")
        table.add_column(name, justify="left" if words else "right", no_wrap=name != "why", overflow="fold")
    for stage in report.stages:
        table.add_row(*_line(stage), style="bold red" if stage.faults else None)
    return table


def rounds_table(report: RunReport) -> Table:
    """The rounds side by side."""
    made = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("", *(f"round {one.number}" for one in report.rounds)):
        made.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, values in compare(report.rounds):
        made.add_row(Text(name), *(Text(value) for value in values))
    return made


def _line(stage: StageReport) -> list[str | Text]:
    given = f"{stage.rows_in:,}" + (f" x {stage.fan_out}" if stage.fan_out > 1 else "")
    shown = [f"{count:,} {reason}" for reason, count in stage.rejected[:TOP_REASONS]]
    more = [f"{sum(count for _, count in stage.rejected[TOP_REASONS:]):,} for other reasons"] if len(stage.rejected) > TOP_REASONS else []
    return [
        stage.name,
        given,
        f"{stage.kept:,}",
        f"{stage.rejections:,}",
        f"{stage.quarantined:,}",
        Text("\n".join(shown + more)),
        format_seconds(stage.seconds),
        short(stage.tokens) if stage.tokens else "",
    ]


def _pass_at_1(evaluation: EvaluationReport) -> str:
    score = evaluation.overall
    left_out = f"; {evaluation.undecided:,} answers quarantined and not counted" if evaluation.undecided else ""
    if score.pass_at_1 is None or score.low is None or score.high is None:
        return f"{evaluation.model}: pass@1 not measured (no problems{left_out})"
    interval = f"95 % interval {score.low:.1%} to {score.high:.1%}"
    return f"{evaluation.model}: pass@1 {score.pass_at_1:.1%} ({interval}; {score.problems:,} problems; {evaluation.remarks}{left_out})"
