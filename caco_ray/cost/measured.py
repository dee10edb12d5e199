"""Rates from a run: what its manifests and training results say, nothing else is read.

An engine charges its busy time to its rows (`stages/meter.py`), so a stage's time comes apart: the busy time of its engines grows with the
rows, what is left (starting Ray's actors, loading the model, the end) does not: a stage has it once, or once in each pass of its target. A
training's time outside of its steps is its fixed part.

Limits: the time of a stage is that of the invocation that closed it, so a run that was interrupted gives too little; a busy engine whose
batch is not full (few rows) costs more per row than a full one; finding duplicates and exporting JSON Lines are not in a stage's time.
"""

import math
from collections.abc import Iterator
from itertools import accumulate

from caco_ray.config import Config, OpenAiModel, TrainingConfig
from caco_ray.cost.rates import EngineRate, Rates, StageRate, TrainRate, device_of
from caco_ray.cost.work import passes, replicas_at_work, size_of
from caco_ray.errors import ConfigError, RunDirError
from caco_ray.ledger.lineage import read_config, target_of
from caco_ray.run import FOLDERS
from caco_ray.stage_config import EXECUTES, MODELS, ROLES, TRAININGS, model_of, training_of
from caco_ray.store import Dataset, Folder, Totals
from caco_ray.store.dataset import SUCCESS_FILE, is_closed
from caco_ray.store.json_file import damaged, read_json

TASKS = 4  # shards that tasks outside of actors work on at once (`stage.py`)
_TRAINED_ON = {"train_codegen": "unify", "train_student": "assemble"}


def measured(run: Folder) -> Rates:
    """Rates of all stages that are closed in a run (its first round).

    Raises:
        RunDirError: no run there, a damaged one, or one of an older version.
        ConfigError: no stage of it is complete.
    """
    config = read_config(run)
    sets = {label: Dataset(folder) for label, folder in data_sets(run, config) if is_closed(folder)}
    stages = {label: _stage(label, dataset, config, run) for label, dataset in sets.items()}
    trainings = {
        stage: _training(run / FOLDERS[stage], training_of(config, stage), stages.get(parent))
        for stage, parent in _TRAINED_ON.items()
        if is_closed(run / FOLDERS[stage])
    }
    if not stages:
        raise ConfigError(f"plan.rates={run}: no stage of this run is complete")
    doubts = tuple(line for label, rate in stages.items() if rate and (line := _doubt(label, sets[label], rate)))
    return Rates(origin=str(run), stages={label: rate for label, rate in stages.items() if rate}, trainings=trainings, doubts=doubts)


def data_sets(run: Folder, config: Config) -> Iterator[tuple[str, Folder]]:
    """Label and folder of each data set that the first round of a run makes."""
    for stage, name in FOLDERS.items():
        if stage == "evaluate":
            yield from ((f"evaluate {model}", run / name / model) for model in config.evaluate.models)
        elif name and stage not in TRAININGS:
            yield stage, run / name


def _stage(label: str, dataset: Dataset, config: Config, run: Folder) -> StageRate | None:
    """None where no row went through: nothing was measured."""
    stage, totals = label.split()[0], dataset.totals
    if not totals.rows:
        return None
    engine = _engine(stage, dataset, config, run)
    program_s = totals.sums.get("wall_s", 0.0) / totals.rows if stage in EXECUTES else 0.0
    row_s = 0.0 if engine or program_s else _task_seconds(stage, dataset) / totals.rows
    busy_s = max(
        engine.seconds * _asked(stage, totals, run) / replicas_at_work(model_of(config, stage), dataset.info.shards) if engine else 0.0,
        program_s * totals.rows / (config.sandbox.actors * config.sandbox.workers),
        row_s * totals.rows,
    )
    return StageRate(
        source=f"measured, {totals.rows:,} rows in {dataset.seconds:,.1f} s",
        kept=totals.kept / totals.rows,
        at_rows=totals.rows,
        novelty=_novelty(dataset) if stage == "select" else 1,
        fixed_s=max(0.0, dataset.seconds - busy_s) / _starts(stage, dataset, config),
        engine=engine,
        program_s=program_s,
        row_s=row_s,
        row_bytes=_row_bytes(stage, dataset),
    )


