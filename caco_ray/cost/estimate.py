"""One stage: its rate x its rows. Pure.

A stage holds its actors from start to end: GPU-hours and CPU-hours are what is held (and paid for), not what is busy. Stages whose work is
done by tasks, which claim no core, hold none. An unknown rate makes an unknown time, never a zero.
"""

from dataclasses import dataclass

from caco_ray.config import ModelConfig, TrainingConfig
from caco_ray.cost.rates import EngineRate, StageRate, TrainRate
from caco_ray.cost.work import passes, replicas_at_work, size_of

HOUR_S = 3600.0


@dataclass(frozen=True)
class Estimate:
    """One stage. None = not known. `gpus`, `cpus`: held by its actors from start to end; `seconds`: wall time; tokens: read and written."""

    label: str
    rows_in: float
    rows: float  # children of those that came in, or examples of a training
    kept: float
    seconds: float | None
    gpus: float = 0
    cpus: float = 0
    prompt_tokens: float | None = None
    tokens: float | None = None
    disk_bytes: float | None = None

    @property
    def gpu_hours(self) -> float | None:
        return _hours(self.gpus, self.seconds)

    @property
    def cpu_hours(self) -> float | None:
        return _hours(self.cpus, self.seconds)


@dataclass(frozen=True)
class Work:
    """What a data stage has to do. `asked`: rows that go to `model` (None: no row needs one); `starts`: how often its actors start."""

    rows_in: float
    fan_out: int = 1
    asked: float = 0
    model: ModelConfig | None = None
    shards: int = 1
    starts: int = 1
    sandbox_workers: int = 0  # programs at once; 0 = the stage runs none
    gpu_speed: float = 1  # of our GPUs, as a multiple of those that were measured

    @property
    def rows(self) -> float:
        return self.rows_in * self.fan_out


def estimate_stage(label: str, rate: StageRate, work: Work) -> Estimate:
    """Rows, tokens, time, disk and holdings of a data stage."""
    model, engine = work.model, rate.engine
    read, written = (engine.prompt_tokens, engine.tokens) if engine else (None, None)
    return Estimate(
        label=label,
        rows_in=work.rows_in,
        rows=work.rows,
        kept=rate.kept_of(work.rows),
        seconds=_seconds(rate, work),
        gpus=model.gpus * model.replicas if model else 0,
        cpus=(model.cpus * model.replicas if model else 0) + work.sandbox_workers,
        prompt_tokens=_times(read, work.asked) if model else 0,
        tokens=_times(written, work.asked) if model else 0,
        disk_bytes=_times(rate.row_bytes, work.rows),
    )


def estimate_training(label: str, rate: TrainRate, training: TrainingConfig, rows: float, gpu_speed: float = 1) -> Estimate:
    """A training on `rows` rows. What it reads are the tokens of all epochs."""
    examples = rows * rate.examples
    tokens = _times(rate.tokens, passes(training, examples))
    speed = training.workers * (gpu_speed if training.gpus_per_worker else 1)
    return Estimate(
        label=label,
        rows_in=rows,
        rows=examples,
        kept=examples,
        seconds=None if tokens is None or rate.token_s is None else rate.fixed_s + tokens * rate.token_s / speed,
        gpus=training.workers * training.gpus_per_worker,
        cpus=training.workers * training.cpus_per_worker,
        prompt_tokens=tokens,
        tokens=0,
        disk_bytes=rate.model_bytes,
    )


def engine_seconds(rate: EngineRate, model: ModelConfig, asked: float, shards: int, gpu_speed: float = 1) -> float:
    """How long the replicas of a model are busy with `asked` rows: twice the replicas, or GPUs in each, take half the time."""
    speed = gpu_speed if model.gpus else 1
    return rate.seconds * rate.size / size_of(model) * asked / replicas_at_work(model, shards) / speed


def _seconds(rate: StageRate, work: Work) -> float | None:
    parts = []  # side by side: the slowest counts
    if work.model is not None:
        parts.append(engine_seconds(rate.engine, work.model, work.asked, work.shards, work.gpu_speed) if rate.engine else None)
    if work.sandbox_workers and (rate.program_s is not None or work.model is None):
        parts.append(_times(rate.program_s, work.rows / work.sandbox_workers))
    if not parts:
        parts.append(_times(rate.row_s, work.rows))
    known = [part for part in parts if part is not None]
    return rate.fixed_s * work.starts + max(known) if len(known) == len(parts) else None


def _times(each: float | None, count: float) -> float | None:
    return None if each is None else each * count


def _hours(held: float, seconds: float | None) -> float | None:
    if not held:
        return 0.0
    return None if seconds is None else held * seconds / HOUR_S
