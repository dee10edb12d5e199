"""The numbers of a run: every closed stage with the fate of its rows, its time and its tokens, and whether the counts add up.

Read from the run folder alone (`_SUCCESS`, shipped Parquet), so that a report can be made again at any time and on any machine.
Tokens and CPU seconds are those that the stage itself spent: later stages carry the counters of earlier ones along as columns, and
those copies are not counted. Limit: `seconds` is the time of the invocation that closed the stage; what an interrupted one spent
before is not in it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from caco_ray.report.models import EvaluationReport, TrainingReport, read_evaluations, read_training
from caco_ray.report.rounds import RoundReport, read_rounds
from caco_ray.report.shipped import Shipped, survey
from caco_ray.rounds import FOLDER, label, places
from caco_ray.run import FOLDERS, folder_of
from caco_ray.stage_config import EXECUTES, ROLES, TRAININGS
from caco_ray.stages.vote import UNDRAWN
from caco_ray.store import Dataset, Folder
from caco_ray.store.dataset import SUCCESS_FILE, is_closed
from caco_ray.store.json_file import damaged, modified, read_json

# A stage that starts from all kept rows of another. `unify` and `evaluate` take one split of the seeds, `scale` has no parent rows.
_PARENTS = {"select": "scale", "reverse": "select", "solve": "reverse", "judge": "solve", "assemble": "solve"}


@dataclass(frozen=True)
class StageReport:
    """A closed dataset. `rejected`: rows by reason, the most frequent first; `faults`: what does not add up, in words."""

    name: str
    rows_in: int
    fan_out: int
    rows: int
    kept: int
    rejected: tuple[tuple[str, int], ...]
    quarantined: int
    seconds: float
    prompt_tokens: int = 0
    tokens: int = 0
    cpu_s: float = 0.0
    fingerprint: str = ""
    code_version: str = ""
    faults: tuple[str, ...] = ()

    @property
    def rejections(self) -> int:
        return sum(count for _, count in self.rejected)

    @property
    def undrawn(self) -> int:
        """Rows that nothing was done for, since an earlier solution or problem said the same: they are in no rate."""
        return sum(count for reason, count in self.rejected if reason in UNDRAWN)

    @property
    def drawn(self) -> int:
        return self.rows - self.undrawn

    @property
    def failed(self) -> int:
        """Drawn rows that were rejected."""
        return self.rejections - self.undrawn

    def share(self, reason: str) -> float | None:
        """Of the drawn rows; None for those that were not drawn."""
        return dict(self.rejected)[reason] / self.drawn if self.drawn and reason not in UNDRAWN else None

    @property
    def rows_per_s(self) -> float | None:
        return self.drawn / self.seconds if self.seconds > 0 else None

    @property
    def tokens_per_s(self) -> float | None:
        return self.tokens / self.seconds if self.seconds > 0 and self.tokens else None

    @property
    def kept_share(self) -> float | None:
        return self.kept / self.drawn if self.drawn else None


@dataclass(frozen=True)
class RunReport:
    """All that is closed in a run folder. `not_run`: stages that are switched off, or were not reached.

    Names of stages in rounds after the first end in the round: `scale round 2`.
    """

    folder: str
    stages: tuple[StageReport, ...]
    trainings: tuple[TrainingReport, ...] = ()
    evaluations: tuple[EvaluationReport, ...] = ()
    shipped: Shipped | None = None
    not_run: tuple[str, ...] = ()
    finished: datetime | None = None
    versions: tuple[str, ...] = ()
    rounds: tuple[RoundReport, ...] = ()

    def stage(self, name: str) -> StageReport | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def programs(self) -> tuple[int, int]:
        """Sampled in all rounds, and kept of them."""
        scale = [stage for stage in self.stages if stage.name.split()[0] == "scale"]
        return sum(stage.rows for stage in scale), sum(stage.kept for stage in scale)

    @property
    def fingerprint(self) -> str | None:
        """Of the shipped data set; until there is one, of the last closed stage."""
        stage = self.stage("assemble") or (self.stages[-1] if self.stages else None)
        return stage.fingerprint if stage else None

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages) + sum(training.seconds for training in self.trainings)

    @property
    def tokens(self) -> int:
        return sum(stage.tokens for stage in self.stages)

    @property
    def prompt_tokens(self) -> int:
        return sum(stage.prompt_tokens for stage in self.stages)

    @property
    def faults(self) -> tuple[str, ...]:
        return tuple(f"{stage.name}: {fault}" for stage in self.stages for fault in stage.faults)


def collect(run_folder: Folder, samples: int = 10) -> RunReport:
    """Everything that is closed in a run folder; nothing in it is run or changed.

    `samples` rows of the shipped data set are drawn, the same ones each time.

    Raises:
        RunDirError: a file that a closed stage names is missing or damaged.
    """
    report = collect_counts(run_folder)
    kept = {stage.name: (stage.drawn, stage.kept) for stage in report.stages}
    report = replace(report, rounds=read_rounds(run_folder, kept, _rounds(run_folder)))
    assembled = run_folder / FOLDERS["assemble"]
    return replace(report, shipped=survey(Dataset(assembled), samples)) if report.stage("assemble") else report


def collect_counts(run_folder: Folder) -> RunReport:
    """As `collect`, from the manifests alone: no rows are read, and `shipped` and `rounds` are left out.

    Raises:
        RunDirError: a file that a closed stage names is missing or damaged.
    """
    closed = {name: folder for name, folder in _folders(run_folder) if is_closed(folder)}
    stages = {name: _stage(name, folder) for name, folder in closed.items() if name.split()[0] not in TRAININGS}
    trainings = tuple(read_training(name, folder) for name, folder in closed.items() if name.split()[0] in TRAININGS)
    dates = [date for folder in closed.values() if (date := modified(folder, SUCCESS_FILE))]
    return RunReport(
        folder=str(run_folder),
        stages=tuple(_with_parent(stage, stages) for stage in stages.values()),
        trainings=trainings,
        evaluations=read_evaluations(run_folder / FOLDERS["evaluate"]),
        not_run=tuple(name for name in _labels(run_folder) if not _any_of(name, closed)),
        finished=max(dates, default=None),
        versions=tuple(sorted({stage.code_version for stage in stages.values()} | {training.code_version for training in trainings})),
    )


def _folders(run_folder: Folder) -> Iterator[tuple[str, Folder]]:
    """Stages in the order of the loop; an evaluation is one dataset per evaluated model."""
    for name, (number, stage) in _labels(run_folder).items():
        folder = folder_of(run_folder, stage, number)
        if stage == "evaluate":
            yield from ((f"evaluate {model}", folder / model) for model in ("base", "student"))
        else:
            yield name, folder


def _labels(run_folder: Folder) -> dict[str, tuple[int, str]]:
    return {label(stage, number): (number, stage) for number, stage in places(_rounds(run_folder)) if FOLDERS[stage]}


def _rounds(run_folder: Folder) -> int:
    """As many as were begun."""
    return max([1, *(int(name) for name in run_folder.names(FOLDER) if name.isdecimal())])


def _any_of(name: str, closed: Iterable[str]) -> bool:
    return any(key == name or key.split()[0] == "evaluate" == name for key in closed)


def _stage(name: str, folder: Folder) -> StageReport:
    body = read_json(folder, SUCCESS_FILE)
    try:
        dataset = Dataset(folder)
        totals, version = dataset.totals, str(body["code_version"])
    except (KeyError, TypeError) as error:
        raise damaged(folder, SUCCESS_FILE, error) from error
    stage = name.split()[0]
    role = ROLES.get(stage)
    return StageReport(
        name=name,
        rows_in=totals.rows_in,
        fan_out=dataset.info.fan_out,
        rows=totals.rows,
        kept=totals.kept,
        rejected=tuple(sorted(totals.rejected.items(), key=lambda item: (-item[1], item[0]))),
        quarantined=totals.quarantined,
        seconds=dataset.seconds,
        prompt_tokens=int(totals.sums.get(f"{role}_prompt_tokens", 0)),
        tokens=int(totals.sums.get(f"{role}_tokens", 0)),
        cpu_s=totals.sums.get("cpu_s", 0.0) if stage in EXECUTES else 0.0,
        fingerprint=dataset.info.fingerprint,
        code_version=version,
        faults=tuple(_faults(dataset)),
    )


def _faults(dataset: Dataset) -> Iterator[str]:
    """The conservation law: `rows_in x fan_out = kept + rejected + quarantined`, over all shards."""
    totals, info = dataset.totals, dataset.info
    rejected = sum(totals.rejected.values())
    given, fates = totals.rows_in * info.fan_out, totals.kept + rejected + totals.quarantined
    if given != fates:
        yield (
            f"{totals.rows_in:,} rows in x {info.fan_out} = {given:,}, but {totals.kept:,} kept + {rejected:,} rejected"
            f" + {totals.quarantined:,} quarantined = {fates:,}"
        )
    if totals.rows != fates:
        yield f"{totals.rows:,} rows were written, but the fate of {fates:,} is recorded"
    if len(dataset.entries) != info.shards:
        yield f"{len(dataset.entries):,} of {info.shards:,} shards are recorded"


def _with_parent(stage: StageReport, stages: dict[str, StageReport]) -> StageReport:
    """The same stage, with a fault when it did not start from all rows that the stage before kept."""
    name, _, of_round = stage.name.partition(" ")
    parent = "judge" if name == "assemble" and "judge" in stages else _PARENTS.get(name, "")
    parents = [part for part in stages.values() if part.name.split()[0] == parent]
    if name != "assemble":  # else those of all rounds
        parents = [part for part in parents if part.name == f"{parent} {of_round}".strip()]
    kept = sum(part.kept for part in parents)
    if not parents or kept == stage.rows_in:
        return stage
    fault = f"{stage.rows_in:,} rows came in, but {' and '.join(part.name for part in parents)} kept {kept:,}"
    return replace(stage, faults=(*stage.faults, fault))
