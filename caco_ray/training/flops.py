"""Model FLOPs of a step, and what share of the device's peak they are (MFU, PaLM https://arxiv.org/abs/2204.02311 appendix B).

Counted is what the model needs, not what is computed again for activation checkpointing: 2 FLOPs per weight and token forward, 2 more
for the gradient of the activations, 2 more for that of a weight which is trained. The output head counts at learned positions only,
attention on the causal half only; so these figures are lower than those of formulas that count both whole. Of a mixture of experts those
count that a token passes.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from caco_ray.config import TrainingConfig

# Dense bf16 TFLOP/s of NVIDIA's data sheets, by words of the device's name. The NVL cards of H100 and H200 are slower, and not known here.
PEAK_TFLOPS = {"B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0}


@dataclass(frozen=True)
class ModelFlops:
    """per_token: FLOPs of a step for each token, outside attention and head; per_learned: of the head; per_pair: of attention."""

    per_token: float
    per_learned: float
    per_pair: float

    def of(self, lengths: np.ndarray, learned: int) -> float:
        """FLOPs of a step over sequences of `lengths` tokens, `learned` tokens of which have a loss."""
        pairs = float((lengths.astype(np.float64) ** 2).sum()) / 2
        return self.per_token * float(lengths.sum()) + self.per_learned * learned + self.per_pair * pairs


def model_flops(model: Any) -> ModelFlops:
    """Of a transformers causal model, with or without adapters. Sizes under ZeRO-3 are the true ones (`ds_numel`)."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    weights = {name: weight for name, weight in model.named_parameters() if weight is not embedding and weight is not head}
    config = model.config.get_text_config()
    passed = _passed_experts(config)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pair = 4 * config.num_hidden_layers * config.num_attention_heads * size  # scores, and their product with the values
    per_token = sum(_factor(weight) * _numel(weight) * (passed if ".experts." in name else 1) for name, weight in weights.items())
    return ModelFlops(per_token, _factor(head) * _numel(head), 3 * pair)


def _passed_experts(config: Any) -> float:
    """The share of the experts that a token passes. The families name their number differently."""
    names = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    experts = next((count for name in names if (count := getattr(config, name, None))), 1)
    return (getattr(config, "num_experts_per_tok", None) or experts) / experts


def peak_flops(device: str, training: TrainingConfig) -> float | None:
    """FLOP/s of one device; None where nobody knows."""
    if training.peak_tflops is not None:
        return training.peak_tflops * 1e12
    if not device.startswith("cuda") or training.dtype != "bfloat16":
        return None
    return known_peak(torch.cuda.get_device_name(device))


def known_peak(name: str) -> float | None:
    """Dense bf16 FLOP/s of a device by its name."""
    if re.search(r"\bNVL\b", name):
        return None
    return next((tflops * 1e12 for part, tflops in PEAK_TFLOPS.items() if re.search(rf"\b{part}\b", name)), None)


def _factor(weight: torch.Tensor) -> int:
    return 6 if weight.requires_grad else 4


def _numel(weight: torch.Tensor) -> int:
    return int(getattr(weight, "ds_numel", weight.numel()))
