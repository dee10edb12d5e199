"""One rank of a test: trains the configs of a JSON file in turn, as a worker of Ray Train or torchrun would."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from caco_ray.config import TrainingConfig
from caco_ray.training.checkpoint import FolderCheckpoints
from caco_ray.training.loop import train_loop
from caco_ray.training.types import TrainLoopConfig


class DyingCheckpoints(FolderCheckpoints):
    """The last rank is killed in the middle of writing the checkpoint of one step."""

    die_at_step = 0

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        def write_and_die(folder: Path) -> None:
            write(folder)
            if step == self.die_at_step and os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
                os.kill(os.getpid(), signal.SIGKILL)

        super().save(step, write_and_die)


def main(jobs: str, options: str) -> None:
    for job in json.loads(Path(jobs).read_text()):
        config = TrainLoopConfig(**{**job, "training": TrainingConfig(**job["training"])})
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        checkpoints = DyingCheckpoints(Path(config.output_dir) / "checkpoints")
        checkpoints.die_at_step = json.loads(options).get("die_at_step", 0)
        train_loop(config, checkpoints)


if __name__ == "__main__":
    main(*sys.argv[1:])
