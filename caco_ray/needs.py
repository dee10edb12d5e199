"""What the stages of a run need of a cluster, from its config alone.

The model of `unify` is left out: only seeds without code need it, and that is known when they have been read.
"""

import os
from collections.abc import Iterable
from dataclasses import replace

from caco_ray.config import STAGES, Config, VllmModel
from caco_ray.operators import executor
from caco_ray.placement import selector
from caco_ray.room import Pool
from caco_ray.stage_config import EXECUTES, MODELS, TRAININGS, model_of, training_of

_MODELS = {stage: key for stage, key in MODELS.items() if stage != "unify"}


def stages_of(config: Config) -> tuple[str, ...]:
    """The stages that `from`, `until` and the switches of the config leave."""
    first = STAGES.index(config.from_stage) if config.from_stage else 0
    last = STAGES.index(config.until) if config.until else len(STAGES) - 1
    training = config.training
    off = {"train_codegen": not training.codegen.enabled, "train_student": not training.student.enabled, "judge": not config.judge.enabled}
    return tuple(stage for stage in STAGES[first : last + 1] if not off.get(stage))


def runs_programs(stages: Iterable[str]) -> bool:
    return any(stage in EXECUTES for stage in stages)


def pools(config: Config, stage: str) -> list[Pool]:
    """The actors of a stage that hold cores, GPUs or memory."""
    found = []
    if stage in _MODELS:
        model = model_of(config, stage)
        found.append(Pool(f"models.{_MODELS[stage]}", model.cpus, model.gpus, 0, model.replicas))
    if stage in EXECUTES:
        box = executor(config.sandbox, check_determinism=False)
        found.append(Pool("sandbox", box.cpus, box.gpus, box.memory_mb, box.actors))
    if stage in TRAININGS:
        training = training_of(config, stage)
        found.append(Pool(f"training.{TRAININGS[stage]}", training.cpus_per_worker, training.gpus_per_worker, 0, training.workers))
    return [replace(pool, labels=selector(config.cluster, pool.gpus)) for pool in found]


def drives_gpus(config: Config, stages: Iterable[str]) -> list[str]:
    """Keys of what computes on real GPUs. The fake engine only claims them."""
    users = []
    for stage in stages:
        if stage in _MODELS and isinstance(model := model_of(config, stage), VllmModel) and model.gpus:
            users.append(f"models.{_MODELS[stage]}")
        if stage in TRAININGS and training_of(config, stage).gpus_per_worker:
            users.append(f"training.{TRAININGS[stage]}")
    return users


def model_folders(config: Config, stages: Iterable[str]) -> dict[str, tuple[str, Pool]]:
    """By key: the folder that a model is loaded from, and who loads it. Hub ids, and what the run itself makes, are left out."""
    found = {}
    for stage in stages:
        if stage in _MODELS and isinstance(model := model_of(config, stage), VllmModel) and os.path.isabs(model.path):
            found[f"models.{_MODELS[stage]}.path"] = model.path, pools(config, stage)[0]
    return found
