"""Which attention a batch runs.

`PACKED` is attention within each sequence of a packed batch and never across: flash-attention's variable-length kernel on GPUs that have
it (torch's own, so that no further package is needed), one call per sequence elsewhere, which also spares the products between sequences
that a block-diagonal mask would throw away. Models whose layers look at the sequence in another way are refused by `check_packable`.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from caco_ray.errors import ClusterError, ModelError

PACKED = "caco_packed"
_FLASH_CAPABILITY = (8, 0)  # Ampere (https://github.com/Dao-AILab/flash-attention)
_MAX_SCORE_BYTES = 2 << 30
_BYTES_PER_SCORE = 8  # what the backward pass keeps: float32 softmax, and its copy in bf16 with mask


def choose_flash(wanted: bool | None) -> None:
    """Let torch take its flash kernel on this process's GPU, or not; None: where the GPU has it.

    Raises:
        ClusterError: wanted, and the GPU has none.
    """
    has_it = torch.cuda.get_device_capability() >= _FLASH_CAPABILITY
    if wanted and not has_it:
        raise ClusterError(f"training flash_attention=true: {torch.cuda.get_device_name()} has no such kernel; leave it out")
    torch.backends.cuda.enable_flash_sdp(has_it if wanted is None else wanted)


def require_flash(model: Any) -> None:
    """Leave torch no kernel for attention but flash. `model` is on its way to a GPU.

    Raises:
        ModelError: the model does not let torch choose the kernel, or its heads are too large for this one.
    """
    if model.config._attn_implementation not in ("sdpa", PACKED):
        raise ModelError(f"training flash_attention=true: {type(model).__name__} has an attention of its own; leave it out")
    cuda = torch.backends.cuda
    for enable in (cuda.enable_mem_efficient_sdp, cuda.enable_math_sdp, cuda.enable_cudnn_sdp):
        enable(False)
    config = model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    head = torch.zeros(1, 1, 8, size, dtype=torch.bfloat16, device="cuda")
    try:
        scaled_dot_product_attention(head, head, head, is_causal=True)
    except RuntimeError as error:
        raise ModelError(f"training flash_attention=true: {type(model).__name__} has heads of size {size}; leave it out") from error


def use_packed_attention(model: Any) -> None:
    """Let a transformers model run `PACKED`; its batches then carry `cu_seq_lens_q` and `max_length_q`."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)
    model.set_attn_implementation(PACKED)


def check_packable(model: Any, max_length: int) -> None:
    """Raises ModelError where sequences of a packed batch could see each other."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    named = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)  # the second: recurrence too
    kinds = set(named or ["sliding_attention" if window else "full_attention"])
    window = window if "sliding_attention" in kinds else None
    if kinds - {"full_attention", "sliding_attention"} or not model._supports_attention_backend or (window and window < max_length):
        raise ModelError(
            f"{type(model).__name__}: its attention ({', '.join(sorted(kinds))}) cannot keep the sequences of a packed batch apart; "
            "set training batching=by_length"
        )


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,  # transformers hands every attention all that any of them takes
) -> tuple[Tensor, None]:
    """Causal attention within [cu_seq_lens_q[i], cu_seq_lens_q[i + 1]).

    query: [1, heads, tokens, size]; key, value: [1, kv_heads, tokens, size]. Returns [1, tokens, heads, size].
    """
    if attention_mask is not None or softcap is not None:
        raise ModelError(f"{type(module).__name__}: masks and soft caps are not packed; set training batching=by_length")
    if query.is_cuda and query.dtype != torch.float32 and torch.backends.cuda.flash_sdp_enabled():
        return flash(query, key, value, cu_seq_lens_q, max_length_q, scaling), None
    ends = cu_seq_lens_q.tolist()
    parts = [
        scaled_dot_product_attention(
            query[:, :, start:end], key[:, :, start:end], value[:, :, start:end], is_causal=True, scale=scaling, enable_gqa=True
        )
        for start, end in pairwise(ends)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def flash(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scaling: float | None) -> Tensor:
    """All sequences in one call; shapes as in `packed_attention`, bf16 or fp16."""
    from torch.nn.attention.varlen import varlen_attn

    flat = [tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value)]
    causal, grouped = (-1, 0), query.shape[1] != key.shape[1]
    packed: Tensor = varlen_attn(*flat, ends, ends, longest, longest, scale=scaling, window_size=causal, enable_gqa=grouped)
    return packed[None]


class CpuAttention:
    """Switches a transformers model between `eager` and `sdpa`, padded batch by padded batch.

    torch's fused CPU kernel is slow on short sequences: with plain matrix products a step of SmolLM2-135M on sequences of 130 tokens
    takes an eighth less time. They keep all scores for the backward pass, so long batches, and every GPU, stay with the fused kernel.
    """

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
