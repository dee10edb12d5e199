"""The stages of a config in their order, each with the rows that the one before keeps. Pure; nothing is run or read.

Limits: rounds after the first are given the rates of the first, and duplicates of rounds before are not foreseen; engines are taken to
scale with their replicas and with the GPUs of each.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from caco_ray.config import Config
from caco_ray.cost.estimate import Estimate, Work, estimate_stage, estimate_training
from caco_ray.cost.rates import Rates, StageRate, device_of
from caco_ray.errors import ConfigError
from caco_ray.ledger.lineage import target_of
from caco_ray.rounds import bounded, label, places
from caco_ray.stage_config import EXECUTES, MODELS, TRAININGS, is_off, model_of, training_of

_DEVICES = {"gpu": "on GPUs", "cpu": "on CPU", "openai": "at an endpoint", "fake": "of the fake engine"}


@dataclass(frozen=True)
class Seeds:
    """Rows of the seed stage. `without_code`: those of `train` that a model must convert."""

    train: int
    heldout: int
    without_code: int


@dataclass(frozen=True)
class Prices:
    """Of one GPU and of one core for an hour, in one currency. None = not given: it costs nothing."""

    gpu_hour: float | None = None
    cpu_hour: float | None = None

    def of(self, gpu_hours: float | None, cpu_hours: float | None) -> float | None:
        """None without any price, and where the hours are not known."""
        if (self.gpu_hour is None and self.cpu_hour is None) or gpu_hours is None or cpu_hours is None:
            return None
        return gpu_hours * (self.gpu_hour or 0) + cpu_hours * (self.cpu_hour or 0)


@dataclass(frozen=True)
class Plan:
    """Stages in the order in which they run. Sums are over what is known; `unknown` names the stages whose time is not, `unknown_disk`
    those whose disk is not."""

    stages: tuple[Estimate, ...]

    @property
    def seconds(self) -> float:
        return sum(stage.seconds or 0 for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        return sum(stage.gpu_hours or 0 for stage in self.stages)

    @property
    def cpu_hours(self) -> float:
        return sum(stage.cpu_hours or 0 for stage in self.stages)

    @property
    def disk_bytes(self) -> float:
        return sum(stage.disk_bytes or 0 for stage in self.stages)

    @property
    def unknown(self) -> tuple[str, ...]:
        return tuple(stage.label for stage in self.stages if stage.seconds is None)

    @property
    def unknown_disk(self) -> tuple[str, ...]:
        return tuple(stage.label for stage in self.stages if stage.disk_bytes is None)

    @property
    def shipped(self) -> float | None:
        """Rows of the data set; None where the plan ends before it."""
        return next((stage.kept for stage in self.stages if stage.label == "assemble"), None)

    def gpu_hours_of(self, stages: tuple[str, ...]) -> float:
        """Of some stages, in all rounds."""
        return sum(stage.gpu_hours or 0 for stage in self.stages if stage.label.split()[0] in stages)


def make_plan(config: Config, seeds: Seeds, rates: Rates, gpu_speed: float = 1) -> Plan:
    """The stages from `from` to `until`. `gpu_speed`: of the GPUs, as a multiple of those that the rates were measured on.

    Raises:
        ConfigError: a stage has no rate, or one of another kind of device.
    """
    walk, wanted = _Walk(config, seeds, rates, gpu_speed), bounded(config)
    order = places(config.rounds)
    estimates: list[Estimate] = []
    for place in order[: order.index(wanted[-1]) + 1]:
        estimates += (estimate for estimate in walk.at(*place) if place in wanted)
    return Plan(tuple(estimates))


def sampled(config: Config, rate: StageRate) -> tuple[float, int]:
    """Samples that `scale` will draw, and how often it starts its models: with a target (`scale.accept`) once for each pass."""
    target = target_of(config)
    if target is None:
        return config.scale.samples, 1
    each = rate.kept * target.shard_rows
    end = target.standing({at: round((at + 1) * each) - round(at * each) for at in range(math.ceil(target.budget / target.shard_rows))})
    return end.samples, end.rounds


class _Walk:
    """Goes through the stages: what one keeps is what the next is given."""

    def __init__(self, config: Config, seeds: Seeds, rates: Rates, gpu_speed: float) -> None:
        self._config, self._seeds, self._rates, self._gpu_speed = config, seeds, rates, gpu_speed
        self._kept: dict[tuple[int, str], float] = {}  # by round and stage

    def at(self, number: int, stage: str) -> Iterator[Estimate]:
        """One estimate; none for a stage that is off, one for each model that is evaluated."""
        config = self._config
        if is_off(config, stage):
            return
        if stage in TRAININGS:
            yield self._training(number, stage)
        elif stage == "evaluate":
            yield from (self._data_stage(number, stage, f"evaluate {model}") for model in config.evaluate.models)
        elif stage != "report":
            yield self._data_stage(number, stage, stage)

    def _training(self, number: int, stage: str) -> Estimate:
        rate, training = self._rates.training(stage), training_of(self._config, stage)
        self._check_device(f"training.{TRAININGS[stage]}", "gpu" if training.gpus_per_worker else "cpu", rate.device)
        return estimate_training(label(stage, number), rate, training, self._rows_in(number, stage), self._gpu_speed)

    def _data_stage(self, number: int, stage: str, name: str) -> Estimate:
        rate, config = self._rates.stage(name), self._config
        rows_in, starts = sampled(config, rate) if stage == "scale" else (self._rows_in(number, stage), 1)
        fan_out = {"reverse": config.reverse.samples, "solve": config.solve.samples}.get(stage, 1)
        asked = self._seeds.without_code if stage == "unify" else rows_in * fan_out if stage in MODELS else 0
        model = model_of(config, stage) if asked else None
        if model is not None and rate.engine is not None:
            self._check_device(f"models.{MODELS[stage]}", device_of(model), rate.engine.device)
        elif model is not None and rate.is_measured:
            raise ConfigError(f"plan.rates={self._rates.origin}: its {stage} asked no model, this config asks {model.engine} about rows")
        workers = config.sandbox.actors * config.sandbox.workers if stage in EXECUTES else 0
        work = Work(rows_in, fan_out, asked, model, self._shards(stage, rows_in), starts, workers, self._gpu_speed)
        estimate = estimate_stage(label(name, number), rate, work)
        self._kept[number, stage] = estimate.kept
        return estimate

    def _rows_in(self, number: int, stage: str) -> float:
        """Rows that a stage is given. `scale` is given none; see `sampled`."""
        seeds, kept, rounds = self._seeds, self._kept, self._config.rounds
        last = "judge" if self._config.judge.enabled else "solve"
        if stage == "seeds":
            return seeds.train + seeds.heldout
        if stage == "train_codegen":  # from the second round on with what the rounds before it selected
            return kept[1, "unify"] + self._config.own_weight * sum(kept[before, "select"] for before in range(1, number))
        if stage == "assemble":
            return sum(kept[its, last] for its in range(1, rounds + 1))
        if stage in ("unify", "evaluate"):
            return seeds.train if stage == "unify" else seeds.heldout
        parent = {"select": "scale", "reverse": "select", "solve": "reverse", "judge": "solve", "train_student": "assemble"}[stage]
        return kept[number, parent]

    def _shards(self, stage: str, rows: float) -> int:
        """Shards of a stage: it has those of the seeds, or of `scale`."""
        if stage in ("seeds", "unify", "evaluate"):
            return math.ceil((self._seeds.train + self._seeds.heldout) / self._config.seeds.shard_rows)
        return math.ceil((rows if stage == "scale" else self._config.scale.samples) / self._config.scale.shard_rows)

    def _check_device(self, key: str, planned: str, known: str) -> None:
        """Raises ConfigError where the rate is of another kind of device: it would say nothing."""
        if planned != known:
            raise ConfigError(
                f"{key}: this config runs it {_DEVICES[planned]}, but the rates of {self._rates.origin} were taken {_DEVICES[known]}: "
                "give plan.rates=RUN, the folder of a small run of the same kind"
            )
