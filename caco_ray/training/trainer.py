"""Fine-tune a model on Ray Train. The only module here that imports `ray.train`; Ray must be running.

Everything that can be wrong with the input is found before workers start. A killed training goes on from its last checkpoint when it
is called again with the same arguments; without `checkpoint_every_steps` it starts over.
"""

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from caco_ray.config import TrainingConfig
from caco_ray.errors import CacoError, StorageError, UserError
from caco_ray.training.base import check_base, load_tokenizer, weight_bytes
from caco_ray.training.checkpoint import KEEP, NoCheckpoints
from caco_ray.training.data import TOO_LONG, write_tokens
from caco_ray.training.progress import following
from caco_ray.training.types import Examples, Rows, Step, TokenStats, TrainLoopConfig, TrainResult

_RESULT_FILE = "result.json"
_WORK_FOLDER = "work"
_MAX_FAILURES = 3  # restarts from the last checkpoint when a worker or node dies; there are none without checkpoints
_SPARE_MB = 100  # for the tokens and everything small
_STATE_BYTES = 14 / 2  # a checkpoint beside bf16 weights: weights 2, master copy 4, AdamW moments 8 bytes a parameter


def train_model(
    training: TrainingConfig,
    *,
    base: str,
    rows: Rows,
    examples: Examples,
    output_dir: Path,
    storage_dir: str | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> TrainResult:
    """Fine-tune `base` on the examples of `rows` and leave the model in `output_dir/model`.

    `output_dir` is on a disk that all workers see; it also gets `progress.jsonl` (the loss curve), `skipped.jsonl` and `result.json`.
    `storage_dir` (a path or URL for `pyarrow.fs`) holds checkpoints while training runs; default `output_dir/work`. `on_step` is
    called from a thread of this process.

    Raises:
        ModelError: `base` is not a model folder.
        StorageError: the disk is too small for the export and the checkpoints.
        UserError: no usable examples, or the training diverged.
    """
    folder = check_base(base)
    tokenizer = load_tokenizer(folder)
    work = output_dir / _WORK_FOLDER
    work.mkdir(parents=True, exist_ok=True)
    _check_disk(training, folder, output_dir)
    tokens = work / "tokens.arrow"
    stats = write_tokens(rows, examples, tokenizer, training.max_length, tokens)
    (work / "skipped.jsonl").replace(output_dir / "skipped.jsonl")
    config = TrainLoopConfig(training, str(folder.absolute()), str(tokens.absolute()), str(output_dir.absolute()))
    trainer = _ray_trainer(config, storage_dir or str(work.absolute()), _fingerprint(config, tokens))
    with following(output_dir, on_step), _one_line_errors():
        trainer.fit()
    result = _finish(output_dir, stats)
    shutil.rmtree(work)
    return result


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
            failure_config=FailureConfig(max_failures=_MAX_FAILURES if training.checkpoint_every_steps else 0),
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
        result: dict[str, Any] = asdict(train_loop(config, checkpoints))
    except UserError as error:  # the data's fault, not a worker's: no restart would help, so it is a result
        result = {"user_error": str(error)}
    if ray.train.get_context().get_world_rank() == 0:
        _write_json(Path(config.output_dir) / _RESULT_FILE, result)


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


def _finish(output_dir: Path, stats: TokenStats) -> TrainResult:
    body = json.loads((output_dir / _RESULT_FILE).read_text())
    if "user_error" in body:
        (output_dir / _RESULT_FILE).unlink()
        raise UserError(body["user_error"])
    result = replace(TrainResult(**body), skipped_too_long=stats.skipped.get(TOO_LONG, 0))
    _write_json(output_dir / _RESULT_FILE, asdict(result))
    return result


def _write_json(path: Path, body: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(body, indent=1) + "\n")
    partial.replace(path)


def _fingerprint(config: TrainLoopConfig, tokens: Path) -> str:
    """Names a training by its settings and tokens: another config or other data never continues this one's checkpoints."""
    digest = hashlib.blake2b(config.training.model_dump_json().encode(), digest_size=6)
    digest.update(config.base.encode())
    with tokens.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"training-{digest.hexdigest()}"


def _check_disk(training: TrainingConfig, base: Path, output_dir: Path) -> None:
    copies = 1.0 + (_STATE_BYTES * (KEEP + 1) if training.checkpoint_every_steps else 0)
    needed_mb, free_mb = _SPARE_MB + (int(copies * 1.1 * weight_bytes(base)) >> 20), shutil.disk_usage(output_dir).free >> 20
    if free_mb < needed_mb:
        what = "the model and its checkpoints" if training.checkpoint_every_steps else "the model"
        raise StorageError(f"{output_dir}: {free_mb:,} MB free, {what} need {needed_mb:,} MB: make room or choose another run.dir")
