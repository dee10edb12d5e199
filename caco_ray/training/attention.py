"""Which attention kernel a batch runs on CPU.

torch's fused CPU kernel is slow on short sequences: with plain matrix products a step of SmolLM2-135M on sequences of 130 tokens takes
an eighth less time. They keep all scores for the backward pass, so long batches, and every GPU, stay with the fused kernel.
"""

from typing import Any

_MAX_SCORE_BYTES = 2 << 30
_BYTES_PER_SCORE = 8  # what the backward pass keeps: float32 softmax, and its copy in bf16 with mask


class CpuAttention:
    """Switches a transformers model between `eager` and `sdpa`, batch by batch."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._scores = model.config.num_attention_heads * model.config.num_hidden_layers
        self._current = model.config._attn_implementation

    def choose(self, rows: int, length: int) -> None:
        """Call before the forward pass of a batch of `rows` sequences, padded to `length` tokens."""
        kernel = "eager" if self._scores * rows * length**2 * _BYTES_PER_SCORE <= _MAX_SCORE_BYTES else "sdpa"
        if kernel != self._current:
            self._model.set_attn_implementation(kernel)
            self._current = kernel
