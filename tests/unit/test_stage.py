"""The stage runner on a real local Ray: commits, restarts, failures, and the contract of operators."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from caco_ray.errors import CacoError, ModelError, StageContractError
from caco_ray.schema import PROGRAM, Row, live, reject, to_table
from caco_ray.source import KeptRows, SampleRange
from caco_ray.stage import Operator, Stage, run_stage
from caco_ray.store import Dataset, Folder, ShardEntry, StageInfo

pytestmark = pytest.mark.usefixtures("ray_cluster")


def fill(row: Row) -> None:
    row["code"] = f"print({row['sample_index']})"


def rows_of(table: pa.Table, change) -> pa.Table:
    rows = table.to_pylist()
    for row in live(rows):
        change(row)
    return to_table(rows, table.schema)


class Writer:
    """An actor operator that notes its calls and its end in files, and can be told to fail on one sample."""

    def __init__(self, folder: Path, fail_on: int | None = None) -> None:
        self.folder, self.fail_on = folder, fail_on

    def __call__(self, table: pa.Table) -> pa.Table:
        if self.fail_on in table["sample_index"].to_pylist():
            raise ModelError("the model is gone")
        first = table["sample_index"][0].as_py() if table.num_rows else "empty"
        (self.folder / f"call-{first}-{os.urandom(4).hex()}").touch()
        return rows_of(table, fill)

    def close(self) -> None:
        (self.folder / "closed").touch()


def thirds(table: pa.Table) -> pa.Table:
    return rows_of(table, lambda row: reject(row, "too_short") if row["sample_index"] % 3 == 0 else None)


def drop_one(table: pa.Table) -> pa.Table:
    return table.slice(1)


def make(function):
    def maker():
        return function

    return maker


def stage(tmp_path: Path, *operators: Operator, source=None) -> Stage:
    source = source or SampleRange("scale", 25, 10, PROGRAM)
    return Stage(StageInfo("scale", "f", {}, source.shards), Folder(str(tmp_path / "programs")), source, operators, PROGRAM)


def actor(tmp_path: Path, fail_on: int | None = None) -> Operator:
    return Operator("write", lambda: Writer(tmp_path, fail_on), cpus=0.5, actors=1, calls=2)


def test_all_shards_are_committed_once_and_the_actor_is_closed(tmp_path: Path) -> None:
    seen: list[ShardEntry] = []
    totals = run_stage(stage(tmp_path, actor(tmp_path), Operator("thirds", make(thirds))), seen.append)
    assert (totals.rows_in, totals.kept, totals.rejected) == (25, 16, {"too_short": 9})
    assert sorted(entry.shard for entry in seen) == [0, 1, 2]
    assert (tmp_path / "closed").exists()
    rows = sorted(Dataset(Folder(str(tmp_path / "programs"))).rows(kept_only=False), key=lambda row: row["sample_index"])
    assert [row["code"] for row in rows] == [f"print({n})" for n in range(25)]


def test_a_failure_keeps_what_is_committed_and_a_restart_does_only_the_rest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the model is gone"):
        run_stage(stage(tmp_path, actor(tmp_path, fail_on=24)), lambda entry: None)
    run_stage(stage(tmp_path, actor(tmp_path)), lambda entry: None)
    calls = [path.name.split("-")[1] for path in tmp_path.glob("call-*")]
    assert len(list(Dataset(Folder(str(tmp_path / "programs"))).rows())) == 25
    assert calls.count("20") == 1 and 3 <= len(calls) <= 5  # a shard in flight at the failure may be done again, a committed one never


def test_a_closed_stage_is_not_run_again(tmp_path: Path) -> None:
    run_stage(stage(tmp_path, actor(tmp_path)), lambda entry: None)
    before = sorted(tmp_path.glob("call-*"))
    run_stage(stage(tmp_path, actor(tmp_path)), lambda entry: None)
    assert sorted(tmp_path.glob("call-*")) == before


def test_an_operator_that_loses_rows_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(StageContractError, match="operator 'drop'"):
        run_stage(stage(tmp_path, Operator("drop", make(drop_one))), lambda entry: None)
    assert Folder(str(tmp_path / "programs")).names("manifest") == []


def test_children_inherit_and_shards_without_rows_are_committed_too(tmp_path: Path) -> None:
    def reject_first_shard(table: pa.Table) -> pa.Table:
        return rows_of(table, lambda row: reject(row, "too_short") if row["sample_index"] < 10 else None)

    run_stage(stage(tmp_path, actor(tmp_path), Operator("first", make(reject_first_shard))), lambda entry: None)
    source = KeptRows("solve", Folder(str(tmp_path / "programs")), PROGRAM, fan_out=2)
    child = Stage(StageInfo("next", "f", {}, source.shards, 2), Folder(str(tmp_path / "next")), source, (actor(tmp_path),), PROGRAM)
    totals = run_stage(child, lambda entry: None)
    assert (totals.rows_in, totals.rows) == (15, 30)
    children = list(Dataset(child.folder).rows())
    parents = {row["row_id"]: row["code"] for row in Dataset(source.folder).rows()}
    assert all(parents[row["parent_id"]] == row["code"] for row in children)
    assert len({row["row_id"] for row in children}) == 30


def test_a_missing_parent_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CacoError, match="not complete"):
        _ = KeptRows("solve", Folder(str(tmp_path / "none")), PROGRAM).shards
