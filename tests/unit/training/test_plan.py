from itertools import chain

import numpy as np
import pytest

from caco_ray.training.plan import Mixed, StepPlan, make_share, pack
from tests.unit.training.conftest import settings

LENGTHS = np.random.default_rng(0).integers(20, 200, size=1003)


@pytest.mark.parametrize("batching", ["by_length", "packed"])
def test_an_epoch_uses_every_example_once_in_an_order_of_the_seed(batching: str) -> None:
    changes = {"epochs": 3, "batching": batching}
    plan = StepPlan(LENGTHS, settings(**changes))
    epochs = [np.concatenate([plan[step] for step in range(first, first + plan.steps_per_epoch)]) for first in (0, plan.steps_per_epoch)]
    assert plan.steps == 3 * plan.steps_per_epoch == 3 * 126
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(LENGTHS)))
    assert not np.array_equal(*epochs)
    again, other = StepPlan(LENGTHS, settings(**changes)), StepPlan(LENGTHS, settings(**changes, seed=43))
    assert np.array_equal(again[200], plan[200])  # asked for out of order, as after a restart
    assert not np.array_equal(other[200], plan[200])


def test_steps_hold_examples_of_like_length() -> None:
    plan = StepPlan(LENGTHS, settings(batch_rows=8))
    batches = [LENGTHS[plan[step]] for step in range(plan.steps_per_epoch)]
    padded = sum(lengths.max() * len(lengths) for lengths in batches)
    assert LENGTHS.sum() / padded > 0.97


def test_an_epoch_of_a_mixture_holds_each_data_set_by_its_weight() -> None:
    many, few, held_out = np.arange(800), np.arange(800, 900), set(range(900, 1003))
    plan = StepPlan(LENGTHS, settings(batch_rows=8, batching="packed"), [Mixed(many, 0.25), Mixed(few, 2.5)])
    epochs = [np.concatenate([plan[step] for step in range(first, first + plan.steps_per_epoch)]) for first in (0, plan.steps_per_epoch)]
    for epoch in epochs:
        counts = np.bincount(epoch, minlength=1003)
        assert counts[many].sum() == 200 and counts[many].max() == 1
        assert counts[few].sum() == 250 and set(counts[few]) == {2, 3}
        assert not held_out & set(epoch)
    assert len(set(epochs[0][epochs[0] < 800]) & set(epochs[1][epochs[1] < 800])) < 100  # another quarter each epoch


@pytest.mark.parametrize("changes", [{"batching": "by_length", "micro_batch_rows": 2}, {"batching": "packed", "micro_batch_rows": 1}])
def test_shares_of_all_ranks_and_passes_make_the_step(changes: dict[str, object]) -> None:
    examples = np.argsort(-LENGTHS[:13], kind="stable")
    shares = [make_share(examples, LENGTHS, settings(batch_rows=16, **changes), 2, rank) for rank in range(2)]
    assert len({len(share.passes) for share in shares}) == 1 < len(shares[0].passes)
    assert sorted(chain.from_iterable(chain.from_iterable(share.passes for share in shares))) == list(range(13))
    assert shares[0].slots == shares[1].slots >= LENGTHS[:13].sum()


@pytest.mark.parametrize("world", [1, 2, 8])
def test_bins_hold_everything_once_and_are_filled_alike(world: int) -> None:
    lengths, capacity = LENGTHS[:128], 1024
    bins = pack(lengths, capacity, world)
    loads = [int(lengths[members].sum()) for members in bins]
    assert sorted(chain.from_iterable(bins)) == list(range(128))
    assert len(bins) % world == 0
    assert max(loads) <= capacity
    assert min(loads) > 0.97 * max(loads)


def test_bins_that_cannot_be_filled_alike_still_hold_everything() -> None:
    assert sorted(map(sorted, pack(np.array([600, 600, 600]), 1000, 1))) == [[0], [1], [2]]
    assert sorted(len(members) for members in pack(np.array([10]), 1000, 4)) == [0, 0, 0, 1]
