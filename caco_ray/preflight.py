"""What can be known to be wrong with a run before anything is written or started: a mistake must not surface after hours."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from caco_ray import embedded
from caco_ray.config import Config, ModelConfig, OpenAiModel, SamplingConfig, TrainingConfig, VllmModel, is_hub_id
from caco_ray.engines import vllm_names
from caco_ray.engines.endpoint import check_endpoint, check_request_fields
from caco_ray.engines.memory import check_cache
from caco_ray.engines.model_files import read_config
from caco_ray.engines.model_folder import adapter_rank, check_config, check_model, find_folder
from caco_ray.engines.vllm_names import check_known
from caco_ray.engines.vllm_sampling import check_extra
from caco_ray.engines.vllm_settings import engine_arguments
from caco_ray.errors import ConfigError
from caco_ray.prompts import prompt_name
from caco_ray.rounds import places
from caco_ray.run import Run
from caco_ray.stage_config import MODELS, ROLES
from caco_ray.stages import filters
from caco_ray.store import Folder
from caco_ray.store.reach import check_reachable
from caco_ray.training.base import check_base, check_context


def _sampling(config: Config, stage: str) -> tuple[str, SamplingConfig]:
    """Key and values."""
    if stage == "scale":
        return "sampling", config.sampling
    return f"{stage}.sampling", getattr(config, stage).sampling


def check_run(run: Run, on: tuple[str, ...], wanted: list[str]) -> None:
    """Check the stages `wanted` of this invocation, and that all stages that are `on` and begun belong to this config.

    Raises:
        UserError: one line: what is wrong, where, what to do.
    """
    config = run.config
    if config.run.dir.startswith("memory:"):
        raise ConfigError(f"run.dir={config.run.dir}: the memory of one process, which workers do not see; give a disk or an object store")
    check_values(config, wanted)
    check_reachable(config.run.dir)
    for stage, key in MODELS.items():
        if stage in wanted:
            for model in _models(config, key):
                if stage != "unify" or not _is_far(model):  # it may never be needed: only seeds without code are converted
                    _check_served(run, f"models.{key}", model)
    for stage, training, base in _trained(config):
        if stage in wanted:
            _check_training(config, stage, training, base)
    for number, stage in places(config.rounds):
        if stage in on:
            run.round(number).is_done(stage)


def check_values(config: Config, wanted: Collection[str]) -> None:
    """Check what the config alone tells of the stages `wanted`, wherever they will run.

    Raises:
        ConfigError: one line.
    """
    filters.check_names(config.filters.enabled)
    for stage, key in MODELS.items():
        if stage in wanted:
            model = getattr(config.models, key)
            _check_lengths(f"models.{key}", model, *_sampling(config, stage))
            with _under(f"models.{key}."):
                prompt_name(ROLES[stage], model.prompts)
            if isinstance(model, VllmModel):
                _check_names(f"models.{key}.", model, *_sampling(config, stage))
            if isinstance(model, OpenAiModel):
                sampling_key, sampling = _sampling(config, stage)
                with _under(sampling_key.removesuffix("sampling")):
                    check_request_fields(sampling.extra)
    if "evaluate" in wanted:
        _check_evaluate(config)


@contextmanager
def _under(key: str) -> Iterator[None]:
    """Name the place of a value in the tree, where a check knows the value alone."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{key}{error}") from None


def _check_names(key: str, model: VllmModel, sampling_key: str, sampling: SamplingConfig) -> None:
    """Of vLLM's own arguments, fields and methods; where vLLM is not installed its engine will tell."""
    with _under(key):
        engine_arguments(model.model_copy(update={"lora": None}), model.path, seed=0)
        if model.vllm_args and (known := vllm_names.engine_arguments()):
            check_known("vllm_args.", model.vllm_args, known, "engine argument")
        if model.quantization and (known := vllm_names.quantization_methods()):
            check_known("quantization=", [model.quantization], known, "method")
    if sampling.extra and (known := vllm_names.sampling_fields()):
        with _under(sampling_key.removesuffix("sampling")):
            check_extra(sampling.extra, known, model.gpus)


def _is_far(model: ModelConfig) -> bool:
    return isinstance(model, OpenAiModel) or (isinstance(model, VllmModel) and is_hub_id(model.path))


