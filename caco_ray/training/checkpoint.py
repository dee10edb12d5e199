"""Where checkpoints go. The loop asks a `Checkpoints` to keep what all ranks write, and for the newest when it starts.

A DeepSpeed checkpoint is one folder with a file per rank; it can be continued at the world size that wrote it.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist

from caco_ray.training.types import Totals

KEEP = 2


class Checkpoints(Protocol):
    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Keep what `write(folder)` writes. Called on every rank at the same step."""

    def latest(self) -> Any:
        """Context manager that gives the newest complete checkpoint as a folder, or None."""


class NoCheckpoints:
    """For runs that are cheaper to repeat than to save."""

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        return None

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        yield None


class FolderCheckpoints:
    """`step-N` folders on a disk that all ranks see; a folder gets its name when every rank has written, the `KEEP` newest stay."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        partial, done = self._folder / f"partial-{step:08d}", self._folder / f"step-{step:08d}"
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        dist.barrier()
        write(partial)
        dist.barrier()
        if dist.get_rank() == 0:
            shutil.rmtree(done, ignore_errors=True)
            os.rename(partial, done)
            for old in sorted(self._folder.glob("step-*"))[:-KEEP]:
                shutil.rmtree(old)
        dist.barrier()

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        yield max(self._folder.glob("step-*"), default=None)


def save_state(engine: Any, folder: Path, step: int, totals: Totals) -> None:
    """Write this rank's share of the training state. A collective."""
    engine.save_checkpoint(str(folder), tag="state", client_state={"caco_step": step, "caco_totals": asdict(totals)})


def load_state(engine: Any, folder: Path) -> tuple[int, Totals]:
    """Restore what `save_state` wrote; returns the number of finished steps and the running totals. A collective."""
    _, client_state = engine.load_checkpoint(str(folder), tag="state")
    return int(client_state["caco_step"]), Totals(**client_state["caco_totals"])
