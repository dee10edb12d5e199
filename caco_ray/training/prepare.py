"""What comes before the loop, whoever starts it: everything that can be wrong is found here, before the first step."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from caco_ray.config import TrainingConfig, is_hub_id
from caco_ray.engines.model_files import read_config
from caco_ray.engines.model_folder import folder_fingerprint
from caco_ray.errors import ModelError, StorageError, UserError
from caco_ray.store.faults import explain
from caco_ray.training.base import check_base, check_context, check_tokenizer, check_vocabulary, load_tokenizer, weight_bytes
from caco_ray.training.chat import replaces_template
from caco_ray.training.data import TokenFile, mixture, write_tokens
from caco_ray.training.generation import check_generation
from caco_ray.training.placement import SAME_CHECKPOINTS
from caco_ray.training.plan import too_short
from caco_ray.training.types import WORK_FOLDER, TokenStats, TrainingData, TrainLoopConfig, TrainResult

_SPARE_MB = 100  # for the tokens and everything small
_STATE_BYTES = 14 / 2  # a checkpoint beside bf16 weights: weights 2, master copy 4, AdamW moments 8 bytes a parameter
_ADAPTER_STATE_BYTES = 2 / 2  # the weights, which stay; what belongs to the adapters is small beside them
_KEPT_CHECKPOINTS = 4  # two, the one that is being written, and what it is copied from


@dataclass(frozen=True)
class Prepared:
    """A training that can start. `name` is the same for the same settings and data: under it the checkpoints of a killed one are found."""

    config: TrainLoopConfig
    work: Path  # the tokens, and what was left out of them
    name: str
    stats: TokenStats
    replaces_template: bool

    def counted(self, result: TrainResult) -> TrainResult:
        """With what was known before the loop began."""
        return replace(
            result, skipped=self.stats.skipped, sequences=self.stats.sequences, replaced_template=self.replaces_template
        )


def prepare(training: TrainingConfig, base: str, data: Sequence[TrainingData], output_dir: Path, *, shared_disk: bool = True) -> Prepared:
    """Check base and disk, tokenise the data. Without a shared disk the room is a matter of the nodes that train (`check_disk`).

    Raises:
        ConfigError: `max_length` is more than the base's context.
        ModelError: `base` is not a model folder.
        StorageError: the disk is too small for the export and the checkpoints.
        UserError: no usable examples, or so few that a training would do nothing.
    """
    folder = check_base(base)
    tokenizer = load_tokenizer(folder)
    work = output_dir / WORK_FOLDER
    work.mkdir(parents=True, exist_ok=True)
    check_vocabulary(folder, tokenizer)
    check_tokenizer(folder, tokenizer)
    check_context(base, read_config(folder), training.max_length)
    check_generation(folder)
    _check_liger(training)
    if shared_disk:
        check_disk(training, folder, output_dir)
    tokens = work / "tokens.arrow"
    try:
        stats = write_tokens(data, tokenizer, training, tokens)
    except OSError as error:
        raise StorageError(f"{work}: {explain(error)}") from error
    weights = tuple(entry.weight for entry in data)
    _check_steps(training, tokens, weights, [entry.name for entry in data])
    if shared_disk:
        check_disk(training, folder, output_dir)  # the tokens of a large data set take room too
    names = tuple(f"{entry.name} ({entry.fingerprint or 'no fingerprint'}, weight {entry.weight:g})" for entry in data)
    places = (str(folder.absolute()), str(tokens.absolute()), str(output_dir.absolute()))
    base_name = base if is_hub_id(base) and not Path(base).is_dir() else Path(base).name
    config = TrainLoopConfig(training, *places, weights, names, shared_disk, base_name)
    return Prepared(config, work, _fingerprint(config, folder, tokens), stats, replaces_template(tokenizer, training))


def _check_steps(training: TrainingConfig, tokens: Path, weights: Sequence[float], names: Sequence[str]) -> None:
    """Raises UserError where there would be next to no training."""
    per_epoch = sum(mixed.per_epoch for mixed in mixture(TokenFile(str(tokens)), weights))
    if said := too_short(per_epoch, training):
        raise UserError(f"training data {', '.join(names)}: {said}")


def _fingerprint(config: TrainLoopConfig, base: Path, tokens: Path) -> str:
    """Another model, other settings or other data never continue this one's checkpoints; another number of workers does."""
    settings = config.training.model_dump_json(exclude=SAME_CHECKPOINTS)
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
    """Raises StorageError where the disk is too small for the export and so many checkpoints. What an interrupted training left of these
    in `output_dir` is room that it has."""
    exports = 2.0 if training.early_stop_after else 1.0  # a better model is written before the one before it goes
    state = _ADAPTER_STATE_BYTES if training.lora else _STATE_BYTES
    copies = exports + (state * checkpoints if training.checkpoint_every_steps else 0)
    needed_mb = _SPARE_MB + (int(copies * 1.1 * weight_bytes(base)) >> 20)
    free_mb = (shutil.disk_usage(output_dir).free + _bytes_left(output_dir)) >> 20
    if free_mb < needed_mb:
        what = "the model and its checkpoints" if training.checkpoint_every_steps else "the model"
        raise StorageError(f"{output_dir}: {free_mb:,} MB free, {what} need {needed_mb:,} MB: make room or choose another run.dir")


def _bytes_left(output_dir: Path) -> int:
    """Of models and checkpoints: they are in folders of the output and of its work folder, the tokens and the curve are not."""
    total = 0
    for path in output_dir.rglob("*"):
        if path.parent not in (output_dir, output_dir / WORK_FOLDER):
            with suppress(FileNotFoundError):
                total += path.stat().st_size if path.is_file() else 0
    return total
