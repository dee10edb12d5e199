"""The points of a sweep side by side, as one HTML page that needs nothing else; it stands beside the points' own reports."""

from collections.abc import Sequence
from dataclasses import dataclass

from caco_ray.report.charts import Bar, funnel_bars
from caco_ray.report.models import EvaluationReport
from caco_ray.report.page import environment
from caco_ray.sweep.points import shown
from caco_ray.sweep.results import Result

# Key figure, its title, and the filter that prints it.
_COMPARED = (
    ("shipped", "rows shipped", "count"),
    ("shipped_share", "rows shipped per program sampled", "number"),
    ("seconds", "time in stages", "duration"),
    ("tokens", "tokens generated", "short"),
)


@dataclass(frozen=True)
class Comparison:
    """One key figure of all points that have it: label, value, and the width of its bar in percent of the largest."""

    title: str
    kind: str
    bars: tuple[tuple[str, float, float], ...]


def render(name: str, results: Sequence[Result]) -> str:
    """The whole page. `name`: the folder of all points."""
    keys = list(dict.fromkeys(key for result in results for key in result.point.swept))
    return (
        environment()
        .get_template("sweep.html")
        .render(
            name=name,
            results=results,
            keys=keys,
            shown=shown,
            comparisons=comparisons(results),
            scores=scores(results),
            funnels=[(result, funnel(result)) for result in results if funnel(result)],
            succeeded=sum(result.status == "SUCCEEDED" for result in results),
        )
    )


def comparisons(results: Sequence[Result]) -> list[Comparison]:
    """Of figures that at least two points have."""
    made = []
    for figure, title, kind in _COMPARED:
        values = [(result.point.label, float(value)) for result in results if (value := result.figures[figure]) is not None]
        most = max((value for _, value in values), default=0.0)
        if len(values) > 1:
            bars = tuple((label, value, round(100 * value / most, 2) if most else 0.0) for label, value in values)
            made.append(Comparison(title, kind, bars))
    return made


def scores(results: Sequence[Result]) -> list[tuple[str, EvaluationReport]]:
    """pass@1 of every model that a point evaluated, with the point's label."""
    evaluated = [(result.point.label, each) for result in results if result.report for each in result.report.evaluations]
    return [(label, each) for label, each in evaluated if each.overall.pass_at_1 is not None]


def funnel(result: Result) -> tuple[Bar, ...]:
    stages = result.report.stages if result.report else ()
    return funnel_bars([stage for stage in stages if not stage.name.startswith("evaluate")])
