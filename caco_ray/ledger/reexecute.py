"""Run shipped rows again, as a stage of its own: sharded, committed, and resumed where it was killed.

Of each row: the program runs and is deterministic in the sandbox, its input and output are exactly the recorded `input_json` and
`output_json`, and the answers that the row ships (`answer`, `language_answer` and the final answer of `output`) are that output. A
proved row is kept, a mismatch is rejected with its reason, and a row that the machinery failed on is quarantined.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa

from caco_ray.config import QuarantineConfig, SandboxConfig
from caco_ray.ledger.shipped import Slice, read_slice
from caco_ray.operators import actor, executor, task
from caco_ray.schema import SOLUTION, Row, live, reject, row_id, to_table
from caco_ray.source import ShardInput
from caco_ray.stage import Operator, Stage, run_stage
from caco_ray.stages.agreement import Agreement
from caco_ray.stages.execute import Execute
from caco_ray.store import Dataset, Folder, ShardEntry, StageInfo
from caco_ray.store.dataset import clear, is_closed

_SHIPPED = ("input_json", "output_json", "answer", "language_answer")
VERIFIED = pa.schema([*SOLUTION, *[pa.field(f"shipped_{name}", pa.string()) for name in _SHIPPED]])  # whatever operators write
_KEPT_COLUMNS = ("row_id", "parent_id", "reject_reason", "infra_error", "exec_status", "exec_error", "cpu_s", "wall_s", "sandbox_level")


@dataclass(frozen=True)
class ShippedRows:
    """Rows of a shipped data set by slices: all, or the `fraction` that a hash of `seed` and id draws (the same ones each time)."""

    dataset: str
    slices: tuple[Slice, ...]
    fraction: float
    seed: int

    @property
    def shards(self) -> int:
        return len(self.slices)

    @property
    def expected_rows(self) -> int:
        return round(sum(part.rows for part in self.slices) * self.fraction)

    def read(self, shard: int) -> ShardInput:
        shipped = enumerate(read_slice(self.dataset, self.slices[shard]).to_pylist())
        rows = [self._fresh(row, place) for place, row in shipped if self._is_drawn(row["row_id"])]
        return ShardInput(to_table(rows, VERIFIED), len(rows))

    def _fresh(self, row: Row, place: int) -> Row:
        fresh = {
            "row_id": row_id(row["row_id"], "verify", place),
            "parent_id": row["row_id"],
            "code": row["code"],
            "solution": row["output"],
        }
        fresh["reject_reason"] = "no_code" if row["code"] is None else None
        return {**fresh, **{f"shipped_{name}": row[name] for name in _SHIPPED}}

    def _is_drawn(self, name: str) -> bool:
        digest = hashlib.blake2b(f"{self.seed}\x1f{name}".encode(), digest_size=8).digest()
        return self.fraction >= 1 or int.from_bytes(digest, "big") < self.fraction * 2**64


def open_stage(folder: Folder, source: ShippedRows, digest: str, sandbox: SandboxConfig) -> Stage:
    """The stage that runs these rows again, in a folder of `folder` that is named by what is verified and how.

    An unfinished one is gone on with; a finished one is begun anew: who verifies again wants the rows to run again.
    """
    limits = sandbox.model_dump(mode="json", exclude={"actors", "workers"})
    settings = {"files": digest, "fraction": source.fraction, "seed": source.seed, "sandbox": limits}
    fingerprint = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()
    mine = folder / fingerprint
    if is_closed(mine):
        clear(mine)
    # Up to the limit itself: the run kept only what stayed well under it, which is what lets a slower machine prove it.
    execute = replace(executor(sandbox, check_determinism=True), make=partial(Execute, sandbox, True, margin=False))
    operators: tuple[Operator, ...] = (execute, actor("agreement", Agreement), task("compare", compare))
    everything_may_fail = QuarantineConfig(max_infra_error_fraction=1)
    return Stage(StageInfo("verify", fingerprint, settings, source.shards), mine, source, operators, VERIFIED, everything_may_fail)


def run(stage: Stage, on_shard: Callable[[ShardEntry], None]) -> Dataset:
    """Run what is left of it.

    Raises:
        SandboxUnavailableError: the isolation that `sandbox.require` asks for cannot be had.
    """
    run_stage(stage, on_shard)
    return Dataset(stage.folder)


def compare(table: pa.Table) -> pa.Table:
    """Reject rows that came out otherwise than they were shipped. Reasons: `input_differs`, `output_differs`, `answer_differs`."""
    rows = table.to_pylist()
    for row in live(rows):
        if (reason := _difference(row)) is not None:
            reject(row, reason)
    return to_table([{name: row[name] for name in _KEPT_COLUMNS} for row in rows], table.schema)


def _difference(row: Row) -> str | None:
    if row["output_json"] != row["shipped_output_json"]:
        return "output_differs"
    if row["input_json"] != row["shipped_input_json"]:
        return "input_differs"
    answers = (row["program_answer"], row["language_answer"])
    return None if answers == (row["shipped_answer"], row["shipped_language_answer"]) else "answer_differs"
