"""Fine-tune a model under torchrun, without Ray: the same loop, with checkpoints in a folder.

Every rank calls `train_here`; `output_dir` is on a disk that all of them see. A killed training goes on from its last checkpoint when
it is started again with the same arguments, on the same or on another number of ranks.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist

from caco_ray.config import TrainingConfig, validate
from caco_ray.errors import UserError
from caco_ray.training.checkpoint import FolderCheckpoints, NoCheckpoints
from caco_ray.training.engine import prepare_process
from caco_ray.training.loop import train_loop
from caco_ray.training.prepare import Prepared, prepare, write_result
from caco_ray.training.types import Step, TrainingData, TrainResult


def is_torchrun() -> bool:
    """Whether this process is a rank that a launcher started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def train_here(
    training: TrainingConfig, *, base: str, data: Sequence[TrainingData], output_dir: Path, on_step: Callable[[Step], None] | None = None
) -> TrainResult:
    """As `trainer.train_model`, on the ranks of this launch instead of `training.workers`; `on_step` is called on rank 0.

    Raises:
        ConfigError: the batch cannot be cut for so many ranks.
    """
    training = validate(TrainingConfig, {**training.model_dump(), "workers": int(os.environ["WORLD_SIZE"])})
    prepare_process("cuda" if training.gpus_per_worker else "cpu", training.cpus_per_worker)
    shared: list[Prepared | UserError | None] = [None]
    if dist.get_rank() == 0:
        try:
            shared[0] = prepare(training, base, data, output_dir)
        except UserError as error:  # every rank stops with it
            shared[0] = error
    dist.broadcast_object_list(shared, device="cpu" if dist.get_backend() == "gloo" else None)
    prepared = shared[0]
    if not isinstance(prepared, Prepared):
        raise prepared or UserError("nothing was prepared")
    folder = prepared.work / prepared.name
    result = train_loop(prepared.config, FolderCheckpoints(folder) if training.checkpoint_every_steps else NoCheckpoints(), on_step)
    if dist.get_rank() == 0:
        write_result(prepared.config, asdict(result))
        result = prepared.finish()
    dist.barrier()
    return result
