from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from caco_ray.config import LoraConfig
from caco_ray.training.flops import known_peak, model_flops, peak_flops
from caco_ray.training.lora import add_adapters
from caco_ray.training.loss import PickPositions
from tests.unit.training.conftest import settings


def counted(model: torch.nn.Module, rows: int, length: int, learned: int) -> int:
    """FLOPs of matrix products that torch sees in one forward and backward pass."""
    pick = PickPositions(model)
    pick.positions = torch.arange(learned)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(rows, length, dtype=torch.long), use_cache=False).logits.sum().backward()
    return int(counter.get_total_flops())


def test_flops_are_those_that_torch_counts(base: Path) -> None:
    rows, length, learned = 3, 64, 20
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    flops = model_flops(model)
    ours = flops.of(np.full(rows, length), learned)
    whole_attention = flops.per_pair * rows * length**2 / 2  # torch counts what lies above the diagonal too
    assert abs(ours + whole_attention - counted(model, rows, length, learned)) < 0.02 * ours


def test_frozen_weights_cost_a_third_less(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    full = model_flops(model).per_token
    add_adapters(model, LoraConfig(rank=1))
    assert 0.66 * full < model_flops(model).per_token < 0.75 * full


@pytest.mark.parametrize("family", ["Mixtral", "Qwen3Moe"])
def test_a_token_pays_for_the_experts_that_it_passes(family: str) -> None:
    shape = {"hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_experts_per_tok": 2}

    def per_token(experts: int) -> float:
        config = getattr(transformers, f"{family}Config")(**shape, **heads, num_local_experts=experts, num_experts=experts)
        with torch.device("meta"):
            return model_flops(AutoModelForCausalLM.from_config(config)).per_token

    assert per_token(2) < per_token(16) < 1.1 * per_token(2)  # the router's rows


def test_a_cpu_has_no_peak_unless_it_is_given() -> None:
    assert peak_flops("cpu", settings(dtype="bfloat16")) is None
    assert peak_flops("cpu", settings(peak_tflops=0.5)) == 5e11


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GB200", None),
    ],
)
def test_a_card_that_is_not_known_has_no_peak(name: str, tflops: float | None) -> None:
    assert known_peak(name) == (tflops and tflops * 1e12)
