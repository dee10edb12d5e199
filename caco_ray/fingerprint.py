"""What the rows of a stage depend on: its part of the config, and the fingerprints of the stages before it.

How many processes or GPUs make them is left out: a run may be resumed on another cluster. Two configs with one fingerprint make the
same data set, up to what an engine promises about reproducibility.
"""

import hashlib
import json
from functools import lru_cache
from typing import Any

import fsspec

from caco_ray.config import Config, ModelConfig, TrainingConfig
from caco_ray.prompts import Role, prompt_name
from caco_ray.rounds import REPEATED
from caco_ray.seeds.builtin import builtin_digest
from caco_ray.seeds.files import READ_ERRORS, unreadable
from caco_ray.training.placement import SAME_MODEL

FORMAT_VERSION = 7  # raise when a stage makes other rows from the same config

PARENTS: dict[str, tuple[str, ...]] = {
    "seeds": (),
    "unify": ("seeds",),
    "train_codegen": ("unify",),
    "scale": ("train_codegen",),
    "select": ("scale", "unify"),
    "reverse": ("select",),
    "solve": ("reverse",),
    "judge": ("solve",),
    "assemble": ("judge",),
    "train_student": ("assemble",),
    "evaluate": ("train_student", "seeds"),
}

_PLACEMENT = {
    "replicas", "tensor_parallel", "pipeline_parallel", "gpus", "cpus", "cpu_threads", "kv_cache_gb", "gpu_memory_fraction",
    "max_num_seqs", "enforce_eager", "base_url", "max_concurrency", "timeout_s", "max_retries", "api_key_env", "seconds_per_token",
    "load_timeout_s", "stall_timeout_s", "max_tokens_field",
}  # fmt: skip


def settings(config: Config, stage: str, number: int = 1) -> dict[str, Any]:
    """The part of the config that the rows of `stage` in round `number` depend on, as JSON values."""
    sandbox = config.sandbox.model_dump(exclude={"actors", "workers"})
    protected = {"select": config.select.model_dump(), "files": [_digest(path) for path in config.select.evaluation_paths]}
    makers: dict[str, dict[str, Any]] = {
        "seeds": {"seeds": config.seeds.model_dump(), "builtin": builtin_digest(), "file": _digest(config.seeds.path)},
        "unify": {
            "model": _model(config.models.unify, "unify"),
            "sampling": config.unify.sampling.model_dump(),
            "sandbox": sandbox,
            "filters": config.filters.model_dump(),
            **protected,
        },
        "train_codegen": {"base": config.models.base, "training": _training(config.training.codegen)},
        "scale": {
            "scale": config.scale.model_dump(),
            "model": _model(config.models.sampler, "sample"),
            "sampling": config.sampling.model_dump(),
            "sandbox": sandbox,
            "filters": config.filters.model_dump(),
        },
        "select": protected,
        "reverse": {
            "reverse": config.reverse.model_dump(),
            "model": _model(config.models.reverse, "reverse"),
            "ngram": config.select.ngram,
        },
        "solve": {"solve": config.solve.model_dump(), "model": _model(config.models.solve, "solve")},
        "judge": {"judge": config.judge.model_dump(), "model": _model(config.models.judge, "judge") if config.judge.enabled else None},
        "assemble": {},
        "train_student": {"base": config.models.student, "training": _training(config.training.student)},
        "evaluate": {
            "evaluate": config.evaluate.model_dump(),
            "model": _model(config.models.evaluate, "solve"),
            "base": config.models.student,
            "base_prompt": prompt_name("solve", "instruct"),  # where it has a chat template, see evaluation/base_model.py
        },
    }
    return {"seed": config.seed, **json.loads(json.dumps(makers[stage])), **_of_rounds(config, stage, number)}


def _of_rounds(config: Config, stage: str, number: int) -> dict[str, Any]:
    """Nothing in round 1 of `rounds=1`: its data sets are the same as those of a run without rounds."""
    if stage in REPEATED and number > 1:
        return {"round": number} | ({"own_weight": config.own_weight} if stage == "train_codegen" else {})
    return {"rounds": config.rounds} if stage == "assemble" and config.rounds > 1 else {}


def fingerprint(config: Config, stage: str, number: int = 1) -> str:
    """16 hex digits over the settings of the stage in round `number` and of all stages before it."""
    body = {
        "format": FORMAT_VERSION,
        "stage": stage,
        "settings": settings(config, stage, number),
        "parents": [fingerprint(config, parent, its) for parent, its in _parents(config, stage, number)],
    }
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=8).hexdigest()


def _parents(config: Config, stage: str, number: int) -> list[tuple[str, int]]:
    """With their rounds. What the last round depends on covers the rounds before it."""
    number = number if stage in REPEATED else config.rounds
    before = [("select", number - 1)] if stage == "train_codegen" and number > 1 else []
    return [(parent, number) for parent in PARENTS[stage]] + before


def _model(model: ModelConfig, role: Role) -> dict[str, Any]:
    return {**model.model_dump(exclude=_PLACEMENT), "prompt": prompt_name(role, model.prompts)}


def _training(training: TrainingConfig) -> dict[str, Any]:
    return training.model_dump(exclude=SAME_MODEL)


def _digest(path: str | None) -> str | None:
    return None if path is None else file_digest(path)


def file_digest(path: str) -> str:
    """16 hex digits of what a file holds.

    Raises:
        SeedError: it cannot be read.
    """
    try:
        filesystem, inner = fsspec.core.url_to_fs(path)
        return _digest_of(path, json.dumps(filesystem.info(inner), sort_keys=True, default=str))
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


@lru_cache(maxsize=64)
def _digest_of(path: str, state: str) -> str:
    """`state` (size, time, ETag) tells when a file must be read again."""
    digest = hashlib.blake2b(digest_size=8)
    with fsspec.open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
