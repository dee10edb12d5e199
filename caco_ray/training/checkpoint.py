"""Where checkpoints go. The loop asks a `Checkpoints` to keep what all ranks write, and for the newest when it starts.

A DeepSpeed checkpoint is one folder with a file per rank, which only as many ranks can load; for another number of ranks it is first
turned into DeepSpeed's universal form (https://www.deepspeed.ai/tutorials/universal-checkpointing/), on rank 0.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch.distributed as dist

from caco_ray.errors import CacoError, StorageError
from caco_ray.training.types import Totals

KEEP = 2
_TAG = "state"
_UNIVERSAL_TAG = "state_universal"
_CONVERTERS = 4  # processes; each holds the share of one rank
WORLD_FILE = "ranks.txt"  # how many wrote the checkpoint


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
    """`step-N` folders on a disk that all ranks see; a folder gets its name when every rank has written, the `KEEP` newest stay.

    Limit: one that was damaged since is named and stops the training; only Ray Train's (ray_checkpoints.py) are left out by themselves.
    """

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


@dataclass(frozen=True)
class Loadable:
    """A checkpoint that this number of ranks can load; built into the engine, then given to `load_state`."""

    folder: Path
    tag: str = _TAG
    universal: bool = False


def save_state(engine: Any, folder: Path, step: int, totals: Totals) -> None:
    """Write this rank's share of the training state. A collective."""
    client_state = {"caco_step": step, "caco_totals": asdict(totals)}
    engine.save_checkpoint(str(folder), tag=_TAG, client_state=client_state)
    if dist.get_rank() == 0:
        (folder / WORLD_FILE).write_text(str(dist.get_world_size()))


@contextmanager
def loadable(folder: Path | None, scratch: Path, shared_disk: bool = True) -> Iterator[Loadable | None]:
    """`folder` as it is, or converted in `scratch` (seen by all ranks, or by those of a node) where another number of ranks wrote it.
    A collective."""
    if folder is None:
        yield None
        return
    sharded = any((folder / _TAG).glob("*optim_states.pt"))  # without ZeRO every rank has everything
    if not sharded or int((folder / WORLD_FILE).read_text()) == dist.get_world_size():
        yield Loadable(folder)
        return
    converted = scratch / "universal"
    converts = (dist.get_rank() if shared_disk else int(os.environ["LOCAL_RANK"])) == 0
    if converts:
        _convert(folder, converted)
    dist.barrier()
    yield Loadable(converted, _UNIVERSAL_TAG, universal=True)
    dist.barrier()
    if converts:
        shutil.rmtree(converted)


def _convert(folder: Path, target: Path) -> None:
    """In a process of its own: DeepSpeed offers a command, prints what it does, and holds what it reads.

    Raises:
        StorageError: too little room.
        CacoError: the command failed.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    states = sum(path.stat().st_size for path in (folder / _TAG).glob("*optim_states.pt"))
    needed_mb, free_mb = 2 * states >> 20, shutil.disk_usage(target).free >> 20  # parts of parameters, and what is merged from them
    if free_mb < needed_mb:
        raise StorageError(
            f"{target}: {free_mb:,} MB free, turning the checkpoint into one for another number of workers needs {needed_mb:,} MB: "
            "make room, or go on with the workers that wrote it"
        )
    workers = str(min(_CONVERTERS, len(os.sched_getaffinity(0))))
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(folder / _TAG), "--output_folder", str(target / _UNIVERSAL_TAG)]
    command += ["--num_extract_workers", workers, "--num_merge_workers", workers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()  # nothing where the kernel ended it for want of memory
        reason = said[-1] if said else f"exit code {done.returncode}"
        raise CacoError(f"{folder}: cannot be converted for another number of workers ({reason})")


def load_state(engine: Any, checkpoint: Loadable) -> tuple[int, Totals]:
    """Restore what `save_state` wrote; returns the number of finished steps and the running totals. A collective.

    Raises:
        CacoError: the checkpoint is damaged, or of another model.
    """
    decays = [group["weight_decay"] for group in engine.optimizer.param_groups]
    try:
        _, client_state = engine.load_checkpoint(str(checkpoint.folder), tag=checkpoint.tag)
        if checkpoint.universal:
            _mend_adamw(engine.optimizer, decays)
        return int(client_state["caco_step"]), Totals(**client_state["caco_totals"])
    except (OSError, RuntimeError, EOFError, UnpicklingError, KeyError, TypeError, AssertionError) as error:
        said = " ".join(line.strip() for line in str(error).strip().splitlines()[:2]) or type(error).__name__
        raise CacoError(
            f"{checkpoint.folder}: cannot be loaded into this model ({said}); delete it, and training goes on from the one before"
        ) from error


def _mend_adamw(optimizer: Any, decays: list[float]) -> None:
    """What a universal checkpoint of DeepSpeed 0.19 restores wrongly: at ZeRO 3 all groups get the weight decay of the first, and all
    states one `step` tensor, to which each of them adds (zero/stage3.py); at every stage that tensor is on the CPU, where fused AdamW of
    a GPU does not take it."""
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for parameter, state in optimizer.optimizer.state.items():
        if "step" in state:  # a rank may hold no part of a group
            state["step"] = state["step"].clone().to(parameter.device)
