"""What one row costs in each stage, and what a stage costs before its first row. From a run (`measured.py`) or from a file.

`null` means that nobody has measured it: what depends on it is shown as unknown and never counted as nothing.
"""

from importlib.resources import files
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from caco_ray.config import ModelConfig, Strict, validate
from caco_ray.errors import ConfigError

Device = Literal["gpu", "cpu", "openai", "fake"]


def device_of(model: ModelConfig) -> Device:
    """What does a model's work: rates of one kind say nothing about another."""
    if model.engine == "vllm":
        return "gpu" if model.gpus else "cpu"
    return model.engine


class EngineRate(Strict):
    """`seconds`: of one replica, on `size` GPUs if it has any, for each row that it is asked about; its busy time, loading left out."""

    device: Device
    seconds: NonNegativeFloat
    size: PositiveFloat = 1
    prompt_tokens: NonNegativeFloat | None = None  # per row
    tokens: NonNegativeFloat | None = None
    model: str | None = None  # whose rate it is


class StageRate(Strict):
    """A data stage. Its time: `fixed_s`, and then its slowest part, for engines, sandboxes and tasks work side by side."""

    source: str  # where the figures come from
    kept: float = Field(ge=0, le=1)  # of `at_rows` rows
    at_rows: PositiveFloat | None = None
    novelty: float = Field(1, ge=0, le=1)  # kept rows grow as rows ** novelty: below 1 where later rows repeat earlier ones
    fixed_s: NonNegativeFloat = 0  # start, loading the model, the end
    engine: EngineRate | None = None
    program_s: NonNegativeFloat | None = None  # of one sandbox worker, per row; null = in the engine's time
    row_s: NonNegativeFloat | None = None  # of everything else, per row
    row_bytes: NonNegativeFloat | None = None  # on disk

    @property
    def is_measured(self) -> bool:
        return self.at_rows is not None

    def kept_of(self, rows: float) -> float:
        """How many of `rows` rows will be kept."""
        if self.novelty == 1 or self.at_rows is None or not rows:
            return rows * self.kept
        return float(min(rows, self.at_rows * self.kept * (rows / self.at_rows) ** self.novelty))


class TrainRate(Strict):
    """A training. `token_s`: worker seconds in steps for each token; null = not known."""

    source: str
    device: Device
    fixed_s: NonNegativeFloat = 0
    examples: PositiveFloat = 1  # per row
    tokens: PositiveFloat | None = None  # per example and epoch
    token_s: PositiveFloat | None = None
    model_bytes: NonNegativeFloat | None = None


class Total(Strict):
    """What a whole run held. `stages`: those that are counted in it."""

    gpu_hours: PositiveFloat
    rows: PositiveInt  # shipped
    stages: tuple[str, ...]


class Rates(Strict):
    """`origin`: the run or file, in words for people; `gpu`: the kind that was measured."""

    origin: str
    gpu: str | None = None
    total: Total | None = None
    stages: dict[str, StageRate] = Field(default_factory=dict)
    trainings: dict[str, TrainRate] = Field(default_factory=dict)
    doubts: tuple[str, ...] = ()  # what speaks against them, in words

    def stage(self, label: str) -> StageRate:
        """Raises ConfigError: there is none."""
        if label not in self.stages:
            raise self._missing(label)
        return self.stages[label]

    def training(self, stage: str) -> TrainRate:
        """Raises ConfigError: there is none."""
        if stage not in self.trainings:
            raise self._missing(stage)
        return self.trainings[stage]

    def _missing(self, stage: str) -> ConfigError:
        return ConfigError(
            f"plan.rates={self.origin}: has no rate of {stage}, which this config needs: give a run that has run it, "
            "end the plan before it (until=...), or switch the stage off"
        )


def published() -> Rates:
    """The paper's rates."""
    return _parse("the paper", files("caco_ray.cost").joinpath("published.yaml").read_text())


def quickstart() -> Rates:
    """Those of the embedded model on 2 cores."""
    return _parse("the quickstart", files("caco_ray.cost").joinpath("quickstart.yaml").read_text())


def read_rates(path: str) -> Rates:
    """A file of the same shape as `published.yaml`.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        return _parse(path, Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"plan.rates={path}: cannot be read ({error})") from error


def _parse(name: str, text: str) -> Rates:
    try:
        body = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"plan.rates={name}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(body, dict):
        raise ConfigError(f"plan.rates={name}: no rates in it; caco_ray/cost/published.yaml shows what they look like")
    try:
        return validate(Rates, {"origin": name, **body})
    except ConfigError as error:
        raise ConfigError(f"plan.rates={name}: {error}") from None
