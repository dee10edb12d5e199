from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from caco_ray.config import LoraConfig
from caco_ray.training.flops import model_flops, peak_flops
from caco_ray.training.lora import add_adapters
from caco_ray.training.loss import PickPositions


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


def test_a_cpu_has_no_peak_unless_it_is_given() -> None:
    assert peak_flops("cpu", None) is None
    assert peak_flops("cpu", 0.5) == 5e11
