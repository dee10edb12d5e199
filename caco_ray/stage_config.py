"""Which part of a config, and of a row, belongs to a stage."""

from caco_ray.config import Config, ModelConfig, TrainingConfig
from caco_ray.prompts import Role

# Stage -> key under `models` or `training`.
MODELS = {"unify": "unify", "scale": "sampler", "reverse": "reverse", "solve": "solve", "judge": "judge", "evaluate": "evaluate"}
TRAININGS = {"train_codegen": "codegen", "train_student": "student"}
# Stage -> role of its prompt, which its rows' columns begin with.
ROLES: dict[str, Role] = {
    "unify": "unify", "scale": "sample", "reverse": "reverse", "solve": "solve", "judge": "judge", "evaluate": "solve",
}  # fmt: skip
EXECUTES = ("unify", "scale")


def is_off(config: Config, stage: str) -> bool:
    """Whether a switch of the config leaves the stage out."""
    if stage in TRAININGS:
        return not training_of(config, stage).enabled
    return stage == "judge" and not config.judge.enabled


def model_of(config: Config, stage: str) -> ModelConfig:
    model: ModelConfig = getattr(config.models, MODELS[stage])
    return model


def training_of(config: Config, stage: str) -> TrainingConfig:
    training: TrainingConfig = getattr(config.training, TRAININGS[stage])
    return training
