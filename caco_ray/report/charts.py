"""Geometry of the page's drawings, in percent of their box: the template draws them with CSS and inline SVG, without scripts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from caco_ray.report.funnel import StageReport

MAX_POINTS = 300  # of a curve: more than a screen can show
_MIN_WIDTH = 0.4  # so that one row of a million is still seen


@dataclass(frozen=True)
class Bar:
    """A stage's drawn rows as widths in percent of the largest stage."""

    stage: StageReport
    kept: float
    rejected: float
    quarantined: float


@dataclass(frozen=True)
class Curve:
    """A line in a box of 100 x 100, origin at the top left. `ticks`: height from the top in percent, and label."""

    points: str  # of an SVG polyline
    ticks: tuple[tuple[float, str], ...]
    first: int
    last: int
    mean_of: int  # values behind each point


def funnel_bars(stages: Sequence[StageReport]) -> tuple[Bar, ...]:
    most = max((stage.drawn for stage in stages), default=0)
    return tuple(Bar(stage, *(_width(count, most) for count in (stage.kept, stage.failed, stage.quarantined))) for stage in stages if most)


def _width(count: int, most: int) -> float:
    return round(max(_MIN_WIDTH, 100 * count / most), 2) if count else 0.0


def loss_curve(losses: Sequence[tuple[int, float]]) -> Curve | None:
    """The curve from 0 up; None with fewer than two finite values. Long curves are averaged over neighbouring steps."""
    finite = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    size = -(-len(finite) // MAX_POINTS)
    groups = [finite[start : start + size] for start in range(0, len(finite), size or 1)]
    means = [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]
    if len(means) < 2:
        return None
    first, last = means[0][0], means[-1][0]
    ticks = nice_ticks(max(loss for _, loss in means))
    top = ticks[-1] or 1.0
    points = " ".join(f"{100 * (step - first) / (last - first):.2f},{100 - 100 * loss / top:.2f}" for step, loss in means)
    return Curve(points, tuple((round(100 - 100 * tick / top, 2), f"{tick:g}") for tick in ticks), first, last, size)


def nice_ticks(largest: float) -> list[float]:
    """Two to six round numbers from 0 to at least `largest` (steps of 1, 2 or 5 times a power of ten); below 1e-9 it is drawn as 0."""
    if largest < 1e-9:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(largest / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= largest / 5)
    return [round(index * step, 12) for index in range(math.ceil(round(largest / step, 9)) + 1)]
