"""Busy time is divided without a rest, whatever overlaps."""

from contextlib import ExitStack

import pytest

from caco_ray.stages.meter import Meter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_calls_that_overlap_share_the_time_by_their_rows() -> None:
    clock = Clock()
    meter = Meter(clock)
    with ExitStack() as first:
        one = first.enter_context(meter.call(1))
        clock.now += 2  # alone
        with meter.call(3) as two:
            clock.now += 4  # a quarter and three quarters
        clock.now += 1  # alone again
    assert (one.seconds, two.seconds) == (pytest.approx(4), pytest.approx(3))


def test_shares_add_up_to_the_busy_time_and_idle_time_is_nobodys() -> None:
    clock = Clock()
    meter = Meter(clock)
    shares = []
    for _ in range(3):
        with meter.call(2) as call:
            clock.now += 1.5
        shares.append(call.seconds)
        clock.now += 50
    assert sum(shares) == pytest.approx(4.5)


def test_a_call_that_fails_leaves_nothing_in_flight() -> None:
    clock = Clock()
    meter = Meter(clock)
    with pytest.raises(RuntimeError), meter.call(5):
        clock.now += 1
        raise RuntimeError
    with meter.call(1) as call:
        clock.now += 2
    assert call.seconds == pytest.approx(2)
