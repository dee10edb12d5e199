"""The geometry of bars and curves stays in its box and says what the numbers say."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from caco_ray.report.charts import MAX_POINTS, funnel_bars, loss_curve, nice_ticks
from caco_ray.report.funnel import StageReport
from caco_ray.report.numbers import number, percent, short


def stage(kept: int, rejected: int, quarantined: int) -> StageReport:
    rows = kept + rejected + quarantined
    return StageReport("scale", rows, 1, rows, kept, (("too_short", rejected),) if rejected else (), quarantined, 1.0)


def test_bars_are_in_percent_of_the_largest_stage() -> None:
    large, small = funnel_bars([stage(60, 30, 10), stage(25, 0, 0)])
    assert (large.kept, large.rejected, large.quarantined) == (60.0, 30.0, 10.0)
    assert (small.kept, small.rejected, small.quarantined) == (25.0, 0.0, 0.0)


def test_one_row_of_a_million_is_seen_and_no_row_is_not() -> None:
    (bar,) = funnel_bars([stage(1_000_000, 1, 0)])
    assert bar.rejected > 0 and bar.quarantined == 0


def test_stages_without_rows_have_no_bars() -> None:
    assert funnel_bars([stage(0, 0, 0)]) == () == funnel_bars([])


@given(st.floats(1e-6, 1e9))
def test_ticks_are_few_rise_from_zero_and_reach_the_largest_value(largest: float) -> None:
    ticks = nice_ticks(largest)
    assert ticks[0] == 0 and ticks == sorted(set(ticks)) and 2 <= len(ticks) <= 7
    assert ticks[-1] >= largest * (1 - 1e-9)
    assert ticks[-2] < largest


@example([0.0, 5e-324])
@given(st.lists(st.floats(0, 20, allow_subnormal=False), min_size=2, max_size=1000))
def test_a_curve_stays_in_its_box(losses: list[float]) -> None:
    curve = loss_curve(list(enumerate(losses, start=1)))
    assert curve is not None
    points = [tuple(map(float, point.split(","))) for point in curve.points.split()]
    assert len(points) <= MAX_POINTS
    assert points[0][0] == 0 and points[-1][0] == 100
    assert all(0 <= x <= 100 and -0.01 <= y <= 100.01 for x, y in points)


def test_a_long_curve_is_the_mean_over_neighbours() -> None:
    curve = loss_curve([(step, float(step % 2)) for step in range(1, 2 * MAX_POINTS + 1)])
    assert curve is not None and curve.mean_of == 2
    assert curve.ticks[-1] == (0.0, "0.5")  # the top of the box
    assert {point.split(",")[1] for point in curve.points.split()} == {"0.00"}


@pytest.mark.parametrize("losses", [[], [(1, 2.0)], [(1, float("nan")), (2, float("inf")), (3, 1.0)]])
def test_less_than_two_values_are_no_curve(losses: list[tuple[int, float]]) -> None:
    assert loss_curve(losses) is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (9_999, "9,999"), (12_345, "12.3 k"), (1_348_799, "1.35 M"), (5.3e9, "5.3 G"), (999_999, "1 M"), (9_999.6, "10,000")],
)
def test_short_numbers(value: float, shown: str) -> None:
    assert short(value) == shown


def test_numbers_keep_what_matters() -> None:
    assert (number(121000), number(0.21349), number(224.06), number(12345.6)) == ("121,000", "0.2135", "224.1", "12,346")
    assert (percent(None), percent(0.1234)) == ("–", "12.3%")
