from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from caco_ray.training.batches import padded_batch
from caco_ray.training.data import TokenFile
from caco_ray.training.loss import PickPositions, sum_cross_entropy


def test_loss_and_gradient_are_those_of_a_hand_made_computation(base: Path, tokens: Path) -> None:
    """Each example alone, unpadded, token by token, against one padded batch with the head at learned positions only."""
    file, picked = TokenFile(str(tokens)), [1, 4, 10]
    by_hand = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    expected = torch.zeros(())
    for index in picked:
        ids, learn = file[index]
        log_p = by_hand(input_ids=torch.tensor(ids).long()[None]).logits[0].log_softmax(-1)
        for place in range(1, len(ids)):
            if learn[place]:
                expected = expected - log_p[place - 1, ids[place]]
    expected.backward()

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    pick, batch = PickPositions(model), padded_batch(file, picked, "cpu")
    pick.positions = batch.positions
    logits = model(**batch.inputs).logits
    loss = sum_cross_entropy(logits, batch.targets)
    loss.backward()
    assert logits.shape == (len(batch.targets), model.config.vocab_size)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-3)
    gradients = dict(by_hand.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-3, atol=1e-4)


def test_chunks_do_not_show() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(600, 50, requires_grad=True), torch.randint(50, (600,))
    theirs = logits.detach().clone().requires_grad_()
    ours = sum_cross_entropy(logits, targets) * 0.25
    reference = torch.nn.functional.cross_entropy(theirs, targets, reduction="sum") * 0.25
    ours.backward()
    reference.backward()
    torch.testing.assert_close(ours, reference)
    torch.testing.assert_close(logits.grad, theirs.grad)
