"""Fine-tune into an object store: the nodes share no disk, so each fetches what it needs and rank 0 sends what it makes.

The same loop, on Ray Train, with a folder of each node as its output. Checkpoints go to the store as they are made; the curve goes with
each of them and every minute, so that a training that goes on elsewhere keeps it.
"""

import contextlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
from ray.train import RunConfig
from ray.train.collective import barrier

from caco_ray.config import TrainingConfig
from caco_ray.errors import StorageError
from caco_ray.store import Folder
from caco_ray.store.transfer import fetch_folder, send_folder
from caco_ray.training.base import check_base
from caco_ray.training.guard import FILE_NAME as DIVERGED_FILE
from caco_ray.training.prepare import Prepared, check_disk, prepare
from caco_ray.training.progress import BOARD_FOLDER, FILE_NAME, beside
from caco_ray.training.ray_checkpoints import RayCheckpoints
from caco_ray.training.trainer import Gauges, fit, run_worker
from caco_ray.training.types import MODEL_FOLDER, WORK_FOLDER, Step, TrainingData, TrainLoopConfig, TrainResult
from caco_ray.training.work import begin, finish, to_json, write_outcome

_TOKENS, _STEP = "tokens.arrow", "step.json"
_WHOLE = "whole"  # names the slot
_STEP_EVERY_S, _CURVE_EVERY_S = 5.0, 60.0


def train_remote(
    training: TrainingConfig,
    *,
    base: str,
    data: Sequence[TrainingData],
    output: Folder,
    on_step: Callable[[Step], None] | None = None,
) -> TrainResult:
    """As `trainer.train_model`, with `output` in an object store. `base` is an URL, a hub id in each node's cache, or a folder that each
    node has. `on_step` hears of a step every few seconds.

    Raises:
        ModelError: `base` is not a model folder, or cannot be trained as `training` asks.
        RunDirError: there are checkpoints of other settings.
        StorageError: the store fails, or a node's disk is too small for the export and the checkpoints.
        UserError: no usable examples, or the training diverged.
    """
    with tempfile.TemporaryDirectory(prefix="caco-train-") as place:
        prepared = begin(output, partial(prepare, training, base, data, Path(place), shared_disk=False))
        if isinstance(prepared, TrainResult):
            return prepared
        _fit_on_nodes(prepared, base, output, on_step)
        return finish(output, prepared)


def _fit_on_nodes(prepared: Prepared, base: str, output: Folder, on_step: Callable[[Step], None] | None) -> None:
    work = output / WORK_FOLDER
    work.put(_TOKENS, Path(prepared.config.tokens))
    storage, path = work.for_arrow()
    run = RunConfig(name=prepared.name, storage_path=path, storage_filesystem=storage)
    given = {"config": replace(prepared.config, base=base), "name": prepared.name, "output": output}
    with contextlib.nullcontext() if on_step is None else beside(partial(_follow, work, on_step)):
        fit(_train_worker, given, prepared.config, run, work / prepared.name)


def _train_worker(given: dict[str, Any]) -> None:
    config: TrainLoopConfig = given["config"]
    output: Folder = given["output"]
    place = Path(tempfile.gettempdir()) / f"caco-{given['name']}"  # one of each node; a killed attempt may have left its own
    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    best = _BestModel(place / MODEL_FOLDER, output / WORK_FOLDER / f"{given['name']}-best") if first else None
    if context.get_local_rank() == 0:
        _furnish(config, output, place, best)
    barrier()
    here = replace(config, base=str(check_base(config.base)), tokens=str(place / _TOKENS), output_dir=str(place))
    sender = _Sender(place, output)
    result = run_worker(here, _SendingCheckpoints(place, sender, best), sender.on_step)
    if first:
        sender.send_curve()
        _send_end(place, output, result)
        write_outcome(output / WORK_FOLDER / given["name"], result)
    barrier()
    if context.get_local_rank() == 0:
        shutil.rmtree(place)


