"""What can be known about a model folder without loading it: whether it can be served, and which weights it holds."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec

from caco_ray.config import VllmModel, is_hub_id
from caco_ray.engines.chat_template import check_chat_template
from caco_ray.engines.model_files import indexed, read_config, read_json, weight_files
from caco_ray.errors import ConfigError, ModelError, first_line
from caco_ray.store import Folder
from caco_ray.store.transfer import fetch_folder, node_cache

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model")
# vLLM's CPU attention kernels have these head sizes only; others die in the kernel after the model is loaded.
_CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
_SAMPLES, _SAMPLE_BYTES = 64, 4096
MAX_LORA_RANK = 512
_NOT_FLOAT16 = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})  # vllm/config/model.py
_QUANTISED_AS = {"gptq_marlin": "gptq", "auto_gptq": "gptq", "awq_marlin": "awq", "auto_awq": "awq"}  # other kernels, same files


def check_model(model: VllmModel, path: str) -> Path:
    """The folder of a model that vLLM can be expected to load. `path` is a folder, or the hub id of a model in the local cache.

    Raises:
        ModelError: the model is not there, is incomplete, or does not fit the device.
        ConfigError: the configuration asks for more than the model has.
    """
    folder = find_folder(path, model.revision)
    config = read_config(folder)
    _check_files(folder)
    check_config(model, str(folder), config)
    if model.lora is not None:
        adapter_rank(model.lora)
    if model.prompts == "instruct":
        check_chat_template(model, folder)
    return folder


def check_config(model: VllmModel, name: str, config: dict[str, Any]) -> None:
    """What config.json alone tells of a model, which messages call `name`.

    Raises:
        ModelError: it cannot run on the device.
        ConfigError: the configuration asks for more than the model has.
    """
    _check_context(model, name, config)
    _check_placement(model, name, config)
    _check_numbers(model, name, config)


def find_folder(path: str, revision: str | None) -> Path:
    """A folder, the local hub cache's copy of a hub id, or this node's copy of what an URL names, fetched on first use.
    With `HF_HUB_OFFLINE=0` (`cluster.allow_downloads`) what a hub id names is downloaded.

    Raises:
        ModelError: none of them has the model.
        StorageError: the object store fails, or the node's disk has no room.
    """
    if "://" in path:
        try:
            return fetch_folder(Folder(path), node_cache())
        except FileNotFoundError:
            raise ModelError(f"{path}: no such folder in the object store; give the folder that holds config.json and weights") from None
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelError(f"{path}: a model is a folder with config.json and weights, this is a file")
    if not is_hub_id(path):
        raise ModelError(f"{path}: no such folder; give a folder with config.json, weights and tokenizer that every node can read")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    online = os.environ.get("HF_HUB_OFFLINE") == "0"
    try:
        return Path(snapshot_download(path, revision=revision, local_files_only=not online))
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        if online:
            raise ModelError(f"{path}: not a folder, and cannot be downloaded ({first_line(error)})") from error
        raise ModelError(
            f"{path}: not a folder, and not in the Hugging Face cache: run `hf download {path}` on every node first, or allow it with "
            "cluster.allow_downloads=true"
        ) from None


def model_id(model: VllmModel, path: str) -> str:
    """Name and fingerprint of the weights, for example `SmolLM2-135M@5f2c9a01d3e4`: the same for the same files anywhere.
    An adapter follows after a plus sign.

    The fingerprint covers config.json in full, and of each weight file the size and 64 samples of 4 kB.
    """
    folder = find_folder(path, model.revision)
    name = f"{_name(model.path)}@{folder_fingerprint(folder, 'config.json')}"
    if model.lora is None:
        return name
    return f"{name}+{_name(model.lora)}@{folder_fingerprint(find_folder(model.lora, None), 'adapter_config.json')}"


def _name(path: str) -> str:
    is_local = path.startswith(("/", ".")) or "\\" in path
    return Path(path).name if is_local else path


def fingerprint(url: str, weights: Iterable[str], config: str = "config.json") -> str:
    """Of these weight files in a folder, local or at an URL: there only the samples are fetched."""
    driver, root = fsspec.core.url_to_fs(url)
    driver.invalidate_cache()  # sizes of a model that lay there before
    digest = hashlib.blake2b(driver.cat_file(f"{root}/{config}"), digest_size=6)
    for name in weights:
        size = driver.size(f"{root}/{name}")
        digest.update(f"{name}\x1f{size}\x1f".encode())
        starts = [max(0, size - _SAMPLE_BYTES) * index // (_SAMPLES - 1) for index in range(_SAMPLES)] if size else []
        ends = [min(start + _SAMPLE_BYTES, size) for start in starts]
        for sample in driver.cat_ranges([f"{root}/{name}"] * len(starts), starts, ends, on_error="raise"):
            digest.update(sample)
    return digest.hexdigest()


def folder_fingerprint(folder: Path, config: str) -> str:
    """Of what the folder holds, wherever it lies: the file `config` in full, samples of the weights."""
    return fingerprint(str(folder), [file.name for file in weight_files(folder)], config)


def _check_files(folder: Path) -> None:
    weights = weight_files(folder)
    if not weights:
        raise ModelError(f"{folder}: no weights (*.safetensors or *.bin); copy the model again")
    names = indexed(folder, weights[0].suffix)
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise ModelError(f"{folder}: {len(missing)} of {len(names)} weight files are missing ({missing[0]} ...); copy the model again")
    empty = [file.name for file in weights if file.stat().st_size == 0]
    if empty:
        raise ModelError(f"{folder}: {empty[0]} is empty; copy the model again")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ModelError(f"{folder}: no tokenizer ({', '.join(_TOKENIZERS[:2])}); copy it from the base model")


def _check_context(model: VllmModel, name: str, config: dict[str, Any]) -> None:
    limit = None if "hf_overrides" in model.vllm_args else context_limit(config)  # those may extend it: vLLM's to say
    if limit is not None and model.max_model_len > limit:
        raise ConfigError(f"max_model_len={model.max_model_len}: {name} has a context of {limit} tokens; give at most that")


def context_limit(config: dict[str, Any]) -> int | None:
    """Longest context in tokens, as vLLM derives it from `max_position_embeddings` and the rope scaling."""
    text = config.get("text_config") or config
    length = text.get("max_position_embeddings") or text.get("n_positions") or text.get("max_seq_len")
    if not isinstance(length, int):
        return None
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    kind = scaling.get("rope_type") or scaling.get("type")
    factor = scaling.get("factor")
    if not isinstance(factor, int | float) or kind in (None, "default", "su", "longrope", "llama3", "mrope"):
        return length
    original = scaling.get("original_max_position_embeddings", length) if kind == "yarn" else length
    return max(length, int(original * factor))


def adapter_rank(path: str) -> int:
    """Largest rank in a LoRA adapter (folder or hub id).

    Raises:
        ModelError: it is none that vLLM can serve.
    """
    folder = find_folder(path, None)
    if not (folder / "adapter_config.json").is_file() or not list(folder.glob("adapter_model.*")):
        raise ModelError(f"{folder}: not a LoRA adapter: it has no adapter_config.json or no adapter_model.safetensors")
    config = read_json(folder / "adapter_config.json")
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]  # of modules that have one of their own
    if wrong := [each for each in ranks if not isinstance(each, int) or not 1 <= each <= MAX_LORA_RANK]:
        raise ModelError(f"{folder}/adapter_config.json: r={wrong[0]!r}; vLLM serves ranks from 1 to {MAX_LORA_RANK}")
    rank: int = max(ranks)
    if config.get("modules_to_save") or config.get("bias", "none") != "none" or config.get("use_dora"):
        what = "is a DoRA adapter" if config.get("use_dora") else "trains whole modules or biases"
        raise ModelError(f"{folder}: {what}, which vLLM cannot serve as an adapter; merge it into its base model")
    return rank


def _check_numbers(model: VllmModel, name: str, config: dict[str, Any]) -> None:
    """Number formats: of the computation and of quantised weights."""
    kind = config.get("model_type")
    if model.dtype == "float16" and kind in _NOT_FLOAT16:
        raise ConfigError(f"dtype=float16: {name} ({kind}) overflows in it; give bfloat16, or float32")
    if model.dtype == "float32" and model.gpus and (model.quantization or config.get("quantization_config")):
        raise ConfigError("dtype=float32: kernels for quantised weights compute in float16 or bfloat16; give one of these, or auto")
    stored = (config.get("quantization_config") or {}).get("quant_method")
    if stored and model.quantization and _QUANTISED_AS.get(model.quantization, model.quantization) != _QUANTISED_AS.get(stored, stored):
        raise ConfigError(f"quantization={model.quantization}: the weights in {name} are {stored}; give null, which reads it from there")


def _check_placement(model: VllmModel, name: str, config: dict[str, Any]) -> None:
    text = config.get("text_config") or config
    heads = text.get("num_attention_heads")
    if isinstance(heads, int) and heads % model.tensor_parallel:
        raise ConfigError(f"tensor_parallel={model.tensor_parallel}: {name} has {heads} attention heads, which do not divide by it")
    if model.gpus or not isinstance(heads, int):
        return
    head_size = text.get("head_dim") or text.get("hidden_size", 0) // heads
    if head_size not in _CPU_HEAD_SIZES:
        raise ModelError(f"{name}: attention heads of size {head_size} cannot run on CPU (sizes: {', '.join(map(str, _CPU_HEAD_SIZES))})")
