"""One worker of a training, start to end. The same function under Ray Train, under torchrun, and alone.

The loss of a step is the mean over its learned tokens on all ranks, whatever the number of ranks and forward passes, so the loss
curve does not depend on how the work is cut.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from caco_ray.errors import CacoError
from caco_ray.training.checkpoint import Checkpoints, loadable, save_state
from caco_ray.training.data import TokenFile, mixture
from caco_ray.training.engine import prepare_process
from caco_ray.training.export import export_model
from caco_ray.training.plan import StepPlan
from caco_ray.training.progress import ProgressWriter
from caco_ray.training.stepping import Stepper
from caco_ray.training.types import MODEL_FOLDER, WORK_FOLDER, Step, TrainLoopConfig, TrainResult


def train_loop(config: TrainLoopConfig, checkpoints: Checkpoints, on_step: Callable[[Step], None] | None = None) -> TrainResult:
    """Train, export to `<output_dir>/model`, and return the figures (the same on every rank). `on_step` is called on rank 0.

    Raises:
        UserError: the loss or the gradient is not a number, or the loss jumps; names the rows of the step.
        ModelError: the model cannot be trained as the config asks, or its files are gone at the export.
        CacoError: a checkpoint cannot be loaded, or the best model so far is gone.
    """
    training, output = config.training, Path(config.output_dir)
    prepare_process(config.device, training.cpus_per_worker)
    torch.manual_seed(training.seed)
    file = TokenFile(config.tokens)
    plan, heldout = StepPlan(file.lengths, training, mixture(file, config.weights)), np.flatnonzero(file.heldout)
    with checkpoints.latest() as folder, loadable(folder, output / WORK_FOLDER, config.shared_disk) as checkpoint:
        stepper = Stepper(config, file, plan, checkpoint)
    writer = ProgressWriter(output, stepper.done) if dist.get_rank() == 0 else None
    while stepper.done < plan.steps and not _is_over(config, stepper):
        step = stepper.step()
        if len(heldout) and (step.step == plan.steps or step.step % (training.evaluate_every_steps or plan.steps) == 0):
            step = replace(step, heldout_loss=_evaluate(config, stepper, heldout))
        if writer is not None:
            writer.write(step)
            if on_step is not None:
                on_step(step)
        if training.checkpoint_every_steps and stepper.done % training.checkpoint_every_steps == 0 and stepper.done < plan.steps:
            checkpoints.save(stepper.done, lambda target: save_state(stepper.engine, target, stepper.done, stepper.totals))
    if writer is not None:
        writer.close()
    if not training.early_stop_after:  # else the best model lies there
        _export(config, stepper)
    elif writer is not None and not (output / MODEL_FOLDER).exists():
        raise CacoError(f"{output}/{MODEL_FOLDER}: the best model is gone; delete {output} and train again")
    return _result(config, stepper)


def _evaluate(config: TrainLoopConfig, stepper: Stepper, heldout: np.ndarray) -> float:
    """Held-out loss; with early stopping a model that is better than all before is exported."""
    loss, totals = stepper.heldout_loss(heldout), stepper.totals
    totals.last_heldout = loss
    if totals.best_heldout is None or loss < totals.best_heldout:
        totals.best_heldout, totals.evaluations_since_best = loss, 0
        if config.training.early_stop_after:
            _export(config, stepper)
    else:
        totals.evaluations_since_best += 1
    return loss


def _is_over(config: TrainLoopConfig, stepper: Stepper) -> bool:
    patience = config.training.early_stop_after
    return patience is not None and stepper.totals.evaluations_since_best >= patience


def _export(config: TrainLoopConfig, stepper: Stepper) -> None:
    result = _result(config, stepper)
    metrics: dict[str, Any] = {name: getattr(result, name) for name in ("final_loss", "heldout_loss", "tokens", "learned_tokens")}
    export_model(stepper.engine, config, result.examples, result.steps, metrics)


def _result(config: TrainLoopConfig, stepper: Stepper) -> TrainResult:
    totals = stepper.totals
    tail = totals.losses[-max(1, len(totals.losses) // 10) :]
    return TrainResult(
        steps=stepper.done,
        examples=int((~stepper.file.heldout).sum()),
        skipped={},
        replaced_template=False,
        tokens=totals.tokens,
        learned_tokens=totals.learned,
        final_loss=sum(tail) / len(tail),
        seconds=totals.seconds,
        tokens_per_s=totals.tokens / totals.seconds,
        packing_efficiency=totals.tokens / totals.slots,
        heldout_loss=totals.best_heldout if config.training.early_stop_after else totals.last_heldout,
        mfu=stepper.mfu,
        stopped_early=stepper.done < stepper.plan.steps,
    )
