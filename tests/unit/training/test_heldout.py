"""Held-out loss, early stopping, and the guard against jumps of the loss."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from caco_ray.errors import CacoError, UserError
from caco_ray.training.base import load_tokenizer
from caco_ray.training.checkpoint import FolderCheckpoints, NoCheckpoints
from caco_ray.training.data import TokenFile, write_tokens
from caco_ray.training.guard import check_loss
from caco_ray.training.loop import train_loop
from caco_ray.training.progress import read_progress
from caco_ray.training.types import TrainLoopConfig
from tests.unit.training.conftest import made_up, run_ranks, settings

Make = Callable[..., TrainLoopConfig]
HELDOUT = {"heldout_fraction": 0.3, "evaluate_every_steps": 2}


@pytest.fixture(scope="module")
def heldout_tokens(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("heldout") / "tokens.arrow"
    write_tokens([made_up()], load_tokenizer(base), settings(**HELDOUT), path)
    return path


@pytest.fixture(scope="module")
def make(base: Path, heldout_tokens: Path) -> Make:
    def config(output_dir: Path, **changes: object) -> TrainLoopConfig:
        output_dir.mkdir(exist_ok=True)
        return TrainLoopConfig(settings(**HELDOUT | changes), str(base), str(heldout_tokens), str(output_dir))

    return config


def loss_of(folder: Path, tokens: Path) -> float:
    """Mean loss of an exported model over the held-out examples, one by one."""
    model, file = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), TokenFile(str(tokens))
    total = count = 0.0
    with torch.no_grad():
        for index in file.heldout.nonzero()[0].tolist():
            ids, learn = file[index]
            log_p = model(input_ids=torch.tensor(ids).long()[None]).logits[0].log_softmax(-1)
            places = [place for place in range(1, len(ids)) if learn[place]]
            total -= sum(float(log_p[place - 1, ids[place]]) for place in places)
            count += len(places)
    return total / count


@pytest.mark.parametrize("changes", [{}, {"batching": "packed", "max_length": 128, "zero_stage": 3, "peak_tflops": 0.1}])
def test_heldout_loss_is_that_of_the_exported_model(changes: dict[str, object], make: Make, heldout_tokens: Path, tmp_path: Path) -> None:
    result = train_loop(make(tmp_path, **changes), NoCheckpoints())
    steps = read_progress(tmp_path)
    evaluated = [step.step for step in steps if step.heldout_loss is not None]
    assert evaluated == [*range(2, result.steps, 2), result.steps]
    assert result.heldout_loss == steps[-1].heldout_loss == pytest.approx(loss_of(tmp_path / "model", heldout_tokens), rel=1e-4)
    assert (result.mfu is None) == (steps[-1].mfu is None) == ("peak_tflops" not in changes)
    assert result.mfu is None or 0 < result.mfu < 1
    assert result.examples == sum(~TokenFile(str(heldout_tokens)).heldout)


def test_two_ranks_agree_with_one(make: Make, tmp_path: Path) -> None:
    train_loop(make(tmp_path / "one"), NoCheckpoints())
    assert run_ranks([make(tmp_path / "two", workers=2, micro_batch_rows=2)], tmp_path) == [0, 0]
    one, two = ([step.heldout_loss for step in read_progress(tmp_path / name)] for name in ("one", "two"))
    assert one[:-1:2] == two[:-1:2] == [None] * (len(one) // 2)
    assert two[1::2] == pytest.approx(one[1::2], rel=1e-4)


def test_a_training_that_gets_worse_stops_early_and_leaves_its_best_model(make: Make, heldout_tokens: Path, tmp_path: Path) -> None:
    changes = {"learning_rate": 0.1, "epochs": 20, "early_stop_after": 2, "checkpoint_every_steps": 5}
    result = train_loop(make(tmp_path, **changes), FolderCheckpoints(tmp_path / "checkpoints"))
    losses = [step.heldout_loss for step in read_progress(tmp_path) if step.heldout_loss is not None]
    assert result.stopped_early and result.steps < read_progress(tmp_path)[-1].steps
    assert min(losses) == losses[-3] == result.heldout_loss
    assert loss_of(tmp_path / "model", heldout_tokens) == pytest.approx(losses[-3], rel=1e-4)
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(CacoError, match="the best model is gone"):  # never a training without a model
        train_loop(make(tmp_path, **changes), FolderCheckpoints(tmp_path / "checkpoints"))


def test_a_jump_of_the_loss_stops_before_it_is_learned(make: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"diverged at step \d+ of 40 .loss [\d.]+, over 1.2 x the usual [\d.]+.; .*rows of the step: row-"):
        train_loop(make(tmp_path, learning_rate=0.3, max_loss_spike=1.2, epochs=10, warmup_fraction=0.5), NoCheckpoints())
    left = json.loads((tmp_path / "diverged.json").read_text())
    assert left["step"] == read_progress(tmp_path)[-1].step + 1


def test_what_counts_as_a_jump() -> None:
    usual = [2.0] * 20
    assert check_loss(3.9, usual, 2.0) is check_loss(100.0, usual, None) is check_loss(100.0, usual[:5], 2.0) is None
    assert "over 2 x the usual 2.000" in str(check_loss(4.1, usual, 2.0))
    assert check_loss(float("nan"), [], None) == "loss nan"
