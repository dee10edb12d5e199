from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config, RecurrentGemmaConfig

from caco_ray.errors import ModelError
from caco_ray.training.attention import CpuAttention, check_packable, flash, packed_attention, require_flash

ENDS = torch.tensor([0, 20, 21, 50], dtype=torch.int32)


def heads(count: int, device: str) -> torch.Tensor:
    return torch.randn(1, count, 50, 64, dtype=torch.bfloat16, device=device, requires_grad=True)


def test_the_kernel_follows_the_size_and_does_not_change_the_logits(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    attention = CpuAttention(model)
    ids = torch.arange(60).view(2, 30)
    logits = {}
    for rows, length in [(8, 100), (8, 20_000)]:
        attention.choose(rows, length)
        logits[model.config._attn_implementation] = model(input_ids=ids).logits
    assert list(logits) == ["eager", "sdpa"]
    torch.testing.assert_close(logits["eager"], logits["sdpa"], rtol=1e-4, atol=1e-5)


def test_the_flash_kernel_takes_what_it_is_given() -> None:
    """Shapes alone, on torch's device without memory: a machine without a GPU cannot run the kernel."""
    query, key = heads(4, "meta"), heads(2, "meta")
    attended = flash(query, key, key, ENDS.to("meta"), 29, 0.125)
    assert attended.shape == (1, 50, 4, 64)
    attended.sum().backward()
    assert query.grad is not None and key.grad is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_flash_kernel_gives_what_attention_within_each_sequence_gives() -> None:
    query, key, value = heads(4, "cuda"), heads(2, "cuda"), heads(2, "cuda")
    expected, _ = packed_attention(
        torch.nn.Module(), query.float(), key.float(), value.float(), None, cu_seq_lens_q=ENDS.cuda(), max_length_q=29
    )
    torch.testing.assert_close(flash(query, key, value, ENDS.cuda(), 29, None).float(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("config", "max_length", "packs"),
    [
        (LlamaConfig(), 4096, True),
        (Qwen2Config(use_sliding_window=False), 4096, True),
        (MistralConfig(sliding_window=1024), 4096, False),
        (MistralConfig(sliding_window=4096), 4096, True),
        (Qwen2Config(num_hidden_layers=2, layer_types=["full_attention", "linear_attention"]), 4096, False),
        (RecurrentGemmaConfig(), 1024, False),
    ],
)
def test_models_whose_layers_look_further_are_not_packed(config: object, max_length: int, packs: bool) -> None:
    model = SimpleNamespace(config=config, _supports_attention_backend=LlamaForCausalLM._supports_attention_backend)
    if packs:
        check_packable(model, max_length)
    else:
        with pytest.raises(ModelError, match="set training batching=by_length"):
            check_packable(model, max_length)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("size", "has_it"), [(128, True), (512, False)])
def test_flash_attention_alone_is_tried_before_the_first_step(size: int, has_it: bool) -> None:
    shape = {"hidden_size": size, "num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 1, "intermediate_size": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, **shape))
    cuda = torch.backends.cuda
    try:
        if has_it:
            require_flash(model)
        else:
            with pytest.raises(ModelError, match="LlamaForCausalLM has heads of size 512"):
                require_flash(model)
    finally:
        for enable in (cuda.enable_mem_efficient_sdp, cuda.enable_math_sdp, cuda.enable_cudnn_sdp):
            enable(True)
