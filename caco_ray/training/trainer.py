"""Fine-tune a model on Ray Train. The only module here that imports `ray.train`; Ray must be running.

Everything that can be wrong with the input is found before workers start. A killed training goes on from its last checkpoint when it
is called again with the same arguments; without `checkpoint_every_steps` it starts over.
"""

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from caco_ray.config import TrainingConfig
from caco_ray.errors import CacoError, UserError
from caco_ray.metrics import TRAINING
from caco_ray.store import Folder
from caco_ray.telemetry import exported
from caco_ray.training.checkpoint import KEEP, NoCheckpoints
from caco_ray.training.prepare import prepare, write_result
from caco_ray.training.progress import following
from caco_ray.training.types import Step, TrainingData, TrainLoopConfig, TrainResult

_NOTE = "checkpoint_manager_snapshot.json"
_MAX_FAILURES = 3  # restarts from the last checkpoint when a worker or node dies; there are none without checkpoints
_MAX_STARTS = 60  # of a minute each while nodes are coming; Ray Train alone would try for ever, also where workers cannot live


def train_model(
    training: TrainingConfig,
    *,
    base: str,
    data: Sequence[TrainingData],
    output_dir: Path,
    storage_dir: str | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> TrainResult:
    """Fine-tune `base` on the mixture `data` and leave the model in `output_dir/model`.

    `output_dir` is on a disk that all workers see; it also gets `progress.jsonl` (the loss curve), `tensorboard/`, `skipped.jsonl` and
    `result.json`. `storage_dir` (a path or URL for `pyarrow.fs`) holds checkpoints while training runs; default `output_dir/work`.
    `on_step` is called from a thread of this process.

    Raises:
        ModelError: `base` is not a model folder, or cannot be trained as `training` asks.
        StorageError: the disk is too small for the export and the checkpoints.
        UserError: no usable examples, or the training diverged.
    """
    prepared = prepare(training, base, data, output_dir)
    storage = storage_dir or str(prepared.work.absolute())
    forget_torn_note(Folder(storage) / prepared.name)
    trainer = _ray_trainer(prepared.config, storage, prepared.name)
    with following(output_dir, on_step), _one_line_errors():
        _fit(trainer)
    return prepared.finish()


def _fit(trainer: TorchTrainer) -> None:
    """Run it in a thread of its own: on the main thread Ray takes Ctrl-C over, for good, and ends the process with exit code 0.

    After Ctrl-C nobody waits for the thread, which may never learn that Ray is gone; the workers end with Ray.
    """
    result: Future[object] = Future()
    threading.Thread(target=_settle, args=(result, trainer), daemon=True).start()
    result.result()


def _settle(result: "Future[object]", trainer: TorchTrainer) -> None:
    try:
        result.set_result(trainer.fit())
    except BaseException as error:  # raised again where the result is awaited
        result.set_exception(error)


def forget_torn_note(run: Folder) -> None:
    """Ray Train notes its checkpoints in a file that it writes in place: cut off by a kill, it would stop every restart.

    Without its folder the training starts over.
    """
    try:
        json.loads(run.read(_NOTE))
    except FileNotFoundError:
        return
    except ValueError:
        run.delete("")


def _ray_trainer(config: TrainLoopConfig, storage: str, name: str) -> TorchTrainer:
    training = config.training
    resources = {"CPU": float(training.cpus_per_worker)} | ({"GPU": 1.0} if training.gpus_per_worker else {})
    return TorchTrainer(
        _train_worker,
        train_loop_config={"config": config},
        scaling_config=ScalingConfig(num_workers=training.workers, use_gpu=bool(training.gpus_per_worker), resources_per_worker=resources),
        run_config=RunConfig(
            name=name,  # the same name in the same storage continues
            storage_path=storage,
            failure_config=FailureConfig(
                max_failures=_MAX_FAILURES if training.checkpoint_every_steps else 0, controller_failure_limit=_MAX_STARTS
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=KEEP),
            worker_runtime_env={"env_vars": {"DS_ACCELERATOR": config.device}},
        ),
        torch_config=TorchConfig(backend="nccl" if training.gpus_per_worker else "gloo"),
    )


def _train_worker(loop_config: dict[str, Any]) -> None:
    from caco_ray.training.loop import train_loop  # imports torch: the driver has no need of it

    config: TrainLoopConfig = loop_config["config"]
    checkpoints = RayCheckpoints() if config.training.checkpoint_every_steps else NoCheckpoints()
    try:
        result: dict[str, Any] = asdict(train_loop(config, checkpoints, Gauges(Path(config.output_dir).name).set))
    except UserError as error:  # the data's fault, not a worker's: no restart would help, so it is a result
        result = {"user_error": str(error)}
    if ray.train.get_context().get_world_rank() == 0:
        write_result(config, result)


class Gauges:
    """The newest step for Prometheus, at Ray's own metrics port."""

    def __init__(self, model: str) -> None:
        self._tags = {"model": model}
        self._gauges = {metric.name.removeprefix("caco_training_"): exported(metric) for metric in TRAINING}

    def set(self, step: Step) -> None:
        for name, gauge in self._gauges.items():
            value = getattr(step, name)
            if value is not None:
                gauge.set(value, self._tags)


class RayCheckpoints:
    """Checkpoints in Ray Train's storage: the files of all ranks are merged into one folder there."""

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="caco-checkpoint-") as folder:
            write(Path(folder))
            ray.train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder))

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Errors that a worker raised on purpose come out as they are, without Ray Train's wrapping."""
    try:
        yield
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, CacoError):
                raise failure from None
        raise CacoError(f"training failed on a worker: {_last_line(error)}") from error
    except TrainingFailedError as error:
        raise CacoError(f"training failed: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
