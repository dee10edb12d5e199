"""The commit layer on a real disk, in memory, and on a real S3 server."""

import json
import pickle
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_rows import info, rows

from caco_ray.errors import RunDirError, StageContractError
from caco_ray.schema import SEED
from caco_ray.source import Joined, KeptRows, Mapped
from caco_ray.store import Dataset, DatasetWriter, Folder
from caco_ray.store.dataset import differences, read_shard
from caco_ray.store.writer import content_hash
from caco_ray.target import RoundFolder


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


def test_files_that_no_manifest_names_do_not_exist_for_readers_and_are_swept(folder: Folder) -> None:
    writer = DatasetWriter(folder, info(shards=1), SEED)
    writer.open()
    folder.write("data/part-000000-deadbeef.parquet", b"half of a file")
    folder.write("manifest/.000000.json.abc.tmp", b"{")
    writer.open()
    entry = writer.commit(0, rows(0), 4, 0.1)
    writer.close(1.0)
    assert len(list(Dataset(folder).rows())) == 2
    assert folder.names("data", hidden=True) == [entry.file.removeprefix("data/")]
    assert folder.names("manifest", hidden=True) == ["000000.json"]


def test_what_a_driver_that_is_a_pass_ahead_commits_is_not_swept(folder: Folder) -> None:
    """A pass of target mode closes while the shards of the next ones are to come."""
    behind, ahead = DatasetWriter(RoundFolder(folder.url), info(shards=1), SEED), DatasetWriter(folder, info(shards=2), SEED)
    behind.open()
    behind.commit(0, rows(0), 4, 0.1)
    folder.write("data/part-000001-deadbeef.parquet", b"on its way")
    folder.write("manifest/.000001.json.abc.tmp", b"{")
    behind.close(1.0)
    assert len(folder.names("data")) == 2 and folder.names("manifest", hidden=True) == [".000001.json.abc.tmp", "000000.json"]
    ahead.open()
    ahead.commit(1, rows(1), 4, 0.1)
    ahead.close(1.0)
    assert len(folder.names("data")) == 2 and folder.names("manifest", hidden=True) == ["000000.json", "000001.json"]


def test_a_kill_while_the_directory_is_claimed_does_not_lock_it(tmp_path) -> None:
    folder = Folder(str(tmp_path))
    folder.write(".stage.json.abc.tmp", b"{")  # what a driver leaves that dies in the middle of its first write
    assert DatasetWriter(folder, info(), SEED).open() == {}


def test_a_lost_reply_to_the_commit_keeps_the_rows(s3: Folder, door) -> None:
    writer = DatasetWriter(s3, info(shards=1), SEED)
    writer.open()
    door.next("PUT", "manifest/000000.json", "lose_reply")  # the client's second PUT is refused: the name is taken, by the first
    entry = writer.commit(0, rows(0), 4, 0.1)
    assert s3.exists(entry.file)
    writer.close(1.0)
    assert len(list(Dataset(s3).rows(kept_only=False))) == 4


def test_a_closed_stage_is_left_as_it_is(folder: Folder) -> None:
    writer = DatasetWriter(folder, info(shards=1), SEED)
    writer.open()
    writer.commit(0, rows(0), 4, 0.1)
    totals = writer.close(seconds=7.0)
    again = DatasetWriter(folder, info(shards=1), SEED)
    again.open()
    assert again.close(seconds=0.0) == totals and Dataset(folder).seconds == 7.0


def test_clocks_that_disagree_make_no_negative_times(folder: Folder) -> None:
    writer = DatasetWriter(folder, info(shards=1), SEED)
    writer.open()
    assert writer.commit(0, rows(0), 4, -3600.0).seconds == 0.0


def test_columns_of_another_version_are_refused(folder: Folder) -> None:
    older = pa.schema([SEED.field(name) for name in SEED.names if name != "difficulty"])
    writer = DatasetWriter(folder, info(shards=1), older)
    writer.open()
    writer.commit(0, rows(0).drop_columns(["difficulty"]), 4, 0.1)
    writer.close(1.0)
    with pytest.raises(RunDirError, match="column 'difficulty' is None, this version of caco_ray has int"):
        list(Dataset(folder).rows())


def test_rows_of_another_schema_are_not_committed(folder: Folder) -> None:
    writer = DatasetWriter(folder, info(shards=1), SEED)
    writer.open()
    wrong = rows(0).set_column(rows(0).schema.get_field_index("difficulty"), "difficulty", pa.array(["hard"] * 4))
    with pytest.raises(StageContractError, match="not of the stage's schema"):
        writer.commit(0, wrong, 4, 0.1)
    assert folder.names("data") == [] and folder.names("manifest") == []


def test_the_content_hash_is_of_the_rows_alone(folder: Folder) -> None:
    table, cut = rows(0), pa.concat_tables([rows(0).slice(0, 1), rows(0).slice(1)])
    hashes = set()
    for name, given in (("a", table), ("b", cut), ("c", rows(0, tag="x"))):
        writer = DatasetWriter(folder / name, info(shards=1), SEED)
        writer.open()
        hashes.add(writer.commit(0, given, 4, 0.1).content)
    assert len(hashes) == 2, "however the rows are cut; but other rows are told"


