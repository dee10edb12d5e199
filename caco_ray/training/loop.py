"""One worker of a training, start to end. The same function under Ray Train, under torchrun, and alone.

The loss of a step is the mean over its learned tokens on all ranks, whatever the number of ranks and forward passes, so the loss
curve does not depend on how the work is cut.
"""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoTokenizer

from caco_ray.config import TrainingConfig
from caco_ray.errors import UserError
from caco_ray.training.attention import CpuAttention
from caco_ray.training.batches import StepPlan, learned_tokens, make_batch, micro_batches
from caco_ray.training.checkpoint import Checkpoints, load_state, save_state
from caco_ray.training.data import TokenFile
from caco_ray.training.engine import build_engine, micro_steps, prepare_process
from caco_ray.training.export import export_model, model_card
from caco_ray.training.loss import PickPositions, sum_cross_entropy
from caco_ray.training.progress import ProgressWriter
from caco_ray.training.types import Step, Totals, TrainLoopConfig, TrainResult

MODEL_FOLDER = "model"


def train_loop(config: TrainLoopConfig, checkpoints: Checkpoints) -> TrainResult:
    """Train, export to `<output_dir>/model`, and return the figures (the same on every rank).

    Raises:
        UserError: the loss or the gradient is not a number; names the rows of the step.
    """
    training = config.training
    prepare_process(config.device, training.cpus_per_worker)
    torch.manual_seed(training.seed)
    file = TokenFile(config.tokens)
    plan = StepPlan(file.lengths, training)
    trainer = _Trainer(config, file, plan)
    with checkpoints.latest() as folder:
        if folder is not None:
            trainer.done, trainer.totals = load_state(trainer.engine, folder)
    rank = dist.get_rank()
    writer = ProgressWriter(Path(config.output_dir), trainer.done) if rank == 0 else None
    while trainer.done < plan.steps:
        step = trainer.step()
        if writer is not None:
            writer.write(step)
        if training.checkpoint_every_steps and trainer.done % training.checkpoint_every_steps == 0 and trainer.done < plan.steps:
            checkpoints.save(trainer.done, lambda target: save_state(trainer.engine, target, trainer.done, trainer.totals))
    return _finish(config, trainer, len(file))


def learning_rate(step: int, steps: int, training: TrainingConfig) -> float:
    """Linear warm-up over `warmup_fraction` of the steps, then a cosine to zero. `step` counts from 0."""
    warmup = math.ceil(steps * training.warmup_fraction)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


class _Trainer:
    """The moving parts of a training and its running totals."""

    def __init__(self, config: TrainLoopConfig, file: TokenFile, plan: StepPlan) -> None:
        self.config, self.file, self.plan = config, file, plan
        self.engine = build_engine(config.training, config.base)
        self.pick = PickPositions(self.engine.module)
        self.attention = CpuAttention(self.engine.module) if config.device == "cpu" else None
        self.device = str(self.engine.device)
        self.done = 0
        self.totals = Totals()

    def step(self) -> Step:
        """One optimizer step over the next global batch."""
        training, begun = self.config.training, time.monotonic()
        examples = self.plan[self.done]
        rate = learning_rate(self.done, self.plan.steps, training)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        learned = learned_tokens(self.file, examples)
        nll, tokens, padded = self._forward_backward(examples, learned)
        loss = nll / learned
        self._require_finite("loss", loss, examples)
        self.engine.step()
        grad_norm = float(self.engine.get_global_grad_norm() or 0.0)
        self._require_finite("gradient norm", grad_norm, examples)
        self.done += 1
        seconds = time.monotonic() - begun
        self.totals.add(int(tokens), int(padded), learned, seconds, loss)
        epoch = self.done / self.plan.steps_per_epoch
        return Step(self.done, self.plan.steps, epoch, loss, rate, grad_norm, self.totals.tokens, tokens / seconds, self.totals.seconds)

    def _forward_backward(self, examples: np.ndarray, learned: int) -> list[float]:
        """Sum of the loss, tokens and padded tokens over all ranks. The last `engine.step`, which updates, is left to the caller."""
        world, parts = dist.get_world_size(), micro_steps(self.config.training)
        figures = torch.zeros(3, dtype=torch.float64)
        for number, share in enumerate(micro_batches(examples, parts, world, dist.get_rank())):
            if number:
                self.engine.step()  # counts the forward pass before; updates nothing yet
            batch = make_batch(self.file, share, self.device)
            self.pick.positions = batch.positions
            if self.attention is not None:
                self.attention.choose(*batch.input_ids.shape)
            loss = sum_cross_entropy(self.engine(input_ids=batch.input_ids, use_cache=False).logits, batch.targets)
            self.engine.backward(loss * (world * parts / learned))  # DeepSpeed divides by both
            figures += torch.tensor([loss.item(), batch.tokens, batch.input_ids.numel()], dtype=torch.float64)
        figures = figures.to(self.device)
        dist.all_reduce(figures)
        return [float(figure) for figure in figures.tolist()]

    def _require_finite(self, what: str, value: float, examples: np.ndarray) -> None:
        if not math.isfinite(value):
            rows = ", ".join(self.file.row_ids(examples.tolist()))
            raise UserError(
                f"training diverged at step {self.done + 1} of {self.plan.steps} ({what} {value}); lower training learning_rate, "
                f"or look at the rows of the step: {rows}"
            )


def _finish(config: TrainLoopConfig, trainer: _Trainer, examples: int) -> TrainResult:
    trainer.pick.positions = None
    totals, tokenizer = trainer.totals, AutoTokenizer.from_pretrained(config.base, local_files_only=True)
    tail = totals.losses[-max(1, len(totals.losses) // 10) :]
    loss = sum(tail) / len(tail)
    settings: dict[str, Any] = config.training.model_dump(mode="json")
    card = model_card(config.base, settings, examples=examples, learned=totals.learned, steps=trainer.done, loss=loss)
    export_model(trainer.engine, tokenizer, Path(config.output_dir) / MODEL_FOLDER, card)
    return TrainResult(
        steps=trainer.done,
        examples=examples,
        skipped_too_long=0,
        tokens=totals.tokens,
        learned_tokens=totals.learned,
        final_loss=loss,
        seconds=totals.seconds,
        tokens_per_s=totals.tokens / totals.seconds,
        packing_efficiency=totals.tokens / totals.padded,
    )
