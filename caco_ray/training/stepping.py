"""The moving parts of a training: one optimizer step, and one evaluation of the held-out loss."""

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.utils import get_total_norm

from caco_ray.config import TrainingConfig
from caco_ray.errors import CacoError
from caco_ray.training.attention import CpuAttention
from caco_ray.training.batches import Batch, packed_batch, padded_batch
from caco_ray.training.checkpoint import Loadable, load_state
from caco_ray.training.data import TokenFile
from caco_ray.training.engine import build_engine
from caco_ray.training.flops import model_flops, peak_flops
from caco_ray.training.guard import check_loss, diverged
from caco_ray.training.loss import PickPositions, sum_cross_entropy
from caco_ray.training.plan import Share, StepPlan, make_share
from caco_ray.training.types import Step, Totals, TrainLoopConfig


def learning_rate(step: int, steps: int, training: TrainingConfig) -> float:
    """Linear warm-up over `warmup_fraction` of the steps, then a cosine to zero. `step` counts from 0."""
    warmup = math.ceil(steps * training.warmup_fraction)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


class Stepper:
    """One rank's engine with the state of the training: `done` steps and their `totals`."""

    def __init__(self, config: TrainLoopConfig, file: TokenFile, plan: StepPlan, checkpoint: Loadable | None) -> None:
        self.training, self.file, self.plan = config.training, file, plan
        self.engine = build_engine(config.training, config.base, universal=checkpoint is not None and checkpoint.universal)
        self.device = str(self.engine.device)
        self._folder = Path(config.output_dir)
        self._pick = PickPositions(self.engine.module)
        padded_on_cpu = config.device == "cpu" and config.training.batching == "by_length"
        self._attention = CpuAttention(self.engine.module) if padded_on_cpu else None
        self._flops = model_flops(self.engine.module)
        self._peak = peak_flops(self.device, config.training)
        self.done, self.totals = (0, Totals()) if checkpoint is None else load_state(self.engine, checkpoint)

    @property
    def mfu(self) -> float | None:
        """Of the whole training; None where the device's peak is not known."""
        return self._mfu(self.totals.flops, self.totals.seconds)

    def step(self) -> Step:
        """One optimizer step over the next global batch.

        Raises:
            UserError: the loss or the gradient is not a number, or the loss jumps; names the rows of the step.
        """
        begun, examples = time.monotonic(), self.plan[self.done]
        rate = learning_rate(self.done, self.plan.steps, self.training)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        tokens, learned = int(self.file.lengths[examples].sum()), int(self.file.learned[examples].sum())
        share = self._share(examples)
        loss = self._forward_backward(share, learned)
        self._stop_on(check_loss(loss, self.totals.losses, self.training.max_loss_spike), examples)
        grad_norm = self._update()
        self._stop_on(None if math.isfinite(grad_norm) else f"gradient norm {grad_norm}", examples)
        seconds, flops = time.monotonic() - begun, self._flops.of(self.file.lengths[examples], learned)
        self._count(tokens, learned, share.slots, flops, seconds, loss)
        epoch, totals = self.done / self.plan.steps_per_epoch, self.totals
        pace, mfu = tokens / seconds, self._mfu(flops, seconds)
        return Step(self.done, self.plan.steps, epoch, loss, rate, grad_norm, totals.tokens, pace, totals.seconds, mfu)

    def heldout_loss(self, examples: np.ndarray) -> float:
        """Mean over the learned tokens of `examples`. A collective."""
        self.engine.eval()
        total = torch.zeros((), dtype=torch.float64)
        with torch.no_grad():
            for start in range(0, len(examples), self.training.batch_rows):
                for members in self._share(examples[start : start + self.training.batch_rows]).passes:
                    total += self._loss(members).item()
        self.engine.train()
        return self._over_ranks(total) / int(self.file.learned[examples].sum())

    def _share(self, examples: np.ndarray) -> Share:
        return make_share(examples, self.file.lengths, self.training, dist.get_world_size(), dist.get_rank())

    def _forward_backward(self, share: Share, learned: int) -> float:
        """Mean loss over all ranks. The update is left to the caller."""
        total = torch.zeros((), dtype=torch.float64)
        for number, members in enumerate(share.passes, start=1):
            self.engine.set_gradient_accumulation_boundary(number == len(share.passes))
            loss = self._loss(members)
            self.engine.backward(loss * (dist.get_world_size() / learned))  # DeepSpeed takes the mean over ranks
            total += loss.item()
        return self._over_ranks(total) / learned

    def _update(self) -> float:
        """Clip and apply the gradient of all ranks; returns its norm before."""
        norm = None
        if self.training.zero_stage == 0 and self.training.dtype == "float32":  # DeepSpeed clips, and tells no norm
            norm = get_total_norm(weight.grad for weight in self.engine.module.parameters() if weight.grad is not None)
        self.engine.step()
        norm = self.engine.get_global_grad_norm() if norm is None else norm
        if norm is None:
            raise CacoError(f"DeepSpeed gives no norm of the gradient at ZeRO stage {self.training.zero_stage}")
        return float(norm)

    def _loss(self, members: list[int]) -> torch.Tensor:
        """Sum over the learned tokens of one forward pass."""
        batch = self._batch(members)
        self._pick.positions = batch.positions
        if self._attention is not None:
            self._attention.choose(*batch.inputs["input_ids"].shape)
        logits = self.engine(**batch.inputs, use_cache=False).logits
        self._pick.positions = None
        return sum_cross_entropy(logits, batch.targets)

    def _batch(self, members: list[int]) -> Batch:
        make = packed_batch if self.training.batching == "packed" else padded_batch
        return make(self.file, members, self.device)

    def _over_ranks(self, value: torch.Tensor) -> float:
        value = value.to(self.device)
        dist.all_reduce(value)
        return float(value.item())

    def _count(self, tokens: int, learned: int, slots: int, flops: float, seconds: float, loss: float) -> None:
        self.done += 1
        self.totals.tokens += tokens
        self.totals.learned += learned
        self.totals.slots += slots
        self.totals.flops += flops
        self.totals.seconds += seconds
        self.totals.losses.append(loss)

    def _mfu(self, flops: float, seconds: float) -> float | None:
        return flops / seconds / (self._peak * dist.get_world_size()) if self._peak else None

    def _stop_on(self, problem: str | None, examples: np.ndarray) -> None:
        if problem is not None:
            rows = self.file.row_ids(examples.tolist())
            raise diverged(problem, self.done + 1, self.plan.steps, rows, self._folder, write=dist.get_rank() == 0)
