"""A base's generation_config.json: transformers loads what it refuses to save, so that an export would fail after all steps."""

from pathlib import Path
from typing import Any

from caco_ray.errors import ModelError

_FILE_NAME = "generation_config.json"


def check_generation(folder: Path) -> None:
    """Raises ModelError where the file could not be exported again."""
    from transformers import GenerationConfig

    if not (folder / _FILE_NAME).exists():
        return
    try:
        mend_generation(GenerationConfig.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, TypeError) as error:
        said = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise ModelError(f"{folder}/{_FILE_NAME}: transformers refuses it ({said}); mend the file, or delete it") from error


def mend_generation(config: Any) -> None:
    """Flags of sampling without `do_sample` (https://github.com/huggingface/transformers/issues/29988) mean that it samples.

    Raises:
        ValueError: something else is wrong with it.
    """
    try:
        config.validate(strict=True)
    except ValueError:
        config.do_sample = config.temperature != 0
        config.validate(strict=True)
