"""What the stages of a run need of a cluster, from its config alone.

The model of `unify` is left out: only seeds without code need it, and that is known when they have been read.
"""

import os
from collections.abc import Iterable
from dataclasses import replace

from caco_ray.config import STAGES, Config, ModelConfig, TrainingConfig, VllmModel
from caco_ray.operators import executor
from caco_ray.placement import selector
from caco_ray.room import Pool

_MODELS = {"scale": "sampler", "reverse": "reverse", "solve": "solve", "judge": "judge", "evaluate": "evaluate"}
_TRAININGS = {"train_codegen": "codegen", "train_student": "student"}
_SANDBOXES = ("unify", "scale")


def stages_of(config: Config) -> tuple[str, ...]:
    """The stages that `from`, `until` and the switches of the config leave."""
    first = STAGES.index(config.from_stage) if config.from_stage else 0
    last = STAGES.index(config.until) if config.until else len(STAGES) - 1
    training = config.training
    off = {"train_codegen": not training.codegen.enabled, "train_student": not training.student.enabled, "judge": not config.judge.enabled}
    return tuple(stage for stage in STAGES[first : last + 1] if not off.get(stage))


def runs_programs(stages: Iterable[str]) -> bool:
    return any(stage in _SANDBOXES for stage in stages)


def pools(config: Config, stage: str) -> list[Pool]:
    """The actors of a stage that hold cores, GPUs or memory."""
    found = []
    if stage in _MODELS:
        model = _model(config, stage)
        found.append(Pool(f"models.{_MODELS[stage]}", model.cpus, model.gpus, 0, model.replicas))
    if stage in _SANDBOXES:
        box = executor(config.sandbox, check_determinism=False)
        found.append(Pool("sandbox", box.cpus, box.gpus, box.memory_mb, box.actors))
    if stage in _TRAININGS:
        training = _training(config, stage)
        found.append(Pool(f"training.{_TRAININGS[stage]}", training.cpus_per_worker, training.gpus_per_worker, 0, training.workers))
    return [replace(pool, labels=selector(config.cluster, pool.gpus)) for pool in found]


def drives_gpus(config: Config, stages: Iterable[str]) -> list[str]:
    """Keys of what computes on real GPUs. The fake engine only claims them."""
    users = []
    for stage in stages:
        if stage in _MODELS and isinstance(model := _model(config, stage), VllmModel) and model.gpus:
            users.append(f"models.{_MODELS[stage]}")
        if stage in _TRAININGS and _training(config, stage).gpus_per_worker:
            users.append(f"training.{_TRAININGS[stage]}")
    return users


def model_folders(config: Config, stages: Iterable[str]) -> dict[str, tuple[str, Pool]]:
    """By key: the folder that a model is loaded from, and who loads it. Hub ids, and what the run itself makes, are left out."""
    found = {}
    for stage in stages:
        if stage in _MODELS and isinstance(model := _model(config, stage), VllmModel) and os.path.isabs(model.path):
            found[f"models.{_MODELS[stage]}.path"] = model.path, pools(config, stage)[0]
    return found


def _model(config: Config, stage: str) -> ModelConfig:
    model: ModelConfig = getattr(config.models, _MODELS[stage])
    return model


def _training(config: Config, stage: str) -> TrainingConfig:
    training: TrainingConfig = getattr(config.training, _TRAININGS[stage])
    return training
