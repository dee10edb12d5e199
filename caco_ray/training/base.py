"""The folder that training starts from, checked before anything is started."""

from pathlib import Path
from typing import Any

from caco_ray.engines.model_files import read_config, weight_files
from caco_ray.engines.model_folder import context_limit, find_folder
from caco_ray.errors import ConfigError, ModelError, first_line
from caco_ray.raw_text import turn_end


def check_base(base: str) -> Path:
    """The folder of a model that can be fine-tuned. `base` is a folder, or the hub id of a model in the local cache.

    Raises:
        ModelError: it is not one; the message says what is missing.
    """
    folder = find_folder(base, None)
    read_config(folder)
    if weight_bytes(folder) == 0:
        raise ModelError(f"{folder}: no weights (*.safetensors or *.bin), so nothing to fine-tune; copy the model again")
    return folder


def load_tokenizer(folder: Path) -> Any:
    """Raises ModelError where the folder has no tokenizer that loads."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{folder}: its tokenizer does not load ({first_line(error)}); copy the tokenizer from the original") from error


def check_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Raises ModelError where the tokenizer is that of another model: the model has no embedding for all of its tokens."""
    config = read_config(folder)
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    if size and len(tokenizer) > size:
        raise ModelError(f"{folder}: its tokenizer has {len(tokenizer):,} tokens, the model {size:,}: copy the model's own tokenizer")


def check_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Raises ModelError where nothing could end a learned sequence, or pad one."""
    turn_end(tokenizer)
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise ModelError(f"{folder}: its tokenizer has neither a pad_token nor an eos_token: give it one in tokenizer_config.json")


def check_context(base: str, config: dict[str, Any], max_length: int) -> None:
    """Raises ConfigError where sequences may be longer than what the model has positions for. `config`: its config.json."""
    limit = context_limit(config)
    if limit is not None and max_length > limit:
        raise ConfigError(f"max_length={max_length}: {base} has a context of {limit} tokens; give at most that")


def weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in weight_files(folder) if file.suffix != ".pt")