def _starts(stage: str, dataset: Dataset, config: Config) -> int:
    """How often the engines of a closed stage were started: for a target once in each pass."""
    target = target_of(config) if stage == "scale" else None
    return target.standing({entry.shard: entry.totals.kept for entry in dataset.entries}).rounds if target else 1


def _row_bytes(stage: str, dataset: Dataset) -> float | None:
    """Of all that lies there for a row: beside the shipped data set its JSON Lines."""
    exported = _folder_bytes(dataset.folder / "jsonl") if stage == "assemble" else 0
    return None if exported is None else (sum(entry.size_bytes for entry in dataset.entries) + exported) / dataset.totals.rows


def _doubt(label: str, dataset: Dataset, rate: StageRate) -> str | None:
    """Engines that were busy for longer than the stage took were so in an earlier invocation."""
    if rate.fixed_s or not rate.engine:
        return None
    return (
        f"{label}: its engines were busy for longer than the {dataset.seconds:,.0f} s of the invocation that closed it (the run was "
        "interrupted there), so its time before the first row is not known and taken as 0"
    )


def _engine(stage: str, dataset: Dataset, config: Config, run: Folder) -> EngineRate | None:
    """What the engines were busy with for each row that they were asked about."""
    asked = _asked(stage, dataset.totals, run) if stage in MODELS else 0
    if not asked:
        return None
    model, sums, role = model_of(config, stage), dataset.totals.sums, ROLES[stage]
    if f"{role}_cpu_s" not in sums:
        raise RunDirError(f"{dataset.folder}: its manifests do not say how long the engine was busy (made by an older version)")
    return EngineRate(
        device=device_of(model),
        seconds=sums[f"{role}_cpu_s"] / model.cpus / asked,
        size=size_of(model),
        prompt_tokens=sums[f"{role}_prompt_tokens"] / asked,
        tokens=sums[f"{role}_tokens"] / asked,
        model=model.model if isinstance(model, OpenAiModel) else getattr(model, "path", None),
    )


def _asked(stage: str, totals: Totals, run: Folder) -> int:
    """Rows that went to the model: in `unify` the seeds that bring no program."""
    if stage != "unify" or not totals.sums.get("unify_tokens"):
        return 0 if stage == "unify" else totals.rows
    return sum(1 for row in Dataset(run / FOLDERS["seeds"]).rows() if row["split"] == "train" and row["code"] is None)


def _novelty(dataset: Dataset) -> float:
    """Exponent of kept = c x rows ** exponent (Heaps' law), through the kept rows of the first half of the shards and of all.

    Of two rows that are alike the earlier one is kept, so the shards in their order are a curve of what was new.
    """
    rows = list(accumulate(entry.totals.rows for entry in dataset.entries))
    kept = list(accumulate(entry.totals.kept for entry in dataset.entries))
    half = len(rows) // 2 - 1
    if half < 0 or not kept[half] or rows[half] == rows[-1]:
        return 1.0
    return min(1.0, math.log(kept[-1] / kept[half]) / math.log(rows[-1] / rows[half]))


def _task_seconds(stage: str, dataset: Dataset) -> float:
    """What tasks needed for all rows, if `TASKS` of them are at work at once."""
    return dataset.seconds if stage == "seeds" else min(dataset.seconds, sum(entry.seconds for entry in dataset.entries) / TASKS)


def _training(folder: Folder, training: TrainingConfig, data: StageRate | None) -> TrainRate:
    body = read_json(folder, SUCCESS_FILE)
    try:
        metrics, seconds = body["metrics"], float(body["seconds"])
        kept = data.kept * data.at_rows if data and data.at_rows else metrics["examples"]
        return TrainRate(
            source=f"measured, {metrics['tokens']:,} tokens in {metrics['seconds']:,.1f} of {seconds:,.1f} s",
            device="gpu" if training.gpus_per_worker else "cpu",
            fixed_s=max(0.0, seconds - metrics["seconds"]),
            examples=metrics["examples"] / kept,
            tokens=metrics["tokens"] / passes(training, metrics["examples"]),
            token_s=metrics["seconds"] * training.workers / metrics["tokens"],
            model_bytes=_folder_bytes(folder / "model"),
        )
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise damaged(folder, SUCCESS_FILE, error) from error


def _folder_bytes(folder: Folder) -> int | None:
    """Files in a folder on a disk. None on an object store, where they are not looked at."""
    return sum(path.stat().st_size for path in folder.local_path.rglob("*") if path.is_file()) if folder.is_local else None
