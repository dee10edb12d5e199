"""Model, optimizer and DeepSpeed engine of one worker. The only module that knows DeepSpeed's configuration."""

import logging
import os
import shutil
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from caco_ray.config import TrainingConfig
from caco_ray.errors import ClusterError, ModelError, StorageError
from caco_ray.training.attention import check_packable, choose_flash, require_flash, use_packed_attention
from caco_ray.training.base import weight_bytes
from caco_ray.training.lora import add_adapters
from caco_ray.training.types import PATIENCE_S

_NVME_STATE = 14 / 2  # as in a checkpoint beside bf16 weights: weights 2, master copy 4, AdamW moments 8 bytes a parameter
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h


def prepare_process(device: str, cpus: int) -> None:
    """Set up this process before DeepSpeed is imported: accelerator, threads, memory, quiet logs, the process group.

    Raises:
        ClusterError: a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ClusterError("training gpus_per_worker=1: no GPU on this node that torch can use; give training.gpus_per_worker=0 for CPU")
    os.environ["DS_ACCELERATOR"] = device
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    if device == "cpu":
        torch.set_num_threads(cpus)
        torch.set_flush_denormal(True)
        _keep_freed_memory()
    backend = "nccl" if device == "cuda" else "gloo"
    if not dist.is_initialized() and "RANK" in os.environ:  # under torchrun; Ray Train has done it already
        dist.init_process_group(backend, timeout=timedelta(seconds=PATIENCE_S))
    elif not dist.is_initialized():  # alone
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
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


def deepspeed_config(training: TrainingConfig, *, universal: bool = False) -> dict[str, Any]:
    """DeepSpeed's JSON. The loop itself sets the learning rate and says which forward pass is the last of a step.

    universal: the checkpoint to be loaded is in DeepSpeed's universal form, see checkpoint.py.
    """
    zero: dict[str, Any] = {"stage": training.zero_stage, "contiguous_gradients": True, "overlap_comm": training.gpus_per_worker > 0}
    if training.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if training.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": training.gpus_per_worker > 0}
    if training.offload == "nvme":
        place = {"device": "nvme", "nvme_path": training.nvme_dir, "pin_memory": training.gpus_per_worker > 0}
        zero |= {"offload_optimizer": place, "offload_param": place}
    return {
        "train_batch_size": training.micro_batch_rows * training.workers,  # of a forward pass: how many make a step, the loop decides
        "train_micro_batch_size_per_gpu": training.micro_batch_rows,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.max_grad_norm,
        "bf16": {"enabled": training.dtype == "bfloat16"},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW also where states are offloaded: DeepSpeed's own is compiled at first use
        "checkpoint": {"load_universal": universal},
        "steps_per_print": 10**9,
    }


def build_engine(training: TrainingConfig, base: str, *, universal: bool = False) -> Any:
    """The DeepSpeed engine around the model in the folder `base`.

    Raises:
        ModelError: the model cannot be trained as the config asks.
        ClusterError: the GPU has no flash-attention and the config wants nothing else, or this node cannot offload to its disk.
        StorageError: `nvme_dir` is not there, or has too little room.
    """
    import deepspeed
    from transformers.integrations import HfDeepSpeedConfig

    if training.offload == "nvme":
        check_nvme(Path(str(training.nvme_dir)), weight_bytes(Path(base)))
    config = deepspeed_config(training, universal=universal)
    loading = HfDeepSpeedConfig(config) if training.zero_stage == 3 else None  # while it lives, from_pretrained loads into shards
    model = _model(training, base)
    del loading
    optimizer = torch.optim.AdamW(_groups(model, training.weight_decay), lr=training.learning_rate, betas=(0.9, 0.999), fused=True)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    return engine


def _model(training: TrainingConfig, base: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(base, local_files_only=True)
    _drop_nothing(config)
    model = AutoModelForCausalLM.from_pretrained(base, config=config, dtype=getattr(torch, training.dtype), local_files_only=True)
    model.config.use_cache = False
    model.train()
    if training.gpus_per_worker:
        choose_flash(training.flash_attention)
    if training.batching == "packed":
        check_packable(model, training.max_length)
        use_packed_attention(model)
    if training.flash_attention:
        require_flash(model)
    if training.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if training.liger:
        _use_liger(model)
    if training.lora is not None:
        add_adapters(model, training.lora)
    return model


def _drop_nothing(config: Any) -> None:
    """No dropout, whatever the base was trained with: packed attention has none, and nothing random need be saved for a resumed training to
    go on as an undisturbed one."""
    text = config.get_text_config()
    for name, value in text.to_dict().items():
        if name.endswith(("dropout", "pdrop")) and isinstance(value, float):
            setattr(text, name, 0.0)


def check_nvme(folder: Path, base_bytes: int) -> None:
    """Whether parameters and optimizer states can be kept in `folder`, on a disk of this node.

    Raises:
        ClusterError: DeepSpeed's asynchronous reads and writes cannot be compiled here.
        StorageError: no such folder, or too little room.
    """
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise StorageError(f"training nvme_dir={folder}: no folder that can be written on this node; make it, or give another one")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) / dist.get_world_size()
    needed_mb, free_mb = int(_NVME_STATE * base_bytes * here) >> 20, shutil.disk_usage(folder).free >> 20
    if free_mb < needed_mb:
        raise StorageError(f"training nvme_dir={folder}: {free_mb:,} MB free, parameters and states need {needed_mb:,} MB: make room")
    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise ClusterError("training offload=nvme: DeepSpeed needs libaio on each node; install libaio-dev, or take offload=cpu")


def _use_liger(model: Any) -> None:
    """Fused norms, rotary embedding and MLP; the loss stays ours, which needs no logits of positions without a loss.

    Raises:
        ModelError: liger-kernel would leave a model of this family as it is.
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as FAMILIES

    if model.config.model_type not in FAMILIES:
        raise ModelError(f"training liger=true: liger-kernel has no kernels for {model.config.model_type} (it has: {', '.join(FAMILIES)})")
    _apply_liger_kernel_to_instance(model=model, fused_linear_cross_entropy=False)


def _groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases do not. (Under ZeRO-3 a parameter shows its true shape as `ds_shape`.)"""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not weight_decay:
        return [{"params": trained, "weight_decay": 0.0}]
    matrices = [parameter for parameter in trained if _dimensions(parameter) > 1]
    vectors = [parameter for parameter in trained if _dimensions(parameter) <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _dimensions(parameter: torch.nn.Parameter) -> int:
    return len(getattr(parameter, "ds_shape", parameter.shape))
