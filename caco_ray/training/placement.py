"""Settings that say how a training is carried out, and not what it makes."""

# With these changed a training still makes the same model, but for rounding: a run takes its folder for the same stage's.
SAME_MODEL = {
    "workers", "gpus_per_worker", "cpus_per_worker", "micro_batch_rows", "zero_stage", "offload", "activation_checkpointing",
    "checkpoint_every_steps", "nvme_dir", "peak_tflops", "liger", "flash_attention", "min_steps",
}  # fmt: skip
# With these changed it also goes on from its checkpoints. The others say how a checkpoint is cut: one of another ZeRO stage, or of states
# that lay elsewhere, cannot be read.
SAME_CHECKPOINTS = SAME_MODEL - {"zero_stage", "offload"}
