"""Checkpoints in Ray Train's storage: the files of all ranks are merged into one folder there.

Ray Train copies the files one by one and notes its checkpoints in a file that it writes in place. A kill leaves parts of either; so each
rank adds a list of what it wrote, and before a start what is not whole goes (`mend_note`).
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import ray.train
from pyarrow.fs import FileSelector
from ray.train import Checkpoint

from caco_ray.errors import CacoError
from caco_ray.store import Folder
from caco_ray.store.faults import storage_errors
from caco_ray.training.checkpoint import KEEP, WORLD_FILE

_NOTE = "checkpoint_manager_snapshot.json"


class RayCheckpoints:
    """`stage` is a folder on a disk of this node with room for a checkpoint: it is written there, and copied to the storage."""

    def __init__(self, stage: Path) -> None:
        self._stage = stage

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        rank = ray.train.get_context().get_world_rank()
        folder = self._stage / f"checkpoint-of-rank-{rank}"
        shutil.rmtree(folder, ignore_errors=True)  # a killed attempt's
        folder.mkdir(parents=True)
        write(folder)
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        (folder / _list_name(rank)).write_text(json.dumps(sizes))
        ray.train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder))
        shutil.rmtree(folder)

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            try:
                yield Path(folder)
            except CacoError as error:  # names the folder: of an object store, it is a copy
                raise type(error)(str(error).replace(folder, checkpoint.path)) from error


def mend_note(run: Folder) -> None:
    """Before a start: let Ray Train's note name the whole checkpoints alone, and delete the others.

    A note that names a missing folder, or is cut off, would stop every restart; then the whole folders are noted anew. Without a note no
    checkpoint was ever whole.
    """
    folders = [name for name in run.names() if name.startswith("checkpoint_") and name != _NOTE]
    noted, sizes = _noted(run), _sizes(run)
    candidates = folders if noted is None else [name for name in noted if name in folders]  # names are times: sorted by age
    whole = [name for name in candidates if _is_whole(run / name, name, sizes)][-KEEP:]
    for name in set(folders) - set(whole):
        run.delete(name)
    if not whole:
        run.delete(_NOTE)
    elif whole != noted:
        run.write(_NOTE, json.dumps(_note(whole)).encode())


def _noted(run: Folder) -> list[str] | None:
    """Names of the noted checkpoints, oldest first; None where the note cannot be read."""
    try:
        return [str(entry["checkpoint_dir_name"]) for entry in json.loads(run.read(_NOTE))["checkpoint_results"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        return None


def _note(names: list[str]) -> dict[str, Any]:
    """As Ray Train's checkpoint manager reads it (ray/train/v2/_internal/execution/checkpoint/checkpoint_manager.py)."""
    results = [{"checkpoint_dir_name": name, "metrics": {}} for name in names]
    empty = ("pending_training_results", "pending_validation_specs")
    settled = (f"{kind}_checkpoint_dir_names" for kind in ("validated", "timed_out_validation", "failed_validation"))
    return {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": list(range(len(names))),
        "latest_checkpoint_result": results[-1],
        "current_report_index": len(names),
        **{name: [] for name in (*empty, *settled)},
    }


def _is_whole(checkpoint: Folder, name: str, sizes: dict[str, int]) -> bool:
    try:
        ranks = int(checkpoint.read(WORLD_FILE))
        lists = [json.loads(body) for body in checkpoint.read_many([_list_name(rank) for rank in range(ranks)])]
    except (FileNotFoundError, ValueError):  # not copied yet, or not to its end
        return False
    return all(sizes.get(f"{name}/{file}") == size for files in lists for file, size in files.items())


def _sizes(run: Folder) -> dict[str, int]:
    """Bytes of all files, by name relative to `run`."""
    files, root = run.for_arrow()
    with storage_errors(run.url):
        found = files.get_file_info(FileSelector(root, recursive=True, allow_not_found=True))
    return {info.path.removeprefix(root).lstrip("/"): info.size for info in found if info.is_file}


def _list_name(rank: int) -> str:
    return f"files-of-rank-{rank}.json"
