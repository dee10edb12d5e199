"""What the stages of a run need of a cluster, from its config alone.

The model of `unify` converts seeds without code. It is counted in where the config alone tells that there are some; in files whose rows
may bring code it is known when they have been read.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from caco_ray.cluster.placement import selector
from caco_ray.cluster.room import Pool
from caco_ray.config import Config, SeedsConfig, VllmModel, is_hub_id
from caco_ray.operators import executor
from caco_ray.rounds import bounded
from caco_ray.stage_config import EXECUTES, MODELS, TRAININGS, is_off, model_of, training_of


def stages_of(config: Config) -> tuple[str, ...]:
    """The stages that `from`, `until`, rounds and the switches of the config leave, each once."""
    return tuple(dict.fromkeys(stage for _, stage in bounded(config) if not is_off(config, stage)))


def runs_programs(stages: Iterable[str]) -> bool:
    return any(stage in EXECUTES for stage in stages)


def asks_model(config: Config, stage: str) -> bool:
    """Whether the stage is certain to ask a model."""
    return stage in MODELS and (stage != "unify" or _bring_no_code(config.seeds))


def _bring_no_code(seeds: SeedsConfig) -> bool:
    return "reasoning_gym" in seeds.sources or (seeds.path is not None and seeds.fields.code is None)


def pools(config: Config, stage: str) -> list[Pool]:
    """The actors of a stage that hold cores, GPUs or memory."""
    found = []
    if asks_model(config, stage):
        model = model_of(config, stage)
        found.append(Pool(f"models.{MODELS[stage]}", model.cpus, model.gpus, 0, model.replicas))
    if stage in EXECUTES:
        box = executor(config.sandbox, check_determinism=False)
        found.append(Pool("sandbox", box.cpus, box.gpus, box.memory_mb, box.actors))
    if stage in TRAININGS:
        training, name = training_of(config, stage), f"training.{TRAININGS[stage]}"
        found.append(Pool(name, training.cpus_per_worker, training.gpus_per_worker, 0, training.workers, whole=True))
    return [replace(pool, labels=selector(config.cluster, pool.gpus)) for pool in found]


def drives_gpus(config: Config, stages: Iterable[str]) -> list[str]:
    """Keys of what computes on real GPUs. The fake engine only claims them."""
    users = []
    for stage in stages:
        if asks_model(config, stage) and isinstance(model := model_of(config, stage), VllmModel) and model.gpus:
            users.append(f"models.{MODELS[stage]}")
        if stage in TRAININGS and training_of(config, stage).gpus_per_worker:
            users.append(f"training.{TRAININGS[stage]}")
    return users


@dataclass(frozen=True)
class Loaded:
    """A model that a pool loads from its node: `path` is a folder, or a hub id in the node's cache."""

    key: str
    path: str
    revision: str | None
    pool: Pool

    @property
    def is_folder(self) -> bool:
        return os.path.isabs(self.path)


def models_loaded(config: Config, stages: Iterable[str]) -> list[Loaded]:
    """Models that must lie on the nodes before the run. URLs, the embedded one, and what the run itself makes are left out, and hub ids
    where the nodes may download them."""
    found = [Loaded(*named, pools(config, stage)[0]) for stage in stages for named in _named(config, stage)]
    return [each for each in found if each.is_folder or (is_hub_id(each.path) and not config.cluster.allow_downloads)]


def _named(config: Config, stage: str) -> list[tuple[str, str, str | None]]:
    """Key, path and revision of the models that a stage loads."""
    if stage in TRAININGS:
        key = "base" if stage == "train_codegen" else "student"
        return [(f"models.{key}", getattr(config.models, key), None)]
    if not asks_model(config, stage) or not isinstance(model := model_of(config, stage), VllmModel):
        return []
    own = [(f"models.{MODELS[stage]}.path", model.path, model.revision)]
    if stage == "evaluate":
        own = [("models.student", config.models.student, None)] if "base" in config.evaluate.models else []
    return own + ([(f"models.{MODELS[stage]}.lora", model.lora, None)] if model.lora is not None else [])
