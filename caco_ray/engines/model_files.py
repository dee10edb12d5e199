"""The files of a model folder: config.json and weights."""

import json
from pathlib import Path
from typing import Any

from caco_ray.errors import ModelError

# Kinds of weight files with the index that names those of a model; a folder may hold others too (Mistral's consolidated.safetensors).
_WEIGHTS = {".safetensors": "model.safetensors.index.json", ".bin": "pytorch_model.bin.index.json", ".pt": None}


def read_config(folder: Path) -> dict[str, Any]:
    """Of a model. Raises ModelError where there is none."""
    file = folder / "config.json"
    if not file.is_file():
        is_adapter = (folder / "adapter_config.json").is_file()
        advice = (
            "it is a LoRA adapter: give it as `lora`, and its base model as `path`"
            if is_adapter
            else "give the folder that save_pretrained wrote"
        )
        raise ModelError(f"{folder}: no config.json, so not a model folder; {advice}")
    config = read_json(file)
    if not config.get("architectures"):
        raise ModelError(f"{file}: names no architecture, so not a model's config.json")
    return config


def read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: not valid JSON ({error}); copy the model again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file}: not a JSON object; copy the model again")
    return content


def weight_files(folder: Path) -> list[Path]:
    """Of the first kind that is there: those that its index names, else all but a second copy in another layout (consolidated*)."""
    for kind in _WEIGHTS:
        found = sorted(folder.glob(f"*{kind}"))
        if found:
            named = indexed(folder, kind)
            mine = [file for file in found if (file.name in named if named else not file.name.startswith("consolidated"))]
            return mine or found
    return []


def indexed(folder: Path, kind: str) -> set[str]:
    """File names in the index of a kind of weights; none where there is no index."""
    index = _WEIGHTS[kind]
    return set(read_json(folder / index).get("weight_map", {}).values()) if index and (folder / index).is_file() else set()
