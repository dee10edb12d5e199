"""One rank of a test: trains configs in turn, as a worker of Ray Train or torchrun would."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from caco_ray.errors import ModelError
from caco_ray.training.checkpoint import FolderCheckpoints
from caco_ray.training.engine import prepare_process
from caco_ray.training.first import from_first
from caco_ray.training.loop import train_loop
from caco_ray.training.types import TrainLoopConfig


class DyingCheckpoints(FolderCheckpoints):
    """This rank is killed in the middle of writing the checkpoint of one step."""

    die_at_step = 0

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        def write_and_die(folder: Path) -> None:
            write(folder)
            if step == self.die_at_step:
                os.kill(os.getpid(), signal.SIGKILL)

        super().save(step, write_and_die)


HEARD = 7


def _take_place(rank: int, ranks: int, port: int) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in place.items()} | {"HF_HUB_OFFLINE": "1"}


def hear_of_failure(rank: int, ranks: int, port: int) -> None:
    """Exit with `HEARD` where the error of rank 0 came."""

    def fail() -> None:
        raise ModelError("no tokenizer any more")

    _take_place(rank, ranks, port)
    prepare_process("cpu", 1)
    try:
        from_first(fail)
    except ModelError:
        sys.exit(HEARD)


def run_rank(configs: list[TrainLoopConfig], rank: int, ranks: int, port: int, log: Path, die_at_step: int) -> None:
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    _take_place(rank, ranks, port)
    for config in configs:
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        checkpoints = DyingCheckpoints(Path(config.output_dir) / "checkpoints")
        checkpoints.die_at_step = die_at_step if config is configs[-1] and rank == ranks - 1 else 0
        train_loop(config, checkpoints)
