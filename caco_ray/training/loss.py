"""Cross-entropy at the learned positions only.

The output head of a small model with a large vocabulary is a good part of its compute: hidden states are picked before it, so
prompts and padding never reach it. The model's own forward runs whole (any architecture, ZeRO-3 hooks included); a hook on the head
does the picking.
"""

from typing import Any

import torch
from torch import Tensor, nn

_CHUNK = 256  # rows of float32 logits in memory at a time


class PickPositions:
    """While installed on a causal model, its logits are [n, vocabulary] at `positions` instead of [rows, length, vocabulary]."""

    def __init__(self, model: Any) -> None:
        self.positions: Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._pick)

    def _pick(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self.positions is None:
            return None
        hidden = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, self.positions),)


class _SumCrossEntropy(torch.autograd.Function):  # type: ignore[misc]
    """Sum of -log p(target) with float32 softmax in chunks. The gradient is made in the forward pass, in the logits' type."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        gradient = torch.empty_like(logits)
        total = torch.zeros((), dtype=torch.float32, device=logits.device)
        for start in range(0, len(targets), _CHUNK):
            rows = slice(start, start + _CHUNK)
            log_p = torch.log_softmax(logits[rows].float(), dim=-1)
            index = targets[rows, None]
            total -= log_p.gather(1, index).sum()
            gradient[rows] = log_p.exp_().scatter_add_(1, index, -torch.ones_like(index, dtype=log_p.dtype))
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(outer[0]), None


def sum_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over n targets, float32. logits: [n, vocabulary]; targets: int64 [n]. Its backward may run once."""
    return _SumCrossEntropy.apply(logits, targets)
