from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from caco_ray.training.attention import use_packed_attention
from caco_ray.training.batches import Batch, packed_batch, padded_batch
from caco_ray.training.data import TokenFile

PICKED = [0, 5, 3, 12]


@pytest.mark.parametrize("make", [padded_batch, packed_batch])
def test_positions_point_at_the_token_before_each_learned_one(make: type[Batch], tokens: Path) -> None:
    file = TokenFile(str(tokens))
    batch = make(file, PICKED, "cpu")
    flat = batch.inputs["input_ids"].reshape(-1)
    assert (flat[batch.positions + 1] == batch.targets).all()
    assert batch.targets.tolist() == [token for index in PICKED for token in file[index][0][file[index][1]].tolist()]


@pytest.mark.parametrize("make", [padded_batch, packed_batch])
def test_an_empty_share_is_a_pass_without_a_loss(make: type[Batch], tokens: Path) -> None:
    batch = make(TokenFile(str(tokens)), [], "cpu")
    assert batch.inputs["input_ids"].shape == (1, 1)
    assert len(batch.positions) == len(batch.targets) == 0


def sample_losses(model: torch.nn.Module, batch: Batch, file: TokenFile) -> list[float]:
    """Sum of -log p of each sample of the batch."""
    with torch.no_grad():
        logits = model(**batch.inputs, use_cache=False).logits
    log_p = logits.float().log_softmax(-1).reshape(-1, logits.shape[-1])[batch.positions]
    each = -log_p.gather(1, batch.targets[:, None])[:, 0]
    return [float(part.sum()) for part in each.split([int(file.learned[index]) for index in PICKED])]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_a_packed_batch_gives_each_sample_the_loss_it_has_alone(dtype: torch.dtype, tolerance: float, base: Path, tokens: Path) -> None:
    file, model = TokenFile(str(tokens)), AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    alone = [float(sample_losses_alone(model, file, index)) for index in PICKED]
    assert sample_losses(model, padded_batch(file, PICKED, "cpu"), file) == pytest.approx(alone, rel=tolerance)
    use_packed_attention(model)
    assert sample_losses(model, packed_batch(file, PICKED, "cpu"), file) == pytest.approx(alone, rel=tolerance)


def sample_losses_alone(model: torch.nn.Module, file: TokenFile, index: int) -> torch.Tensor:
    ids, learn = file[index]
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor(ids).long()[None], use_cache=False).logits[0].float().log_softmax(-1)
    return -sum(log_p[place - 1, ids[place]] for place in range(1, len(ids)) if learn[place])


def test_plain_attention_over_a_packed_batch_would_give_other_losses(base: Path, tokens: Path) -> None:
    """The comparison above can fail: it does where sequences see each other."""
    file, model = TokenFile(str(tokens)), AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    alone = [float(sample_losses_alone(model, file, index)) for index in PICKED]
    batch = packed_batch(file, PICKED, "cpu")
    across = Batch({"input_ids": batch.inputs["input_ids"]}, batch.positions, batch.targets)
    assert sample_losses(model, across, file)[1:] != pytest.approx(alone[1:], rel=1e-4)


def test_gradients_of_a_packed_batch_are_those_of_a_padded_one(base: Path, tokens: Path) -> None:
    file, gradients = TokenFile(str(tokens)), []
    for packed in (False, True):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if packed:
            use_packed_attention(model)
        batch = (packed_batch if packed else padded_batch)(file, PICKED, "cpu")
        logits = model(**batch.inputs, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1])[batch.positions], batch.targets).backward()
        gradients.append(np.concatenate([parameter.grad.flatten().numpy() for parameter in model.parameters()]))
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)
