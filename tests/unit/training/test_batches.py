from itertools import chain
from pathlib import Path

import numpy as np

from caco_ray.training.batches import StepPlan, make_batch, micro_batches
from caco_ray.training.data import TokenFile
from tests.unit.training.conftest import settings

LENGTHS = np.random.default_rng(0).integers(20, 200, size=1003)


def test_an_epoch_uses_every_example_once_in_an_order_of_the_seed() -> None:
    plan = StepPlan(LENGTHS, settings(epochs=3))
    epochs = [np.concatenate([plan[step] for step in range(first, first + plan.steps_per_epoch)]) for first in (0, plan.steps_per_epoch)]
    assert plan.steps == 3 * plan.steps_per_epoch == 3 * 126
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(LENGTHS)))
    assert not np.array_equal(*epochs)
    again, other = StepPlan(LENGTHS, settings(epochs=3)), StepPlan(LENGTHS, settings(epochs=3, seed=43))
    assert np.array_equal(again[200], plan[200])  # asked for out of order, as after a restart
    assert not np.array_equal(other[200], plan[200])


def test_steps_hold_examples_of_like_length() -> None:
    plan = StepPlan(LENGTHS, settings(batch_rows=8))
    batches = [LENGTHS[plan[step]] for step in range(plan.steps_per_epoch)]
    padded = sum(lengths.max() * len(lengths) for lengths in batches)
    assert LENGTHS.sum() / padded > 0.97


def test_shares_of_all_ranks_and_passes_make_the_step() -> None:
    examples = np.arange(13)
    shares = [share for rank in range(2) for share in micro_batches(examples, 4, 2, rank)]
    assert len(shares) == 8
    assert sorted(chain.from_iterable(shares)) == examples.tolist()
    assert max(map(len, shares)) == 2


def test_positions_point_at_the_token_before_each_learned_one(tokens: Path) -> None:
    file = TokenFile(str(tokens))
    batch = make_batch(file, [0, 5, 3], "cpu")
    flat = batch.input_ids.reshape(-1)
    assert (flat[batch.positions + 1] == batch.targets).all()
    assert batch.targets.tolist() == [token for index in (0, 5, 3) for token in file[index][0][file[index][1]].tolist()]
    assert batch.tokens == sum(len(file[index][0]) for index in (0, 5, 3))


def test_an_empty_share_is_a_pass_without_a_loss(tokens: Path) -> None:
    batch = make_batch(TokenFile(str(tokens)), [], "cpu")
    assert batch.input_ids.shape == (1, 1)
    assert len(batch.positions) == len(batch.targets) == batch.tokens == 0
