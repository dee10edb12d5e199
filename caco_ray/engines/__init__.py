"""Language-model engines behind one contract (`base.Engine`). Nothing heavy is imported before an engine is built."""

from collections.abc import Callable
from typing import Any

from caco_ray.config import FakeModel, ModelConfig, OpenAiModel, VllmModel
from caco_ray.engines.base import Completion, Engine, EngineStats, Prompt
from caco_ray.errors import ModelError

__all__ = ["Completion", "Engine", "EngineStats", "Prompt", "build_engine"]


def build_engine(model: ModelConfig, *, path: str | None, seed: int) -> Engine:
    """Load the model or connect to the endpoint. `path` is the folder or hub id that `model.path` stands for (vllm only).

    Raises:
        ConfigError: a value of the model's configuration is wrong.
        ModelError: the model cannot be loaded, or the endpoint cannot be used.
        EngineError: the engine died while it started.
    """
    return ENGINES[model.engine](model, path, seed)


def _fake(model: FakeModel, path: str | None, seed: int) -> Engine:
    from caco_ray.engines.fake import FakeEngine

    return FakeEngine(model, seed=seed)


def _openai(model: OpenAiModel, path: str | None, seed: int) -> Engine:
    from caco_ray.engines.openai import OpenAiEngine

    return OpenAiEngine(model)


def _vllm(model: VllmModel, path: str | None, seed: int) -> Engine:
    from caco_ray.engines.vllm import VllmEngine

    if not path:
        raise ModelError(f"model {model.path}: no folder is known for it")
    return VllmEngine(model, path=path, seed=seed)


ENGINES: dict[str, Callable[[Any, str | None, int], Engine]] = {"fake": _fake, "openai": _openai, "vllm": _vllm}
