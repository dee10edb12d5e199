"""The commit layer on a real disk and on fsspec's in-memory object store."""

import json

import pyarrow as pa
import pytest

from caco_ray.errors import RunDirError, StageContractError, StorageError
from caco_ray.schema import SEED, row_id, to_table
from caco_ray.store import Dataset, DatasetWriter, Folder, StageInfo
from caco_ray.store.dataset import differences


def rows(shard: int, count: int = 4) -> pa.Table:
    made = [{"row_id": row_id(f"p{shard}", "seeds", i), "parent_id": f"p{shard}", "question": f"q{i}"} for i in range(count)]
    made[0]["reject_reason"] = "too_short"
    made[1]["infra_error"] = "the engine died"
    return to_table(made, SEED)


def info(**changes: object) -> StageInfo:
    return StageInfo(**{"stage": "seeds", "fingerprint": "f1", "settings": {"a": {"b": 1}}, "shards": 2, **changes})


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path) -> Folder:
    return Folder(str(tmp_path / "ds")) if request.param == "disk" else Folder(f"memory://{tmp_path.name}/ds")


def test_committed_rows_come_back_and_counts_add_up(folder: Folder) -> None:
    writer = DatasetWriter(folder, info(), SEED)
    assert writer.open() == {}
    for shard in range(2):
        writer.commit(shard, rows(shard), rows_in=4, seconds=0.5)
    totals = writer.close(seconds=1.0)
    assert (totals.rows_in, totals.rows, totals.kept, totals.rejected, totals.quarantined) == (8, 8, 4, {"too_short": 2}, 2)
    dataset = Dataset(folder)
    assert [row["question"] for row in dataset.rows()] == ["q2", "q3"] * 2
    assert len(list(dataset.rows(kept_only=False))) == 8
    assert dataset.totals == totals


def test_a_restart_finds_what_is_committed_and_the_first_commit_wins(folder: Folder) -> None:
    first = DatasetWriter(folder, info(), SEED)
    first.open()
    entry = first.commit(0, rows(0), 4, 0.1)
    second = DatasetWriter(folder, info(), SEED)
    assert second.open() == {0: entry}
    assert second.commit(0, rows(0), 4, 9.9) == entry
    assert len([name for name in folder.names("data") if name.endswith(".parquet")]) == 1


def test_an_unclosed_stage_is_not_readable_and_cannot_be_closed_with_a_hole(folder: Folder) -> None:
    writer = DatasetWriter(folder, info(), SEED)
    writer.open()
    writer.commit(1, rows(1), 4, 0.1)
    with pytest.raises(RunDirError, match=r"shards \[0\]"):
        writer.close(1.0)
    with pytest.raises(RunDirError, match="not complete"):
        Dataset(folder)


def test_another_config_is_refused_and_the_difference_named(folder: Folder) -> None:
    DatasetWriter(folder, info(), SEED).open()
    other = info(fingerprint="f2", settings={"a": {"b": 2}})
    with pytest.raises(RunDirError, match="a.b was 1, is 2"):
        DatasetWriter(folder, other, SEED).open()


def test_a_foreign_folder_is_refused(tmp_path) -> None:
    (tmp_path / "holiday.jpg").write_text("x")
    with pytest.raises(RunDirError, match=r"holiday\.jpg"):
        DatasetWriter(Folder(str(tmp_path)), info(), SEED).open()


def test_a_damaged_or_missing_file_is_named(tmp_path) -> None:
    folder = Folder(str(tmp_path / "ds"))
    writer = DatasetWriter(folder, info(shards=1), SEED)
    writer.open()
    entry = writer.commit(0, rows(0), 4, 0.1)
    writer.close(1.0)
    part = tmp_path / "ds" / entry.file
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(RunDirError, match="damaged"):
        list(Dataset(folder).rows())
    part.unlink()
    with pytest.raises(RunDirError, match="missing"):
        list(Dataset(folder).rows())


def test_files_that_no_manifest_names_do_not_exist_for_readers(tmp_path) -> None:
    folder = Folder(str(tmp_path / "ds"))
    writer = DatasetWriter(folder, info(shards=1), SEED)
    writer.open()
    folder.write("data/part-000000-deadbeef.parquet", b"half of a file")
    folder.write("manifest/.000000.json.abc.tmp", b"{")
    writer.commit(0, rows(0), 4, 0.1)
    writer.close(1.0)
    assert len(list(Dataset(folder).rows())) == 2


def test_lost_and_doubled_rows_are_not_committed(folder: Folder) -> None:
    writer = DatasetWriter(folder, info(fan_out=2), SEED)
    writer.open()
    with pytest.raises(StageContractError, match="4 rows came out of 4 x 2"):
        writer.commit(0, rows(0), rows_in=4, seconds=0.1)
    doubled = pa.concat_tables([rows(0), rows(0)])
    with pytest.raises(StageContractError, match="twice"):
        writer.commit(0, doubled, rows_in=4, seconds=0.1)
    assert folder.names("manifest") == []


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch) -> None:
    import errno
    import os

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)  # a real full disk needs a mount; what the kernel says is the same
    folder = Folder(str(tmp_path / "ds"))
    with pytest.raises(StorageError, match="disk is full"):
        folder.write("x/y", b"z")
    assert list((tmp_path / "ds" / "x").iterdir()) == []


def test_differences_name_nested_keys() -> None:
    assert differences({"a": 1, "b": {"c": [1]}}, {"a": 1, "b": {"c": [2]}, "d": 3}) == ["b.c was [1], is [2]", "d was None, is 3"]


def test_the_success_file_says_all_that_readers_need(tmp_path) -> None:
    folder = Folder(str(tmp_path / "ds"))
    writer = DatasetWriter(folder, info(shards=1), SEED)
    writer.open()
    writer.commit(0, rows(0), 4, 0.1)
    writer.close(1.5)
    body = json.loads(folder.read("_SUCCESS"))
    assert body["stage"] == "seeds" and body["seconds"] == 1.5 and len(body["entries"]) == 1
