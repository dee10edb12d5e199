"""What comes before and after the loop, whoever starts it: everything that can be wrong is found here, before the first step."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from caco_ray.config import TrainingConfig, is_hub_id
from caco_ray.engines.model_files import read_config
from caco_ray.engines.model_folder import folder_fingerprint
from caco_ray.errors import ModelError, StorageError, UserError
from caco_ray.store.faults import explain
from caco_ray.training.base import check_base, check_context, check_tokenizer, check_vocabulary, load_tokenizer, weight_bytes
from caco_ray.training.chat import replaces_template
from caco_ray.training.data import write_tokens
from caco_ray.training.types import TokenStats, TrainingData, TrainLoopConfig, TrainResult

RESULT_FILE = "result.json"
SKIPPED_FILE = "skipped.jsonl"
WORK_FOLDER = "work"
_SPARE_MB = 100  # for the tokens and everything small
_STATE_BYTES = 14 / 2  # a checkpoint beside bf16 weights: weights 2, master copy 4, AdamW moments 8 bytes a parameter
_ADAPTER_STATE_BYTES = 2 / 2  # the weights, which stay; what belongs to the adapters is small beside them
_KEPT_CHECKPOINTS = 4  # two, the one that is being written, and what it is copied from
# How a training is carried out, not what it makes: with these changed it still goes on from its checkpoints.
PLACEMENT = {
    "workers", "gpus_per_worker", "cpus_per_worker", "micro_batch_rows", "activation_checkpointing", "checkpoint_every_steps", "liger",
    "flash_attention", "peak_tflops", "nvme_dir",
}  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """A training that can start. `name` is the same for the same settings and data: under it the checkpoints of a killed one are found."""

    config: TrainLoopConfig
    work: Path
    name: str
    stats: TokenStats
    replaces_template: bool

    def finish(self) -> TrainResult:
        """The result that rank 0 left; tokens and checkpoints go.

        Raises:
            UserError: what stopped the training.
        """
        output = Path(self.config.output_dir)
        body = json.loads((output / RESULT_FILE).read_text())
        if "user_error" in body:
            (output / RESULT_FILE).unlink()
            raise UserError(body["user_error"])
        result = self.counted(TrainResult(**body))
        write_result(self.config, asdict(result))
        shutil.copyfile(self.work / SKIPPED_FILE, output / SKIPPED_FILE)  # not moved: after a kill here all of this is done again
        _remove(self.work)
        return result

    def counted(self, result: TrainResult) -> TrainResult:
        """With what was known before the loop began."""
        return replace(result, skipped=self.stats.skipped, replaced_template=self.replaces_template)


def _remove(work: Path) -> None:
    """Under another name first: a kill in the middle leaves no half of a checkpoint to be found."""
    doomed = work.with_name(".work.done")
    shutil.rmtree(doomed, ignore_errors=True)
    work.replace(doomed)
    shutil.rmtree(doomed)


def prepare(training: TrainingConfig, base: str, data: Sequence[TrainingData], output_dir: Path, *, shared_disk: bool = True) -> Prepared:
    """Check base and disk, tokenise the data. Without a shared disk the room is a matter of the nodes that train (`check_disk`).

    Raises:
        ConfigError: `max_length` is more than the base's context.
        ModelError: `base` is not a model folder.
        StorageError: the disk is too small for the export and the checkpoints.
        UserError: no usable examples.
    """
    folder = check_base(base)
    tokenizer = load_tokenizer(folder)
    work = output_dir / WORK_FOLDER
    work.mkdir(parents=True, exist_ok=True)
    check_vocabulary(folder, tokenizer)
    check_tokenizer(folder, tokenizer)
    check_context(base, read_config(folder), training.max_length)
    _check_liger(training)
    if shared_disk:
        check_disk(training, folder, output_dir)
    tokens = work / "tokens.arrow"
    try:
        stats = write_tokens(data, tokenizer, training, tokens)
    except OSError as error:
        raise StorageError(f"{work}: {explain(error)}") from error
    if shared_disk:
        check_disk(training, folder, output_dir)  # the tokens of a large data set take room too
    names = tuple(f"{entry.name} ({entry.fingerprint or 'no fingerprint'}, weight {entry.weight:g})" for entry in data)
    weights = tuple(entry.weight for entry in data)
    places = (str(folder.absolute()), str(tokens.absolute()), str(output_dir.absolute()))
    base_name = base if is_hub_id(base) and not Path(base).is_dir() else Path(base).name
    config = TrainLoopConfig(training, *places, weights, names, shared_disk, base_name)
    return Prepared(config, work, _fingerprint(config, folder, tokens), stats, replaces_template(tokenizer, training))


def read_result(output_dir: Path) -> TrainResult | None:
    """Of a finished training; None where there is none."""
    path = output_dir / RESULT_FILE
    if not path.exists() or (output_dir / WORK_FOLDER).exists():
        return None
    return TrainResult(**json.loads(path.read_text()))


def write_result(config: TrainLoopConfig, body: dict[str, Any]) -> None:
    path = Path(config.output_dir) / RESULT_FILE
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(body, indent=1) + "\n")
    partial.replace(path)


def _fingerprint(config: TrainLoopConfig, base: Path, tokens: Path) -> str:
    """Another model, other settings or other data never continue this one's checkpoints; another number of workers does."""
    settings = config.training.model_dump_json(exclude=PLACEMENT)
    digest = hashlib.blake2b(json.dumps([settings, folder_fingerprint(base, "config.json"), config.weights]).encode(), digest_size=6)
    with tokens.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"training-{digest.hexdigest()}"


def _check_liger(training: TrainingConfig) -> None:
    """Every node has the packages of the same lock: what is missing here is missing there."""
    if training.liger and find_spec("liger_kernel") is None:
        raise ModelError("training liger=true needs the package liger-kernel: install the extra `liger`, or leave it off")


def check_disk(training: TrainingConfig, base: Path, output_dir: Path, checkpoints: int = _KEPT_CHECKPOINTS) -> None:
    """Raises StorageError where the disk is too small for the export and so many checkpoints."""
    exports = 2.0 if training.early_stop_after else 1.0  # a better model is written before the one before it goes
    state = _ADAPTER_STATE_BYTES if training.lora else _STATE_BYTES
    copies = exports + (state * checkpoints if training.checkpoint_every_steps else 0)
    needed_mb, free_mb = _SPARE_MB + (int(copies * 1.1 * weight_bytes(base)) >> 20), shutil.disk_usage(output_dir).free >> 20
    if free_mb < needed_mb:
        what = "the model and its checkpoints" if training.checkpoint_every_steps else "the model"
        raise StorageError(f"{output_dir}: {free_mb:,} MB free, {what} need {needed_mb:,} MB: make room or choose another run.dir")
