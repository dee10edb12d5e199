"""The ledger of a run: where each row came from and what it cost, read from the committed data sets.

Shard `i` of a stage is made of shard `i` of the stage before in the same round and of nothing else (the shipped data set has the shards of
all rounds, one round after the other). So lineage is a join on ids, shard by shard: `audit.py` checks it for all rows, `trace.py` shows it
for one. Only `seeds -> unify` and `scale -> ...` are chains of rows: between them stands a model, which is trained on all kept rows
of `unify`.

Every cost is counted once, in the stage that caused it: later stages carry the columns of earlier ones along, and those copies do not
count. Work that was lost with a killed process, and what pools held while they were idle, is in no row: `balance` says how much.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from caco_ray.config import Config, load_config
from caco_ray.errors import ConfigError, RunDirError
from caco_ray.ledger.held import HELD
from caco_ray.rounds import REPEATED, label, places
from caco_ray.run import FOLDERS, folder_of
from caco_ray.schema import CODE_COT, EVALUATED, JUDGED, PROBLEM, PROGRAM, SELECTED, SHIPPED, SOLUTION, Row
from caco_ray.source import Joined, KeptRows, Mapped, SampleRange, Source
from caco_ray.stage_config import EXECUTES, ROLES, TRAININGS, is_off
from caco_ray.stages.assemble import shipped_row
from caco_ray.store import Dataset, Folder
from caco_ray.store.dataset import is_closed
from caco_ray.store.json_file import damaged, read_json
from caco_ray.target import Target


@dataclass(frozen=True)
class Cost:
    """What rows cost. `cpu_s` and `gpu_s`: cores and GPUs that an engine held for them, and CPU seconds of their programs."""

    prompt_tokens: int = 0
    tokens: int = 0
    cpu_s: float = 0.0
    gpu_s: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.prompt_tokens + other.prompt_tokens, self.tokens + other.tokens, self.cpu_s + other.cpu_s, self.gpu_s + other.gpu_s
        )

    def __str__(self) -> str:
        return f"{self.prompt_tokens:,} prompt tokens, {self.tokens:,} tokens, {self.cpu_s:,.3f} CPU s, {self.gpu_s:,.3f} GPU s"


@dataclass(frozen=True)
class Step:
    """A closed data set of a run. `label` is the stage's name, with the model's for evaluations and its round; seeds have no source."""

    label: str
    stage: str
    folder: Folder
    source: Source | None
    round: int = 1


def read_config(run: Folder) -> Config:
    """The config that a run was made with.

    Raises:
        RunDirError: no run there, or its config is damaged.
        ConfigError: another version of the code wrote it.
    """
    if not run.exists("config.json"):
        raise RunDirError(f"{run}: not a run (no config.json there)")
    try:
        return load_config(read_json(run, "config.json"))
    except ConfigError as error:
        raise ConfigError(f"{run}/config.json: {error}") from None


def source_of(stage: str, config: Config, run: Folder, number: int = 1) -> Source:
    """Where the rows of a stage in round `number` come from: the one place that says which stage reads which, and how many children a
    row has.

    Raises:
        RunDirError: a later round, and `scale` of a round before it is not complete.
    """
    if stage == "unify":
        return KeptRows(stage, run / FOLDERS["seeds"], CODE_COT, split="train")
    if stage == "scale":
        return SampleRange(stage, config.scale.samples, config.scale.shard_rows, PROGRAM, _samples_before(run, number))
    if stage == "select":
        return KeptRows(stage, folder_of(run, "scale", number), SELECTED, parent_column="program_id")
    if stage == "reverse":
        return KeptRows(stage, folder_of(run, "select", number), PROBLEM, fan_out=config.reverse.samples)
    if stage == "solve":
        return KeptRows(stage, folder_of(run, "reverse", number), SOLUTION, fan_out=config.solve.samples, parent_column="problem_id")
    if stage == "judge":
        return KeptRows(stage, folder_of(run, "solve", number), JUDGED, parent_column="solution_id")
    if stage == "assemble":
        rounds = tuple(_shipped_of(config, run, its) for its in range(1, config.rounds + 1))
        return Joined(rounds) if len(rounds) > 1 else rounds[0]
    assert stage == "evaluate", stage
    return KeptRows(stage, run / FOLDERS["seeds"], EVALUATED, split="heldout")


def _samples_before(run: Folder, number: int) -> int:
    """Samples are numbered through all rounds: ids, and the seeds that are drawn from them, differ from round to round."""
    return sum(Dataset(folder_of(run, "scale", before)).totals.rows for before in range(1, number))


def _shipped_of(config: Config, run: Folder, number: int) -> Source:
    last, column = ("judge", None) if config.judge.enabled else ("solve", "solution_id")
    return Mapped(KeptRows("assemble", folder_of(run, last, number), JUDGED, parent_column=column), SHIPPED, shipped_row)


def target_of(config: Config) -> Target | None:
    """The target that `scale` samples for, if the config has one."""
    scale = config.scale
    if scale.accept is None or scale.budget is None:
        return None
    return Target(scale.accept, scale.budget, scale.samples, scale.shard_rows)


def steps(run: Folder, config: Config) -> Iterator[Step]:
    """The closed data sets of a run, in the order of the loop."""
    folders = {(label(stage, number), stage, number): folder_of(run, stage, number) for number, stage in _with_rows(config)}
    folders |= {(f"evaluate {model}", "evaluate", 1): run / FOLDERS["evaluate"] / model for model in config.evaluate.models}
    for (name, stage, number), folder in folders.items():
        if is_closed(folder):
            yield Step(name, stage, folder, _closed_source(stage, config, run, number), number)


def stages_with_rows(config: Config) -> tuple[str, ...]:
    """Labels of the data sets from the seeds to the shipped rows."""
    return tuple(label(stage, number) for number, stage in _with_rows(config))


def _with_rows(config: Config) -> list[tuple[int, str]]:
    without = {*TRAININGS, "evaluate", "report"}
    return [(number, stage) for number, stage in places(config.rounds) if stage not in without and not is_off(config, stage)]


def place_of(step: Step, shard: int) -> tuple[int, int]:
    """Round and shard of the rows that shard `shard` of a step was made of."""
    if isinstance(step.source, Joined):
        part, its = step.source.place(shard)
        return part + 1, its
    return step.round, shard


def shard_at(step: Step, place: tuple[int, int]) -> int | None:
    """The shard of a step that has to do with a place; None where no row of the step has."""
    number, shard = place
    if isinstance(step.source, Joined):
        return step.source.first_shard(number - 1) + shard
    return shard if step.round == number or step.stage not in REPEATED else None


def cost_columns(stage: str) -> dict[str, list[str]]:
    """Field of `Cost` -> the columns that a stage fills itself."""
    role = ROLES.get(stage)
    columns = {name: [f"{role}_{name}"] for name in ("prompt_tokens", "tokens", "cpu_s", "gpu_s")} if role else {}
    if stage in EXECUTES:
        columns["cpu_s"] = [*columns["cpu_s"], "cpu_s"]
    return columns


def cost_of(stage: str, rows: pa.Table) -> Cost:
    """What a stage spent on rows of its data set."""
    return Cost(**{name: sum(pc.sum(rows[column]).as_py() or 0 for column in columns) for name, columns in cost_columns(stage).items()})


def cost_of_row(stage: str, row: Row) -> Cost:
    """What a stage spent on one row."""
    return Cost(**{name: sum(row[column] or 0 for column in columns) for name, columns in cost_columns(stage).items()})


def held_by(run: Folder) -> dict[str, Cost]:
    """What the pools of each stage held in all executions, by its label; empty for a run of before this was recorded.

    Raises:
        RunDirError: one of the files is damaged.
    """
    folder, held = run / HELD, dict[str, Cost]()
    names = [name for name in folder.names() if name.endswith(".json")]
    for name, data in zip(names, folder.read_many(names), strict=True):
        try:
            body = json.loads(data)
            its_label, cost = body["label"], Cost(cpu_s=body["cpu_s"], gpu_s=body["gpu_s"])
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(folder, name, error) from error
        held[its_label] = held.get(its_label, Cost()) + cost
    return held


def balance(held: dict[str, Cost], rows: Cost) -> str:
    """Where what was held went, in words. Programs count with the CPU seconds that they used, engines with what they held while busy."""
    trained = sum((cost for label, cost in held.items() if label.split()[0] in TRAININGS), Cost())
    whole = sum(held.values(), Cost())
    cpu_s, gpu_s = (getattr(whole, name) - getattr(trained, name) - getattr(rows, name) for name in ("cpu_s", "gpu_s"))
    named = {"for these rows": rows, "for trainings": trained, "lost or idle": Cost(cpu_s=max(0.0, cpu_s), gpu_s=max(0.0, gpu_s))}
    parts = ", ".join(f"{cost.cpu_s:,.0f} CPU s and {cost.gpu_s:,.0f} GPU s {name}" for name, cost in named.items())
    return f"the run held {whole.cpu_s:,.0f} CPU s and {whole.gpu_s:,.0f} GPU s: {parts}"


def _closed_source(stage: str, config: Config, run: Folder, number: int) -> Source | None:
    if stage == "seeds":
        return None
    source, target = source_of(stage, config, run, number), target_of(config)
    if isinstance(source, SampleRange) and target is not None:
        kept = {entry.shard: entry.totals.kept for entry in Dataset(folder_of(run, stage, number)).entries}
        return replace(source, samples=target.standing(kept).samples)
    return source