def _models(config: Config, key: str) -> list[ModelConfig]:
    """What is served under a key of `models`: `evaluate` serves base and student in turn."""
    model: ModelConfig = getattr(config.models, key)
    if key != "evaluate" or not isinstance(model, VllmModel):
        return [model]
    paths = {"base": config.models.student, "student": "run:student"}
    return [model.model_copy(update={"path": paths[name]}) for name in config.evaluate.models]


def _trained(config: Config) -> tuple[tuple[str, TrainingConfig, str], ...]:
    training, models = config.training, config.models
    return ("train_codegen", training.codegen, models.base), ("train_student", training.student, models.student)


def _check_served(run: Run, key: str, model: ModelConfig) -> None:
    if isinstance(model, OpenAiModel):
        check_endpoint(model)
    if not isinstance(model, VllmModel):
        return
    config, name, path = run.config, f"{key}.path", model.path
    if model.lora is not None and not _is_elsewhere(config, f"{key}.lora", model.lora):
        adapter_rank(model.lora)
    is_own = path.startswith("run:")
    if is_own:
        _check_own(run, name, path)
        name, path = ("models.base", config.models.base) if path == "run:codegen" else ("models.student", config.models.student)
    is_elsewhere = _is_elsewhere(config, name, path)
    if not is_own and not is_elsewhere:
        with _under(f"{key}."):
            check_model(model, path)
    known = _known_config(path, model.revision, is_elsewhere)
    if known is not None:
        with _under(f"{key}."):
            check_config(model, path, known)
            check_cache(model, path, known)


def _known_config(path: str, revision: str | None, is_elsewhere: bool) -> dict[str, Any] | None:
    """config.json of a model, where it can be read now."""
    if path == "embedded":
        return embedded.CONFIG
    if is_elsewhere:
        return dict(json.loads(Folder(path).read("config.json"))) if "://" in path else None
    return read_config(find_folder(path, revision))


def _check_lengths(key: str, model: ModelConfig, sampling_key: str, sampling: SamplingConfig) -> None:
    if sampling.max_tokens >= model.max_model_len:
        raise ConfigError(
            f"{sampling_key}.max_tokens={sampling.max_tokens}: leaves no room for a prompt in {key}.max_model_len={model.max_model_len}"
        )


def _check_training(config: Config, stage: str, training: TrainingConfig, base: str) -> None:
    if not training.enabled:
        return
    key = "models.base" if stage == "train_codegen" else "models.student"
    is_elsewhere = _is_elsewhere(config, key, base)
    if not is_elsewhere:
        check_base(base)
    known = _known_config(base, None, is_elsewhere)
    if known is not None:
        with _under(f"training.{stage.removeprefix('train_')}."):
            check_context(base, known, training.max_length)


def _check_evaluate(config: Config) -> None:
    evaluated, model = config.evaluate.models, config.models.evaluate
    if not isinstance(model, VllmModel) and "student" in evaluated:
        raise ConfigError(
            f"models.evaluate.engine={model.engine}: cannot serve what this run trains; use engine vllm, or evaluate.models=[base]"
        )
    if isinstance(model, VllmModel) and model.path != "run:student":
        raise ConfigError(f"models.evaluate.path={model.path}: give models.student: evaluate serves that and run:student")


def _check_own(run: Run, key: str, path: str) -> None:
    """A model of this run: trained by it already, or to be trained."""
    name = path.removeprefix("run:")
    stage = f"train_{name}"
    training = {"train_codegen": run.config.training.codegen, "train_student": run.config.training.student}.get(stage)
    if training is None:
        raise ConfigError(f"{key}={path}: a run trains run:codegen and run:student")
    if not training.enabled and not run.is_done(stage):
        raise ConfigError(f"{key}={path}: this run does not train it (training.{name}.enabled=false) and has not before")


def _is_elsewhere(config: Config, key: str, path: str) -> bool:
    """Whether the model is none that could be looked at now: it comes with the package, by URL, or from the hub or other nodes' caches."""
    if path == "embedded":
        return True
    if "://" in path:
        if not Folder(path).exists("adapter_config.json" if key.endswith(".lora") else "config.json"):
            raise ConfigError(f"{key}={path}: holds no model; give the folder that save_pretrained wrote")
        return True
    if path.startswith("run:") or Path(path).is_absolute():
        return False
    if path.startswith(".") or Path(path).exists():
        raise ConfigError(f"{key}={path}: give an absolute path: workers run in other directories")
    return config.cluster.address != "local" or config.cluster.allow_downloads
