"""Fine-tuning of the generator and of students."""

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from caco_ray.config.base import Strict

TrainedRole = Literal["sample", "reverse", "solve"]


class LoraConfig(Strict):
    """Low-rank adapters on the linear layers (https://arxiv.org/abs/2106.09685); the export has them merged."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 32
    targets: tuple[str, ...] = ()  # names of linear layers, such as q_proj; empty = all but the output head


class TrainingConfig(Strict):
    """One fine-tuning run. The large defaults are those of the authors' training scripts."""

    enabled: bool = True
    roles: tuple[TrainedRole, ...] = Field(min_length=1)
    prompts: Literal["trained", "alpaca"] = "trained"  # prompt family, see prompts.py; alpaca learns `instruction` -> `output`
    domain_tags: bool = False  # each program begins with the comment `# Domain: ...`, learned with it
    epochs: PositiveFloat = 1
    max_steps: PositiveInt | None = None
    min_steps: PositiveInt = 20  # a training of fewer leaves the base almost as it was and is refused, unless max_steps asks for it
    learning_rate: PositiveFloat = 5e-6
    warmup_fraction: float = Field(0.03, ge=0, le=1)
    weight_decay: NonNegativeFloat = 0.1
    max_grad_norm: PositiveFloat = 1.0
    batch_rows: PositiveInt = 128  # global batch
    micro_batch_rows: PositiveInt = 8  # per worker and forward pass; packed: as many tokens as so many rows of max_length have
    batching: Literal["by_length", "packed"] = "by_length"
    max_length: int = Field(2048, ge=16)  # tokens; longer rows are counted and left out
    lora: LoraConfig | None = None
    heldout_fraction: float = Field(0, ge=0, le=0.5)  # of the rows; never trained on
    evaluate_every_steps: PositiveInt | None = None  # held-out loss; null = at the end
    early_stop_after: PositiveInt | None = None  # evaluations without a better held-out loss; the best model is exported
    max_loss_spike: float | None = Field(None, gt=1)  # a loss over so many times the median of the last steps stops the training
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload: Literal["none", "cpu", "nvme"] = "none"  # cpu: optimizer states; nvme: parameters too
    nvme_dir: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    activation_checkpointing: bool = False
    liger: bool = False  # fused Triton kernels of liger-kernel, on GPU
    flash_attention: bool | None = None  # torch's own kernel; null = where the GPU has it, true = nothing else
    peak_tflops: PositiveFloat | None = None  # of one worker's device, for MFU; null = the data sheet of known GPUs
    workers: PositiveInt = 1
    gpus_per_worker: int = Field(0, ge=0, le=1)
    cpus_per_worker: PositiveInt = 1
    checkpoint_every_steps: PositiveInt | None = None
    seed: int = Field(42, ge=0)

    @model_validator(mode="after")
    def _batches_divide(self) -> "TrainingConfig":
        if self.batching == "by_length" and self.batch_rows % (self.micro_batch_rows * self.workers):
            raise ValueError(
                f"batch_rows {self.batch_rows} is not a multiple of micro_batch_rows {self.micro_batch_rows} x workers {self.workers}"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainingConfig":
        if self.prompts == "alpaca" and self.roles != ("solve",):
            raise ValueError(f"prompts alpaca has the role solve alone, not roles {list(self.roles)}")
        if self.domain_tags and not {"sample", "reverse"} & set(self.roles):
            raise ValueError(f"domain_tags begin programs, which roles {list(self.roles)} do not learn: leave it out")
        if self.early_stop_after and not (self.heldout_fraction and self.evaluate_every_steps):
            raise ValueError("early_stop_after needs heldout_fraction and evaluate_every_steps")
        if self.evaluate_every_steps and not self.heldout_fraction:
            raise ValueError("evaluate_every_steps needs heldout_fraction")
        if self.offload == "cpu" and not self.zero_stage:
            raise ValueError("offload cpu needs zero_stage 1, 2 or 3")
        if self.offload == "nvme" and not (self.zero_stage == 3 and self.nvme_dir):
            raise ValueError("offload nvme needs zero_stage 3 and nvme_dir, a folder on each node's own disk")
        if self.offload == "nvme" and self.checkpoint_every_steps:  # DeepSpeed 0.19 reads AdamW's moments back as zeros, without a word
            raise ValueError("offload nvme cannot go on from checkpoints: set checkpoint_every_steps null, or take offload cpu")
        if self.nvme_dir and self.offload != "nvme":
            raise ValueError(f"nvme_dir {self.nvme_dir} needs offload nvme: nothing else is written there")
        if self.liger and not self.gpus_per_worker:
            raise ValueError("liger needs gpus_per_worker 1: its kernels run on GPUs alone")
        if self.flash_attention and not (self.gpus_per_worker and self.dtype == "bfloat16"):
            raise ValueError("flash_attention true needs gpus_per_worker 1 and dtype bfloat16: its kernel has no others")
        return self


class TrainingsConfig(Strict):
    codegen: TrainingConfig
    student: TrainingConfig