def _send_end(place: Path, output: Folder, result: dict[str, Any]) -> None:
    """The model; or where the training stopped, the rows of the step that it stopped at."""
    if "user_error" not in result:
        output.delete(MODEL_FOLDER)  # part of one that a killed attempt was sending
        send_folder(place / MODEL_FOLDER, output / MODEL_FOLDER)
    elif (place / DIVERGED_FILE).exists():
        output.put(DIVERGED_FILE, place / DIVERGED_FILE)


def _furnish(config: TrainLoopConfig, output: Folder, place: Path, best: "_BestModel | None") -> None:
    """Put what the ranks of this node need into `place`; on that of rank 0 with the `best` model so far and the curve."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    check_disk(config.training, check_base(config.base), place, checkpoints=1)  # the one that is being sent
    (output / WORK_FOLDER).get(_TOKENS, place / _TOKENS)
    if best is not None:
        best.fetch()
        with contextlib.suppress(FileNotFoundError):
            output.get(FILE_NAME, place / FILE_NAME)


class _BestModel:
    """The best model so far of a training that stops early, in the store beside its checkpoints: `kept` has two slots, taken in turn, and
    a file, written last, that names the one whose model is whole."""

    def __init__(self, local: Path, kept: Folder) -> None:
        self._local, self._kept = local, kept
        self._slot, self._sent = "", 0

    def fetch(self) -> None:
        try:
            self._slot = self._kept.read(_WHOLE).decode()
        except FileNotFoundError:
            return
        fetch_folder(self._kept / self._slot, self._local.parent).rename(self._local)
        self._sent = self._version()

    def send(self) -> None:
        """If there is a new one."""
        if not self._local.exists() or self._version() == self._sent:
            return
        slot = "b" if self._slot == "a" else "a"
        self._kept.delete(slot)
        send_folder(self._local, self._kept / slot)
        self._kept.write(_WHOLE, slot.encode())
        self._slot, self._sent = slot, self._version()

    def _version(self) -> int:
        """Exports are folders made anew."""
        return self._local.stat().st_mtime_ns


class _Sender:
    """Rank 0's news, sent while it trains: the newest step for the driver's bar, and the curve for whoever goes on after a kill."""

    def __init__(self, place: Path, output: Folder) -> None:
        self._place, self._output = place, output
        self._gauges = Gauges(output.url.rsplit("/", 1)[-1])
        self._step_at = self._curve_at = time.monotonic()

    def on_step(self, step: Step) -> None:
        """Figures for people: where the store refuses them, newer ones come."""
        self._gauges.set(step)
        now = time.monotonic()
        with contextlib.suppress(StorageError):
            if now - self._step_at >= _STEP_EVERY_S or step.step == step.steps:
                self._step_at = now
                (self._output / WORK_FOLDER).write(_STEP, to_json(asdict(step)))
            if now - self._curve_at >= _CURVE_EVERY_S:
                self.send_curve()

    def send_curve(self) -> None:
        self._curve_at = time.monotonic()
        if (self._place / FILE_NAME).exists():
            self._output.put(FILE_NAME, self._place / FILE_NAME)
            send_folder(self._place / BOARD_FOLDER, self._output / BOARD_FOLDER)


class _SendingCheckpoints(RayCheckpoints):
    """The curve, and the best model so far, are in the store before the checkpoint that continues them. Rank 0 has `best`."""

    def __init__(self, place: Path, sender: _Sender, best: _BestModel | None) -> None:
        super().__init__(place)
        self._sender, self._best = sender, best

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        if self._best is not None:
            self._sender.send_curve()
            self._best.send()
        super().save(step, write)


def _follow(work: Folder, on_step: Callable[[Step], None], stop: threading.Event) -> None:
    """Call `on_step` with the newest step that rank 0 has sent."""
    shown = 0
    while not stop.wait(_STEP_EVERY_S):
        with contextlib.suppress(FileNotFoundError, StorageError):  # figures for people: another one comes
            step = Step(**json.loads(work.read(_STEP)))
            if step.step > shown:
                shown = step.step
                on_step(step)
