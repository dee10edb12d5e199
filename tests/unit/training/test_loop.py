"""The loop on real processes: gloo, DeepSpeed ZeRO, kill -9."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from caco_ray.errors import UserError
from caco_ray.training.checkpoint import NoCheckpoints
from caco_ray.training.loop import learning_rate, train_loop
from caco_ray.training.progress import read_progress
from caco_ray.training.types import TrainLoopConfig
from tests.unit.training.conftest import run_ranks, settings

Make = Callable[..., TrainLoopConfig]


def curve(folder: Path) -> list[float]:
    return [step.loss for step in read_progress(folder)]


@pytest.fixture(scope="module")
def runs(loop_config: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank with one pass a step, and two ranks with two passes at every ZeRO stage."""
    root = tmp_path_factory.mktemp("runs")
    assert run_ranks([loop_config(root / "alone", zero_stage=0, micro_batch_rows=8)], root) == [0]
    two = [loop_config(root / f"zero{stage}", zero_stage=stage, workers=2, micro_batch_rows=2) for stage in (0, 1, 2, 3)]
    half = loop_config(root / "bf16", zero_stage=2, workers=2, micro_batch_rows=2, dtype="bfloat16", activation_checkpointing=True)
    assert run_ranks([half, *two], root) == [0, 0]
    return root


@pytest.mark.parametrize(("name", "tolerance"), [("zero0", 1e-3), ("zero1", 1e-3), ("zero2", 1e-3), ("zero3", 1e-3), ("bf16", 5e-2)])
def test_the_loss_curve_does_not_depend_on_how_the_work_is_cut(runs: Path, name: str, tolerance: float) -> None:
    alone = curve(runs / "alone")
    assert len(alone) == 12
    assert alone[-1] < alone[0] - 0.5  # it learns
    assert curve(runs / name) == pytest.approx(alone, rel=tolerance)


@pytest.mark.parametrize("name", ["alone", "zero1", "zero2", "zero3"])
def test_the_exported_folder_holds_the_trained_model(runs: Path, name: str, tokens: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, reference = runs / name / "model", runs / "zero0" / "model"
    model, same = (AutoModelForCausalLM.from_pretrained(path) for path in (folder, reference))
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    text = "<|im_start|>question\nWhat is 3 times 5?<|im_end|>\n"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(text, return_tensors="pt").input_ids
    torch.testing.assert_close(model(inputs).logits, same(inputs).logits, rtol=2e-2, atol=2e-2)
    assert tokenizer.chat_template
    assert model.generation_config.eos_token_id == [0, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert model.config.use_cache
    assert "final loss" in (folder / "README.md").read_text()


def test_a_killed_rank_costs_nothing_but_time(loop_config: Make, tmp_path: Path) -> None:
    changes = {"zero_stage": 2, "workers": 2, "micro_batch_rows": 2, "checkpoint_every_steps": 3}
    whole, cut = loop_config(tmp_path / "whole", **changes), loop_config(tmp_path / "cut", **changes)
    assert run_ranks([whole], tmp_path) == [0, 0]
    codes = run_ranks([cut], tmp_path, die_at_step=6)
    assert -9 in codes and 0 not in codes
    before = read_progress(tmp_path / "cut")
    assert [step.step for step in before] == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "cut" / "model").exists()
    assert run_ranks([cut], tmp_path) == [0, 0]
    after = read_progress(tmp_path / "cut")
    assert after[:3] == before[:3]  # went on from step 3, the last whole checkpoint
    assert [step.step for step in after] == list(range(1, 13))
    assert curve(tmp_path / "cut") == pytest.approx(curve(tmp_path / "whole"), rel=1e-5)
    assert after[-1].tokens == read_progress(tmp_path / "whole")[-1].tokens


def test_a_diverged_step_stops_with_its_rows(loop_config: Make, tmp_path: Path) -> None:
    config = loop_config(tmp_path, learning_rate=1e30, zero_stage=0, warmup_fraction=0)
    with pytest.raises(UserError, match=r"training diverged at step \d+ of 12 .*rows of the step: row-\d+, row-"):
        train_loop(config, NoCheckpoints())
    assert not (tmp_path / "model").exists()


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    training = settings(learning_rate=1.0, warmup_fraction=0.1)
    rates = [learning_rate(step, 100, training) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001
