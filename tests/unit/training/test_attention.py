from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from caco_ray.training.attention import CpuAttention


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
