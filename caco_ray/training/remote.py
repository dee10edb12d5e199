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
from caco_ray.errors import StorageError, UserError
from caco_ray.store import Folder
from caco_ray.store.transfer import fetch_folder, send_folder
from caco_ray.training.base import check_base
from caco_ray.training.prepare import RESULT_FILE, SKIPPED_FILE, WORK_FOLDER, Prepared, check_disk, prepare
from caco_ray.training.progress import BOARD_FOLDER, FILE_NAME, beside
from caco_ray.training.trainer import Gauges, RayCheckpoints, fit, run_worker
from caco_ray.training.types import Step, TrainingData, TrainLoopConfig, TrainResult

_TOKENS, _STEP = "tokens.arrow", "step.json"
_MODEL = "model"
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
        StorageError: the store fails, or a node's disk is too small for the export and the checkpoints.
        UserError: no usable examples, or the training diverged.
    """
    with tempfile.TemporaryDirectory(prefix="caco-train-") as place:
        prepared = prepare(training, base, data, Path(place), shared_disk=False)
        work = output / WORK_FOLDER
        work.put(_TOKENS, Path(prepared.config.tokens))
        storage, path = work.for_arrow()
        run = RunConfig(name=prepared.name, storage_path=path, storage_filesystem=storage)
        given = {"config": replace(prepared.config, base=base), "name": prepared.name, "output": output}
        with contextlib.nullcontext() if on_step is None else beside(partial(_follow, work, on_step)):
            fit(_train_worker, given, prepared.config, run)
        return _finish(prepared, output)


def _finish(prepared: Prepared, output: Folder) -> TrainResult:
    body = json.loads(output.read(RESULT_FILE))
    if "user_error" in body:
        output.delete(RESULT_FILE)
        raise UserError(body["user_error"])
    result = prepared.counted(TrainResult(**body))
    output.put(SKIPPED_FILE, prepared.work / SKIPPED_FILE)
    output.write(RESULT_FILE, _json(asdict(result)))
    output.delete(WORK_FOLDER)
    return result


def _train_worker(given: dict[str, Any]) -> None:
    config: TrainLoopConfig = given["config"]
    output: Folder = given["output"]
    place = Path(tempfile.gettempdir()) / f"caco-{given['name']}"  # one of each node; a killed attempt may have left its own
    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    if context.get_local_rank() == 0:
        _furnish(config, output, place, with_curve=first)
    barrier()
    here = replace(config, base=str(check_base(config.base)), tokens=str(place / _TOKENS), output_dir=str(place))
    sender = _Sender(place, output)
    result = run_worker(here, _SendingCheckpoints(sender if first else None), sender.on_step)
    if first:
        sender.send_curve()
        sender.send_model()
        output.write(RESULT_FILE, _json(result))
    barrier()
    if context.get_local_rank() == 0:
        shutil.rmtree(place)


def _furnish(config: TrainLoopConfig, output: Folder, place: Path, with_curve: bool) -> None:
    """Put what the ranks of this node need into `place`."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    check_disk(config.training, check_base(config.base), place, checkpoints=1)  # the one that is being sent
    (output / WORK_FOLDER).get(_TOKENS, place / _TOKENS)
    if not with_curve:
        return
    with contextlib.suppress(FileNotFoundError):
        output.get(FILE_NAME, place / FILE_NAME)
    with contextlib.suppress(FileNotFoundError):  # the best one so far, where training stops early
        fetch_folder(output / _MODEL, place).rename(place / _MODEL)


class _Sender:
    """Rank 0's news, sent while it trains: the newest step for the driver's bar, and the curve for whoever goes on after a kill."""

    def __init__(self, place: Path, output: Folder) -> None:
        self._place, self._output = place, output
        self._gauges = Gauges(output.url.rsplit("/", 1)[-1])
        self._step_at = self._curve_at = time.monotonic()

    def on_step(self, step: Step) -> None:
        self._gauges.set(step)
        now = time.monotonic()
        if now - self._step_at >= _STEP_EVERY_S or step.step == step.steps:
            self._step_at = now
            (self._output / WORK_FOLDER).write(_STEP, _json(asdict(step)))
        if now - self._curve_at >= _CURVE_EVERY_S:
            self.send_curve()

    def send_curve(self) -> None:
        self._curve_at = time.monotonic()
        if (self._place / FILE_NAME).exists():
            self._output.put(FILE_NAME, self._place / FILE_NAME)
            send_folder(self._place / BOARD_FOLDER, self._output / BOARD_FOLDER)


    def send_model(self) -> None:
        if (self._place / _MODEL).exists():
            self._output.delete(_MODEL)
            send_folder(self._place / _MODEL, self._output / _MODEL)


class _SendingCheckpoints(RayCheckpoints):
    """The curve, and the best model so far, are in the store before the checkpoint that continues them."""

    def __init__(self, sender: _Sender | None) -> None:
        self._sender = sender

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        if self._sender is not None:
            self._sender.send_curve()
            self._sender.send_model()
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


def _json(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, indent=1) + "\n").encode()