def test_measured_columns_are_not_part_of_the_content() -> None:
    def of(cpu_s: float, code: str) -> str:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"code": [code] * 3, "cpu_s": [cpu_s] * 3}), sink)
        return content_hash(sink.getvalue().to_pybytes())

    assert of(1.0, "a") == of(2.0, "a") != of(1.0, "b")


def test_lost_and_doubled_rows_are_not_committed(folder: Folder) -> None:
    writer = DatasetWriter(folder, info(fan_out=2), SEED)
    writer.open()
    with pytest.raises(StageContractError, match="4 rows came out of 4 x 2"):
        writer.commit(0, rows(0), rows_in=4, seconds=0.1)
    doubled = pa.concat_tables([rows(0), rows(0)])
    with pytest.raises(StageContractError, match="twice"):
        writer.commit(0, doubled, rows_in=4, seconds=0.1)
    assert folder.names("manifest") == []


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


def test_a_restart_reads_collected_entries_at_once(s3: Folder, door, monkeypatch) -> None:
    monkeypatch.setattr("caco_ray.store.writer.COLLECT_EVERY", 3)
    first = DatasetWriter(s3, info(shards=5), SEED)
    first.open()
    entries = {shard: first.commit(shard, rows(shard), 4, 0.1) for shard in range(4)}
    for entry in entries.values():
        first.note(entry)
    before = len(door.requests)
    assert DatasetWriter(s3, info(shards=5), SEED).open() == entries
    asked = [path for method, path in door.requests[before:] if method == "GET" and "/manifest/0" in path]
    assert len(asked) == 1, "three of the four entries stand in one file"


def test_a_collection_that_is_out_of_date_or_damaged_does_no_harm(folder: Folder, monkeypatch) -> None:
    monkeypatch.setattr("caco_ray.store.writer.COLLECT_EVERY", 1)
    writer = DatasetWriter(folder, info(shards=2), SEED)
    writer.open()
    for shard in range(2):
        writer.note(writer.commit(shard, rows(shard), 4, 0.1))
    folder.delete("manifest/000000.json")  # by hand: have it made again
    folder.delete(next(f"data/{name}" for name in folder.names("data") if name.startswith("part-000000")))
    again = DatasetWriter(folder, info(shards=2), SEED)
    assert set(again.open()) == {1}
    made = again.commit(0, rows(0), 4, 0.1)
    assert DatasetWriter(folder, info(shards=2), SEED).open()[0] == made
    folder.write("entries/000000.json", b"[{")
    assert set(DatasetWriter(folder, info(shards=2), SEED).open()) == {0, 1}


def test_entries_are_collected_once(folder: Folder, monkeypatch) -> None:
    """Writing all of them again and again grows with the square of the shards."""
    monkeypatch.setattr("caco_ray.store.writer.COLLECT_EVERY", 2)
    shards = range(9)
    for session in (shards[:5], shards[5:]):
        writer = DatasetWriter(folder, info(shards=9), SEED)
        writer.open()
        for shard in session:
            writer.note(writer.commit(shard, rows(shard), 4, 0.1))
    told = [entry["shard"] for name in folder.names("entries") for entry in json.loads(folder.read(f"entries/{name}"))]
    assert sorted(told) == list(range(8))
    writer.close(1.0)
    assert [entry.shard for entry in Dataset(folder).entries] == list(shards)


def test_a_writer_travels_without_what_the_driver_knows(tmp_path) -> None:
    folder = Folder(str(tmp_path / "ds"))
    writer = DatasetWriter(folder, info(shards=300), SEED)
    writer.open()
    before = len(pickle.dumps(writer))
    entry = writer.commit(0, rows(0), 4, 0.1)
    for shard in range(300):
        writer.note(replace(entry, shard=shard))
    assert len(pickle.dumps(writer)) == before
    pickle.loads(pickle.dumps(writer)).commit(1, rows(1), 4, 0.1)


def test_a_worker_reads_one_shard_without_what_is_recorded_of_all(folder: Folder, monkeypatch) -> None:
    writer = DatasetWriter(folder, info(), SEED)
    writer.open()
    for shard in range(2):
        writer.commit(shard, rows(shard), 4, 0.1)
    writer.close(1.0)
    expected = Dataset(folder).read(1)
    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "__init__", lambda *_: pytest.fail("opened the whole data set"))
        assert read_shard(folder, 1).equals(expected)
    folder.delete("manifest")
    assert read_shard(folder, 1).equals(expected), "the closing file has all entries"


def test_a_source_travels_without_the_entries_of_its_data_set(tmp_path, monkeypatch) -> None:
    folder = Folder(str(tmp_path / "ds"))
    writer = DatasetWriter(folder, info(), SEED)
    writer.open()
    for shard in range(2):
        writer.commit(shard, rows(shard), 4, 0.1)
    writer.close(1.0)
    part = KeptRows("unify", folder, SEED)
    source = Joined((Mapped(part, SEED, dict), part))
    assert (source.shards, source.expected_rows) == (4, 8)
    expected = source.read(3).table
    travelled = pickle.dumps(source)
    assert all(entry.sha256.encode() not in travelled for entry in Dataset(folder).entries)
    monkeypatch.setattr(Dataset, "__init__", lambda *_: pytest.fail("opened the whole data set"))
    assert pickle.loads(travelled).read(3).table.equals(expected)
