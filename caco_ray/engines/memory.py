"""Does a model fit into the memory of its replica? Known from its files alone; and which values would fit.

Estimates from below: weights and the cache of one sequence of `max_model_len` tokens, without activations. Models whose layers do not
all keep every token (sliding windows, state spaces) are left to vLLM.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caco_ray.config import VllmModel
from caco_ray.engines.model_files import read_config, weight_files
from caco_ray.errors import ConfigError, ModelError

_GIB = 1 << 30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_LOADED_QUANTISED = 0.5  # bytes per weight that is quantised while it is loaded: none of vLLM's methods for that makes fewer
_OTHER_CACHES = ("sliding_window", "layer_types", "ssm_cfg", "mamba_d_state", "attn_layer_period", "full_attention_interval")
_MAX_RANKS = 64
TAKEN = "Free memory on device"  # what vLLM says where less is free than it is to take
SIGNS = ("out of memory", "available memory for the cache", "available KV cache memory", TAKEN, "Failed to allocate")


@dataclass(frozen=True)
class Needs:
    """Bytes of the whole model. `cache_token`: of one token in the KV cache, None where it cannot be told."""

    weights: int
    cache_token: int | None

    def cache(self, tokens: int) -> int:
        return (self.cache_token or 0) * tokens


def needs(model: VllmModel, folder: Path) -> Needs:
    config = read_config(folder)
    weights = sum(file.stat().st_size for file in weight_files(folder))
    stored = _stored(config)
    computed = _BYTES.get(model.dtype) or min(stored or 2, 2)
    if config.get("quantization_config") is None and (stored or model.quantization):
        weights = int(weights * (_LOADED_QUANTISED if model.quantization else computed) / (stored or 2))
    return Needs(weights, _cache_token(model, config))


def _stored(config: dict[str, Any]) -> int | None:
    """Bytes of a number in the weights' files, where they are not quantised."""
    return _BYTES.get(str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch."))


def _cache_token(model: VllmModel, config: dict[str, Any]) -> int | None:
    """Bytes of keys and values of all layers for one token."""
    if "kv_cache_dtype" in model.vllm_args:
        return None
    text, size = config.get("text_config") or config, _BYTES.get(model.dtype) or min(_stored(config) or 2, 2)
    layers, heads = text.get("num_hidden_layers"), text.get("num_attention_heads")
    if not isinstance(layers, int) or not isinstance(heads, int) or "kv_lora_rank" in text or any(text.get(key) for key in _OTHER_CACHES):
        return None
    head_size = text.get("head_dim") or text.get("hidden_size", 0) // heads
    return 2 * layers * int(text.get("num_key_value_heads") or heads) * int(head_size) * size


def check_cache(model: VllmModel, name: str, config: dict[str, Any]) -> None:
    """On CPU the cache has a size of its own. `config`: the content of config.json of the model, which messages call `name`.

    Raises:
        ConfigError: it does not hold one sequence of `max_model_len` tokens.
    """
    token = _cache_token(model, config) or 0
    whole = token * model.max_model_len
    if model.gpus or whole <= model.kv_cache_gb * _GIB:
        return
    fits = model.kv_cache_gb * _GIB // token
    raise ConfigError(
        f"kv_cache_gb={model.kv_cache_gb}: one sequence of max_model_len={model.max_model_len} tokens of {name} takes {_gib(whole)}; "
        f"give kv_cache_gb={-(-whole // _GIB)}, or max_model_len={fits}"
    )


def check_room(model: VllmModel, folder: Path, device_bytes: int | None) -> None:
    """`device_bytes`: total memory of one GPU; None on CPU.

    Raises:
        ModelError: the model cannot fit; says what would.
    """
    need, ranks = needs(model, folder), model.tensor_parallel * model.pipeline_parallel
    if device_bytes is None:
        wanted, free = need.weights + model.kv_cache_gb * _GIB, _free_memory()
        fits = wanted <= free
    else:
        fits = (need.weights + need.cache(model.max_model_len)) / ranks <= device_bytes * model.gpu_memory_fraction
    if not fits:
        raise ModelError(f"{folder}: does not fit: {describe(model, folder, device_bytes)}")


def describe(model: VllmModel, folder: Path, device_bytes: int | None) -> str:
    """What the model takes, what there is, and which values would fit."""
    need, ranks = needs(model, folder), model.tensor_parallel * model.pipeline_parallel
    takes = f"weights {_gib(need.weights)}"
    if device_bytes is None:
        there = f"{takes} + kv_cache_gb={model.kv_cache_gb}, {_gib(_free_memory())} of memory are free on this node"
        return f"{there}; give a smaller kv_cache_gb, a smaller model, or a larger node"
    sequence, budget = need.cache(model.max_model_len), device_bytes * model.gpu_memory_fraction
    takes += f" + {_gib(sequence)} of cache for one sequence of max_model_len={model.max_model_len}" if sequence else ""
    there = f"{takes} over {ranks} GPU{'s' * (ranks > 1)}; gpu_memory_fraction={model.gpu_memory_fraction:g} of {_gib(device_bytes)} is"
    return f"{there} {_gib(budget)} on each; {_advice(model, need, ranks, budget)}"


def _advice(model: VllmModel, need: Needs, ranks: int, budget: float) -> str:
    room = budget * ranks - need.weights
    if need.cache_token and need.cache_token <= room < need.cache(model.max_model_len):
        return f"give max_model_len={int(room // need.cache_token)}, or more GPUs per replica"
    more = ranks
    while more < _MAX_RANKS and (need.weights + need.cache(model.max_model_len)) / more > budget:
        more *= 2
    if more > ranks:
        return f"give tensor_parallel x pipeline_parallel = gpus = {more}, or a smaller or quantised model"
    return "give smaller max_num_seqs and gpu_memory_fraction, enforce_eager=true, or see what else is on the GPU"


def _free_memory() -> int:
    """Bytes that this process and its children may still take: of the node, and of the container around it."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").is_file() and (most := (group / "memory.max").read_text().strip()).isdigit():
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        kept = int((group / "memory.current").read_text()) - int(fields.get("active_file", 0)) - int(fields.get("inactive_file", 0))
        free = min(free, max(0, int(most) - kept))  # files in the page cache give way
    return free


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB"
