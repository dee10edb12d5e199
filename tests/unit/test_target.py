"""Rounds of target mode: a pure function of what is committed, so that a kill at any moment changes nothing."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caco_ray.config import ScaleConfig, validate
from caco_ray.errors import ConfigError
from caco_ray.target import Standing, Target


def yields(seed: int, rate: float, shard_rows: int):
    """Kept rows of a shard, as a sampler of that rate would give them; the same ones each time."""
    return lambda shard: min(shard_rows, int(shard_rows * rate + random.Random(seed * 1000 + shard).random()))


def run(target: Target, kept_of, kill: random.Random | None = None) -> tuple[Standing, list[Standing], list[int]]:
    """Work on round after round; with `kill`, each attempt commits only some shards of its round. Returns the sampled shards too."""
    committed: dict[int, int] = {}
    seen, sampled = [], []
    while (at := target.standing(committed)).outcome is None:
        pending = [shard for shard in range(at.shards) if shard not in committed]
        assert pending
        if at not in seen:
            seen.append(at)
        if kill is not None:
            pending = kill.sample(pending, kill.randint(0, len(pending)))
        for shard in pending:
            committed[shard] = min(kept_of(shard), target.budget - shard * target.shard_rows)
            sampled.append(shard)
    assert sorted(committed) == list(range(at.shards))
    return at, seen, sampled


targets = st.builds(
    lambda accept, extra, samples, rows: Target(accept, accept + extra, samples, rows),
    st.integers(1, 100), st.integers(0, 200), st.integers(5, 100), st.integers(1, 30),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(targets, st.integers(0, 9), st.sampled_from([0.0, 0.03, 0.3, 0.9, 1.0]))
def test_kills_change_neither_the_rounds_nor_the_shards(target: Target, seed: int, rate: float) -> None:
    kept_of = yields(seed, rate, target.shard_rows)
    calm, rounds, _ = run(target, kept_of)
    killed, rounds_again, sampled = run(target, kept_of, random.Random(seed))
    assert (killed, rounds_again) == (calm, rounds)
    assert sorted(sampled) == list(range(calm.shards))  # none lost, none twice


@settings(max_examples=60, deadline=None)
@given(targets, st.integers(0, 9), st.sampled_from([0.0, 0.03, 0.3, 0.9, 1.0]))
def test_it_ends_by_the_target_or_the_budget_and_says_which(target: Target, seed: int, rate: float) -> None:
    end, rounds, _ = run(target, yields(seed, rate, target.shard_rows))
    assert end.samples <= target.budget and [at.rounds for at in rounds] == list(range(1, end.rounds + 1))
    if end.outcome == "reached":
        assert end.kept >= target.accept and "reached" in target.describe(end)
    else:
        assert end.kept < target.accept and end.samples == target.budget and "budget" in target.describe(end)
    before = [0] + [at.samples for at in rounds]
    assert all(new - old <= target.round_samples + target.shard_rows for old, new in pairwise(before))


def test_the_first_round_is_the_target_and_later_ones_follow_the_yield() -> None:
    target = Target(accept=100, budget=1000, round_samples=500, shard_rows=10)
    assert target.standing({}) == Standing(1, 10, 100, 0)
    half = dict.fromkeys(range(10), 5)
    assert target.standing(half) == Standing(2, 10 + 12, 220, 50)  # 50 are missing, 1 of 2 is kept, and a tenth more
    assert target.standing({**half, **dict.fromkeys(range(10, 22), 5)}).outcome == "reached"


@pytest.mark.parametrize(
    "values,message",
    [
        ({"accept": 5}, "accept and budget go together"),
        ({"budget": 5}, "accept and budget go together"),
        ({"accept": 50, "budget": 20}, "accept=50 programs cannot be kept of budget=20 samples"),
        ({"accept": 0, "budget": 20}, "greater than 0"),
    ],
)
def test_a_target_that_cannot_be_is_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(ScaleConfig, {"samples": 10, **values})
