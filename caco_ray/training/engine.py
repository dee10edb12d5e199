"""Model, optimizer and DeepSpeed engine of one worker. The only module that knows DeepSpeed's configuration."""

import logging
import os
import socket
import warnings
from typing import Any

import torch
import torch.distributed as dist

from caco_ray.config import TrainingConfig

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h


def prepare_process(device: str, cpus: int) -> None:
    """Set up this process before DeepSpeed is imported: accelerator, threads, memory, quiet logs, the process group."""
    os.environ["DS_ACCELERATOR"] = device
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    if device == "cpu":
        torch.set_num_threads(cpus)
        torch.set_flush_denormal(True)
        _keep_freed_memory()
    if not dist.is_initialized():  # alone or under torchrun; Ray Train has done it already
        for key, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
            os.environ.setdefault(key, value)
        if "MASTER_PORT" not in os.environ:
            os.environ["MASTER_PORT"] = str(_free_port())
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) if torch.cuda.device_count() > 1 else 0)
    import deepspeed  # reads DS_ACCELERATOR

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else compiled at first use (25 s); gloo does its work
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.init_distributed(dist.get_backend(), auto_mpi_discovery=False)  # else ZeRO-3 loads for a world of one (DeepSpeed#3341)


def _keep_freed_memory() -> None:
    """Let glibc keep large freed blocks: giving each activation back to the kernel and faulting it in anew costs a fifth of a step."""
    import ctypes

    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another C library: only slower
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def deepspeed_config(training: TrainingConfig) -> dict[str, Any]:
    """DeepSpeed's JSON. The learning rate is set by the loop, step by step."""
    zero: dict[str, Any] = {"stage": training.zero_stage, "contiguous_gradients": True, "overlap_comm": training.gpus_per_worker > 0}
    if training.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if training.offload == "cpu" and training.zero_stage:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_batch_size": training.batch_rows,
        "train_micro_batch_size_per_gpu": training.micro_batch_rows,
        "gradient_accumulation_steps": micro_steps(training),
        "gradient_clipping": training.max_grad_norm,
        "bf16": {"enabled": training.dtype == "bfloat16"},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW also where states are offloaded: DeepSpeed's own is compiled at first use
        "steps_per_print": 10**9,
    }


def micro_steps(training: TrainingConfig) -> int:
    """Forward passes of one worker in one optimizer step."""
    return training.batch_rows // (training.micro_batch_rows * training.workers)


def build_engine(training: TrainingConfig, base: str) -> Any:
    """The DeepSpeed engine around the model in the folder `base`."""
    import deepspeed
    from transformers import AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    config = deepspeed_config(training)
    keep_alive = HfDeepSpeedConfig(config) if training.zero_stage == 3 else None  # makes from_pretrained load straight into shards
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, training.dtype), local_files_only=True)
    model.config.use_cache = False
    model.train()
    if training.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(_groups(model, training.weight_decay), lr=training.learning_rate, betas=(0.9, 0.999), fused=True)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    engine.caco_keep_alive = keep_alive
    return engine


def _groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases do not. (Under ZeRO-3 a parameter shows its true shape as `ds_shape`.)"""
    if not weight_decay:
        return [{"params": list(model.parameters()), "weight_decay": 0.0}]
    matrices: list[torch.nn.Parameter] = []
    vectors: list[torch.nn.Parameter] = []
    for parameter in model.parameters():
        (matrices if len(getattr(parameter, "ds_shape", parameter.shape)) > 1 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
