"""What each point made, read from its run folder; all of it as one Parquet table.

Columns: `point`, one per swept key, the job (`status`, `exit_code`, `message`, `job_id`, `job_seconds`), `run_dir`, the key figures
(`programs_sampled`, `programs_kept`, `shipped`, `shipped_share` of the programs, `pass_at_1_base`, `pass_at_1_student`, `prompt_tokens`,
`tokens`, `seconds` in stages), `STAGE_rows_in`, `_rows`, `_kept`, `_rejected`, `_quarantined`, `_seconds` of each stage, and `fault`:
why figures are missing, or must not be trusted. What a point has not reached is null.
"""

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from caco_ray.config import STAGES
from caco_ray.errors import CacoError
from caco_ray.report import RunReport, collect_counts
from caco_ray.store import Folder
from caco_ray.sweep.job import Job
from caco_ray.sweep.points import Point, shown

READ_EVERY_S = 10.0  # a run that goes on
_COUNTS = ("rows_in", "rows", "kept", "rejected", "quarantined")
_DATA_STAGES = tuple(stage for stage in STAGES if stage not in ("train_codegen", "train_student", "evaluate", "report"))
_TEXT, _COUNT, _REAL = pa.string(), pa.int64(), pa.float64()
_JOB = {"status": _TEXT, "exit_code": _COUNT, "message": _TEXT, "job_id": _TEXT, "job_seconds": _REAL, "run_dir": _TEXT}
_FIGURES = {
    "programs_sampled": _COUNT,
    "programs_kept": _COUNT,
    "shipped": _COUNT,
    "shipped_share": _REAL,
    "pass_at_1_base": _REAL,
    "pass_at_1_student": _REAL,
    "prompt_tokens": _COUNT,
    "tokens": _COUNT,
    "seconds": _REAL,
}
_OF_STAGES = {f"{stage}_{name}": _COUNT for stage in _DATA_STAGES for name in _COUNTS} | {
    f"{stage}_seconds": _REAL for stage in _DATA_STAGES
}


@dataclass(frozen=True)
class Result:
    """A point, its job (None: never submitted) and its run (None: nothing of it can be read from here)."""

    point: Point
    job: Job | None
    report: RunReport | None = None
    fault: str = ""

    @property
    def status(self) -> str:
        return self.job.state if self.job else "NOT SUBMITTED"

    @property
    def last_stage(self) -> str:
        """The last closed one."""
        return self.report.stages[-1].name if self.report and self.report.stages else ""

    @property
    def figures(self) -> dict[str, Any]:
        """The key figures; null where the run has not got that far."""
        report = self.report
        if report is None or not report.stages:
            return dict.fromkeys(_FIGURES)
        programs, shipped = _totals(report, "scale"), _totals(report, "assemble")
        scores = {f"pass_at_1_{each.model}": each.overall.pass_at_1 for each in report.evaluations}
        known = {
            "programs_sampled": programs.get("rows"),
            "programs_kept": programs.get("kept"),
            "shipped": shipped.get("kept"),
            "shipped_share": shipped["kept"] / programs["rows"] if shipped and programs.get("rows") else None,
            "prompt_tokens": report.prompt_tokens,
            "tokens": report.tokens,
            "seconds": report.seconds,
        }
        return {name: {**known, **scores}.get(name) for name in _FIGURES}


def read_result(point: Point, job: Job | None) -> Result:
    """The counts of a point, as far as it has got. A folder that cannot be read is a fault of its point alone."""
    try:
        folder = Folder(point.run_dir)
        if not folder.exists("config.json"):
            lost = "it succeeded, but its folder cannot be seen from here" if job and job.succeeded else ""
            return Result(point, job, fault=lost)
        report = collect_counts(folder)
    except CacoError as error:
        return Result(point, job, fault=str(error))
    return Result(point, job, report, "; ".join(report.faults))


class Reader:
    """Results for a display: read again when the state of a job changes, and now and then while it runs."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Result]] = {}

    def __call__(self, point: Point, job: Job | None) -> Result:
        now = time.monotonic()
        at, known = self._known.get(point.job_id, (now, None))
        going_on = job is not None and not job.over
        if known is None or known.job != job or (going_on and now - at > READ_EVERY_S):
            known = read_result(point, job)
            self._known[point.job_id] = (now, known)
        return known


def to_table(results: Sequence[Result]) -> pa.Table:
    """One row per point, in the order of the sweep."""
    rows = [_row(result) for result in results]
    types: Mapping[str, pa.DataType] = {**_JOB, **_FIGURES, **_OF_STAGES, "fault": _TEXT}
    columns = {"point": pa.array([result.point.label for result in results], _TEXT)}
    for key in dict.fromkeys(key for result in results for key in result.point.swept):
        columns[key] = _values([result.point.swept.get(key) for result in results])
    return pa.table(columns | {name: pa.array([row.get(name) for row in rows], kind) for name, kind in types.items()})


def to_parquet(results: Sequence[Result]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(to_table(results), buffer)
    return buffer.getvalue()


def _row(result: Result) -> dict[str, Any]:
    job, point = result.job, result.point
    row: dict[str, Any] = {"status": result.status, "run_dir": point.run_dir, "fault": result.fault or None, **result.figures}
    if job:
        row |= {"exit_code": job.exit_code, "message": job.message or None, "job_id": job.id, "job_seconds": job.seconds}
    for stage in _DATA_STAGES:
        row |= {f"{stage}_{name}": value for name, value in _totals(result.report, stage).items()}
    return row


def _totals(report: RunReport | None, name: str) -> dict[str, Any]:
    """Of a stage over all its rounds; nothing where it is not closed."""
    closed = [stage for stage in (report.stages if report else ()) if stage.name.split()[0] == name]
    if not closed:
        return {}
    counts = [(stage.rows_in, stage.rows, stage.kept, stage.rejections, stage.quarantined) for stage in closed]
    sums = {column: sum(values) for column, values in zip(_COUNTS, zip(*counts, strict=True), strict=True)}
    return {**sums, "seconds": sum(stage.seconds for stage in closed)}


def _values(values: list[Any]) -> pa.Array:
    """Numbers as numbers; lists, and values of several kinds, as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= {bool, str}):
        return pa.array(values, pa.float64() if float in kinds else None)
    return pa.array([None if value is None else shown(value) for value in values], _TEXT)
