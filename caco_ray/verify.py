"""Prove a shipped data set again, from its Parquet files alone: every program is run and its output compared with the row.

Three things are checked of each row: the program runs and is deterministic in the sandbox, its output is exactly the recorded
`output_json`, and the answers that the row ships (`answer`, and the final answer of `output`) are that output.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from caco_ray.config import SandboxConfig, Strict
from caco_ray.errors import RunDirError
from caco_ray.schema import SHIPPED, SOLUTION, Row, to_table
from caco_ray.stages.agreement import Agreement
from caco_ray.stages.execute import Execute
from caco_ray.store import Dataset, Folder
from caco_ray.store.dataset import is_closed

BATCH_ROWS = 256
MAX_EXAMPLES = 10


class VerifyConfig(Strict):
    """Arguments of `jobs/verify.py`: the folder of the data set (local or an fsspec URL), and the sandbox to run it in."""

    dataset: str = Field(min_length=1)
    limit: int | None = Field(None, ge=1)
    sandbox: SandboxConfig = SandboxConfig()


@dataclass
class Findings:
    """Rows read, rows by kind of mismatch, rows that the machinery failed on, and the first few of both."""

    rows: int = 0
    mismatches: Counter[str] = field(default_factory=Counter)
    unchecked: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def proved(self) -> int:
        return self.rows - self.mismatches.total() - self.unchecked


def verify(config: VerifyConfig) -> Findings:
    """Run every row of a shipped data set again.

    Raises:
        RunDirError: no Parquet files, or files without the shipped columns.
        SandboxUnavailableError: the isolation that `sandbox.require` asks for cannot be had.
    """
    findings = Findings()
    execute = Execute(config.sandbox, check_determinism=True)
    agree = Agreement()
    try:
        rows = islice(shipped_rows(config.dataset), config.limit)
        while batch := list(islice(rows, BATCH_ROWS)):
            _check(batch, execute, agree, findings)
    finally:
        execute.close()
        agree.close()
    return findings


def shipped_rows(dataset: str) -> Iterator[Row]:
    """Rows of the data set, file by file: the files that its manifest names, or all Parquet files under a folder without one.

    Raises:
        RunDirError: see `verify`.
    """
    filesystem, root = fsspec.core.url_to_fs(dataset)
    if is_closed(folder := Folder(dataset)):  # a file that a killed commit left behind is not part of it
        files = [f"{root.rstrip('/')}/{entry.file}" for entry in Dataset(folder).entries]
    else:
        files = sorted(filesystem.glob(f"{root}/**/*.parquet"))
    if not files:
        raise RunDirError(f"dataset={dataset}: no Parquet files there")
    for name in files:
        with filesystem.open(name, "rb") as file:
            try:
                parquet = pq.ParquetFile(file)
            except pa.ArrowInvalid as error:
                raise RunDirError(f"{name}: not a Parquet file ({error})") from error
            missing = [column for column in SHIPPED.names if column not in parquet.schema_arrow.names]
            if missing:
                raise RunDirError(f"{name}: not a shipped data set (no column {missing[0]!r})")
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS):
                yield from batch.to_pylist()


def _check(shipped: list[Row], execute: Execute, agree: Agreement, findings: Findings) -> None:
    fresh = [{"row_id": row["row_id"], "parent_id": row["parent_id"], "code": row["code"], "solution": row["output"]} for row in shipped]
    again = agree(execute(to_table(fresh, SOLUTION))).to_pylist()
    for before, now in zip(shipped, again, strict=True):
        findings.rows += 1
        problem = _difference(before, now)
        if now["infra_error"] is not None:
            findings.unchecked += 1
        elif problem is not None:
            findings.mismatches[problem] += 1
        else:
            continue
        if len(findings.examples) < MAX_EXAMPLES:
            findings.examples.append(f"{before['row_id']}: {now['infra_error'] or problem}")


def _difference(before: Row, now: Row) -> str | None:
    if now["reject_reason"] is not None:
        return str(now["reject_reason"])
    if now["output_json"] != before["output_json"]:
        return "output_differs"
    return None if now["program_answer"] == before["answer"] else "answer_differs"
