"""What a config's models and trainings have to do with time: shared by those who measure and those who plan."""

from caco_ray.config import Config, ModelConfig, TrainingConfig

# Stage -> key under `models` or `training`.
MODELS = {"unify": "unify", "scale": "sampler", "reverse": "reverse", "solve": "solve", "judge": "judge", "evaluate": "evaluate"}
TRAININGS = {"train_codegen": "codegen", "train_student": "student"}


def model_of(config: Config, stage: str) -> ModelConfig:
    model: ModelConfig = getattr(config.models, MODELS[stage])
    return model


def training_of(config: Config, stage: str) -> TrainingConfig:
    training: TrainingConfig = getattr(config.training, TRAININGS[stage])
    return training


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
