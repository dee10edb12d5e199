"""Fine-tune a model on Ray Train; Ray must be running.

Everything that can be wrong with the input is found before workers start. A killed training goes on from its last checkpoint when it
is called again with the same arguments; without `checkpoint_every_steps` it starts over.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
from ray.exceptions import RayTaskError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from caco_ray.config import TrainingConfig
from caco_ray.errors import CacoError, ClusterError, StorageError, UserError
from caco_ray.metrics import TRAINING
from caco_ray.runtime.telemetry import exported
from caco_ray.store import Folder
from caco_ray.training.checkpoint import KEEP, Checkpoints, NoCheckpoints
from caco_ray.training.prepare import prepare
from caco_ray.training.progress import following
from caco_ray.training.ray_checkpoints import RayCheckpoints, mend_note
from caco_ray.training.types import PATIENCE_S, WORK_FOLDER, Step, TrainingData, TrainLoopConfig, TrainResult
from caco_ray.training.work import begin, finish, write_outcome

_MAX_FAILURES = 3  # restarts from the last checkpoint when a worker or node dies; there are none without checkpoints
_MAX_STARTS = 60  # of a minute each while nodes are coming; Ray Train alone would try for ever, also where workers cannot live


def train_model(
    training: TrainingConfig,
    *,
    base: str,
    data: Sequence[TrainingData],
    output_dir: Path,
    on_step: Callable[[Step], None] | None = None,
) -> TrainResult:
    """Fine-tune `base` on the mixture `data` and leave the model in `output_dir/model`.

    `output_dir` is on a disk that all workers see; it also gets `progress.jsonl` (the loss curve), `tensorboard/`, `skipped.jsonl` and
    `result.json`; checkpoints are in `work/` while it trains. `on_step` is called from a thread of this process. Where a training has
    been finished in `output_dir`, its result is returned: what it was made of is for the caller to compare.

    Raises:
        ModelError: `base` is not a model folder, or cannot be trained as `training` asks.
        RunDirError: there are checkpoints of other settings.
        StorageError: the disk is too small for the export and the checkpoints.
        UserError: no usable examples, or the training diverged.
    """
    output = Folder(str(output_dir.absolute()))
    prepared = begin(output, partial(prepare, training, base, data, output_dir))
    if isinstance(prepared, TrainResult):
        return prepared
    place = output / WORK_FOLDER / prepared.name
    run = RunConfig(name=prepared.name, storage_path=str(place.local_path.parent))
    with following(output_dir, on_step):
        fit(_train_worker, {"config": prepared.config, "place": place}, prepared.config, run, place)
    return finish(output, prepared)


def fit(worker: Callable[[dict[str, Any]], None], given: dict[str, Any], config: TrainLoopConfig, run: RunConfig, place: Folder) -> None:
    """Call `worker(given)` on each rank. `run` names the training and its storage, which together are `place`: the same ones continue.

    Ray Train's own driver is a task of this node: in this process it would take Ctrl-C over, for good, and end with exit code 0.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    task = ray.remote(num_cpus=0, max_retries=_MAX_FAILURES, scheduling_strategy=here)(_fit)
    try:
        ray.get(task.remote(worker, given, config, run, place))
    except RayTaskError as error:
        raise error.cause from None


def _fit(worker: Callable[[dict[str, Any]], None], given: dict[str, Any], config: TrainLoopConfig, run: RunConfig, place: Folder) -> None:
    """Raises CacoError, in one line."""
    mend_note(place)  # here: Ray calls this anew where a kill of this process cut the note off
    with _one_line_errors():
        _ray_trainer(worker, given, config, run).fit()


def _ray_trainer(worker: Callable[[dict[str, Any]], None], given: dict[str, Any], config: TrainLoopConfig, run: RunConfig) -> TorchTrainer:
    training = config.training
    resources = {"CPU": float(training.cpus_per_worker)} | ({"GPU": 1.0} if training.gpus_per_worker else {})
    run.failure_config = FailureConfig(
        max_failures=_MAX_FAILURES if training.checkpoint_every_steps else 0, controller_failure_limit=_MAX_STARTS
    )
    run.checkpoint_config = CheckpointConfig(num_to_keep=KEEP)
    run.worker_runtime_env = {"env_vars": {"DS_ACCELERATOR": config.device}}
    return TorchTrainer(
        worker,
        train_loop_config=given,
        scaling_config=ScalingConfig(num_workers=training.workers, use_gpu=bool(training.gpus_per_worker), resources_per_worker=resources),
        run_config=run,
        torch_config=TorchConfig(backend="nccl" if training.gpus_per_worker else "gloo", timeout_s=PATIENCE_S),
    )


def _train_worker(given: dict[str, Any]) -> None:
    config: TrainLoopConfig = given["config"]
    result = run_worker(config, RayCheckpoints(Path(config.output_dir) / WORK_FOLDER), Gauges(Path(config.output_dir).name).set)
    if ray.train.get_context().get_world_rank() == 0:
        write_outcome(given["place"], result)


def run_worker(config: TrainLoopConfig, checkpoints: Checkpoints, on_step: Callable[[Step], None]) -> dict[str, Any]:
    """The loop on this rank: fields of a `TrainResult`, or what the user must know.

    Raises:
        StorageError, ClusterError: this time; Ray Train starts again from the last checkpoint.
    """
    from caco_ray.training.loop import train_loop  # imports torch: the driver has no need of it

    try:
        return asdict(train_loop(config, checkpoints if config.training.checkpoint_every_steps else NoCheckpoints(), on_step))
    except (StorageError, ClusterError):
        raise
    except UserError as error:  # the data's fault, not a worker's: no restart would help, so it is a result
        return {"user_error": str(error)}


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
