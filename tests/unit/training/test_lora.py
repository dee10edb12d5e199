from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from caco_ray.config import LoraConfig
from caco_ray.errors import ModelError
from caco_ray.training.checkpoint import FolderCheckpoints, NoCheckpoints
from caco_ray.training.engine import build_engine, prepare_process
from caco_ray.training.loop import train_loop
from caco_ray.training.lora import add_adapters, merged
from caco_ray.training.progress import read_progress
from caco_ray.training.types import TrainLoopConfig
from tests.unit.training.conftest import run_ranks, settings

Make = Callable[..., TrainLoopConfig]
LORA = {"lora": {"rank": 4, "alpha": 8.0}, "learning_rate": 1e-2}


def test_merged_weights_give_the_logits_of_model_and_adapters(base: Path) -> None:
    config, ids = LoraConfig(rank=4, alpha=8), torch.arange(40)[None]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain = model(input_ids=ids).logits
    add_adapters(model, config)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted = model(input_ids=ids).logits
    assert (adapted - plain).abs().max() > 0.1
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    fresh.load_state_dict(merged(model.state_dict(), config))
    torch.testing.assert_close(fresh(input_ids=ids).logits, adapted, rtol=1e-4, atol=1e-4)


def test_adapters_alone_are_trained_and_the_export_is_an_ordinary_model(loop_config: Make, base: Path, tmp_path: Path) -> None:
    for stage in (0, 3):
        folder = tmp_path / f"zero{stage}"
        folder.mkdir()
        train_loop(loop_config(folder, zero_stage=stage, epochs=1, **LORA), NoCheckpoints())
        losses = [step.loss for step in read_progress(folder)]
        assert losses[-1] < losses[0] - 0.1
    before, *after = (AutoModelForCausalLM.from_pretrained(path) for path in (base, tmp_path / "zero0/model", tmp_path / "zero3/model"))
    for name, weight in before.named_parameters():
        trained = [dict(model.named_parameters())[name] for model in after]
        torch.testing.assert_close(*trained, rtol=1e-3, atol=1e-4)
        assert torch.equal(weight, trained[0]) != name.endswith("proj.weight"), name
    assert not list((tmp_path / "zero3/model").glob("adapter*"))


@pytest.mark.parametrize("stage", [2, 3])
def test_a_training_of_adapters_goes_on_with_another_number_of_ranks(stage: int, loop_config: Make, tmp_path: Path) -> None:
    changes = {"zero_stage": stage, "epochs": 1, "checkpoint_every_steps": 3, **LORA}
    assert run_ranks([loop_config(tmp_path, workers=2, micro_batch_rows=2, **changes)], tmp_path) == [0, 0]
    before = read_progress(tmp_path)
    train_loop(loop_config(tmp_path, **changes), FolderCheckpoints(tmp_path / "checkpoints"))
    after = read_progress(tmp_path)
    assert after[:3] == before[:3] and after[3].seconds != before[3].seconds
    assert [step.loss for step in after] == pytest.approx([step.loss for step in before], rel=1e-3)


def test_layers_that_are_not_there_are_one_clear_line(base: Path) -> None:
    prepare_process("cpu", 1)
    with pytest.raises(ModelError, match=r"lora.targets=\['nothing'\]: .*not found"):
        build_engine(settings(lora={"targets": ["nothing"]}), str(base))


@pytest.mark.parametrize(("target", "what"), [("lm_head", "lm_head is the output head"), ("embed_tokens", "model.embed_tokens is a Embedding")])
def test_layers_whose_adapters_would_be_lost_are_refused(target: str, what: str, base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(ModelError, match=rf"lora.targets=\['{target}'\]: {what}; name linear layers inside the model"):
        add_adapters(model, LoraConfig(targets=(target,)))
