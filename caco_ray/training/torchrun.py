"""Fine-tune a model under torchrun, without Ray: the same loop, with checkpoints in a folder.

Every rank calls `train_here`; `output_dir` is on a disk that all of them see. A killed training goes on from its last checkpoint when
it is started again with the same arguments, on the same or on another number of ranks.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch.distributed as dist

from caco_ray.config import TrainingConfig, validate
from caco_ray.store import Folder
from caco_ray.training.checkpoint import FolderCheckpoints, NoCheckpoints
from caco_ray.training.engine import prepare_process
from caco_ray.training.first import from_first
from caco_ray.training.loop import train_loop
from caco_ray.training.prepare import prepare
from caco_ray.training.types import Step, TrainingData, TrainResult
from caco_ray.training.work import begin, finish, write_outcome


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
    output = Folder(str(output_dir.absolute()))
    prepared = from_first(lambda: begin(output, partial(prepare, training, base, data, output_dir)))
    if isinstance(prepared, TrainResult):
        return prepared
    folder = prepared.work / prepared.name
    result = train_loop(prepared.config, FolderCheckpoints(folder) if training.checkpoint_every_steps else NoCheckpoints(), on_step)
    if dist.get_rank() == 0:
        write_outcome(Folder(str(folder)), asdict(result))
        result = finish(output, prepared)
    dist.barrier()
    return result
