"""From our configuration to vLLM's engine arguments and environment. Nothing of vLLM is imported here."""

import fnmatch
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from caco_ray.config import VllmModel
from caco_ray.engines.model_folder import MAX_LORA_RANK, adapter_rank
from caco_ray.engines.vllm_child import ChildLog
from caco_ray.errors import ConfigError

_HF_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json")
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, MAX_LORA_RANK)
_MAX_SOCKET_FOLDER = 107 - len("/01234567-0123-0123-0123-0123456789ab")  # Linux allows a socket's path 107 bytes


def engine_arguments(model: VllmModel, folder: str, seed: int) -> dict[str, Any]:
    """Arguments of `AsyncEngineArgs`.

    Raises:
        ConfigError: `vllm_args` sets what has a key of its own.
    """
    ours: dict[str, Any] = {
        "model": folder,
        "dtype": model.dtype,
        "max_model_len": model.max_model_len,
        "max_num_seqs": model.max_num_seqs,
        "tensor_parallel_size": model.tensor_parallel,
        "pipeline_parallel_size": model.pipeline_parallel,
        "enforce_eager": model.enforce_eager,
        "seed": seed,
        "disable_log_stats": True,
    }
    if model.tensor_parallel * model.pipeline_parallel > 1:
        ours["distributed_executor_backend"] = "mp"  # inside the actor: no placement group that could leak (ray#64035)
    ours |= {"gpu_memory_utilization": model.gpu_memory_fraction} if model.gpus else {"kv_cache_memory_bytes": model.kv_cache_gb << 30}
    if model.quantization:
        ours["quantization"] = model.quantization
    if model.lora:
        rank = adapter_rank(model.lora)
        ours |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(size for size in _LORA_RANKS if size >= rank)}
    taken = sorted(ours.keys() & model.vllm_args.keys())
    if taken:
        raise ConfigError(f"vllm_args.{taken[0]}: set by the model's own keys, not here")
    defaults: dict[str, Any] = {"use_tqdm_on_load": False, "enable_prefix_caching": True}
    if _would_be_mistral(Path(folder)):
        defaults["tokenizer_mode"] = "hf"
    return {**defaults, **ours, **model.vllm_args}


def _would_be_mistral(folder: Path) -> bool:
    """A folder in both layouts, for which vLLM takes Mistral's tokenizer by itself (vllm/tokenizers/registry.py): that one has no chat
    template, and other special tokens. Other kinds that it knows are its own to choose."""
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    weights, tokenizers = fnmatch.filter(names, "consolidated*.safetensors"), fnmatch.filter(names, "tokenizer.model.v*")
    return bool(weights) and ("tekken.json" in names or bool(tokenizers)) and not names.isdisjoint(_HF_TOKENIZERS)


def environment(model: VllmModel, log: Path) -> dict[str, str]:
    """Variables for vLLM's processes; `log` is the folder that their logs, sockets and temporary files go to."""
    variables = {
        "TMPDIR": str(log),
        "VLLM_RPC_BASE_PATH": str(log) if len(str(log)) < _MAX_SOCKET_FOLDER else "/tmp",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENGINE_READY_TIMEOUT_S": str(model.load_timeout_s),  # of the last step alone; `VllmEngine` bounds the whole
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_LOGGING_CONFIG_PATH": str(_logging_config(log)),
        "PYTHONWARNINGS": "ignore",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if model.gpus:
        return variables
    ranks = model.tensor_parallel * model.pipeline_parallel
    # Engines and the sandbox share the cores and know nothing of each other. So threads are counted but not pinned, and wait asleep:
    # a thread that spins at a barrier keeps the core from the one it waits for (3 to 7 times slower beside other work, 2 cores).
    variables["OMP_WAIT_POLICY"] = "passive"
    variables |= {"OMP_NUM_THREADS": str(max(1, cpu_threads(model) // ranks)), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    if ranks == 1:
        # One process less: vLLM wants a worker process of its own on CPU in order to set OMP_NUM_THREADS for it, which is done here.
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return variables


def cpu_threads(model: VllmModel) -> int:
    """Cores that a replica computes on: at most those that this process may use."""
    available = len(os.sched_getaffinity(0))
    return available if model.cpu_threads == "all" else min(model.cpu_threads, available)


@contextmanager
def environ(variables: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started inside the `with` block, and `TMPDIR` for this one too."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    tempfile.tempdir = None  # Python asks for TMPDIR once only
    try:
        yield
    finally:
        tempfile.tempdir = None
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _logging_config(log: Path) -> Path:
    """vLLM's log goes to a file: the terminal is ours, and the cause of a failed start stands in no exception, only there."""
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(processName)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {
            "file": {
                "class": f"{ChildLog.__module__}.{ChildLog.__name__}",
                "filename": str(log / "vllm.log"),
                "owner": os.getpid(),
                "formatter": "plain",
            }
        },
        "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }
    path = log / "logging.json"
    path.write_text(json.dumps(config))
    return path
