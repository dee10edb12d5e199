"""What a config's models and trainings have to do with time: shared by those who measure and those who plan."""

from caco_ray.config import ModelConfig, TrainingConfig


def size_of(model: ModelConfig) -> int:
    """GPUs of one replica. Without any 1: how fast it is does not follow from the cores that it claims."""
    return model.gpus or 1


def replicas_at_work(model: ModelConfig, shards: int) -> int:
    """Replicas that find a shard to work on."""
    return max(1, min(model.replicas, shards))


def passes(training: TrainingConfig, examples: float) -> float:
    """Examples seen, over all epochs."""
    seen = examples * training.epochs
    return min(seen, training.max_steps * training.batch_rows) if training.max_steps else seen
