"""Damaged shards are found, set aside and made again, on each kind of storage."""

import pytest
from store_rows import info, rows

from caco_ray.errors import RunDirError
from caco_ray.schema import SEED
from caco_ray.store import Dataset, DatasetWriter, Folder, ShardEntry
from caco_ray.store.dataset import check_files, check_same_stage, restore_stage_file
from caco_ray.store.manifest import entry_name
from caco_ray.store.repair import find_faults, forget, reopen, replaced, set_aside, take_out

SHARDS = 4


@pytest.fixture
def whole(folder: Folder) -> dict[int, ShardEntry]:
    return _work(folder)


def _work(folder: Folder, tag: str = "") -> dict[int, ShardEntry]:
    """What a stage does: open, commit what is missing, close. Says what it committed."""
    writer = DatasetWriter(folder, info(shards=SHARDS), SEED)
    done = writer.open()
    made = {shard: writer.commit(shard, rows(shard, tag=tag), 4, 0.1) for shard in range(SHARDS) if shard not in done}
    writer.close(1.0)
    return made


def _questions(folder: Folder) -> list[str]:
    return [row["question"] for row in Dataset(folder).rows(kept_only=False)]


def test_a_whole_dataset_has_no_faults(folder: Folder, whole) -> None:
    assert find_faults(folder, info(shards=SHARDS)) == []
    take_out(folder, [])
    assert folder.exists("_SUCCESS") and not set_aside(folder).names()


def test_only_the_damaged_shards_are_made_again(folder: Folder, whole) -> None:
    before = _questions(folder)
    data = folder.read(whole[1].file)
    folder.write(whole[1].file, data[:-1] + b"x")
    folder.delete(whole[2].file)
    folder.write("data/notes.txt", b"mine")
    faults = find_faults(folder, info(shards=SHARDS))
    assert {str(fault) for fault in faults} == {
        "data/notes.txt: no file of this stage",
        f"{whole[1].file}: damaged",
        f"{whole[2].file}: missing",
    }
    take_out(folder, faults)
    with pytest.raises(RunDirError, match="not complete"):
        Dataset(folder)
    assert set_aside(folder).read("data/notes.txt") == b"mine" and set_aside(folder).read(whole[1].file) == data[:-1] + b"x"
    assert set(folder.names()) <= {"data", "manifest", "stage.json"}, "who loads the folder does not find what was set aside"
    assert set(_work(folder)) == {1, 2}
    assert _questions(folder) == before and find_faults(folder, info(shards=SHARDS)) == []
    assert replaced(folder) == ([1, 2], [])
    forget(folder, [1, 2])
    assert replaced(folder) == ([], [])


def test_other_rows_than_before_are_told(folder: Folder, whole) -> None:
    reopen(folder, [0, 3])
    writer = DatasetWriter(folder, info(shards=SHARDS), SEED)
    writer.open()
    writer.commit(0, rows(0), 4, 9.9)
    assert replaced(folder) == ([0], [])
    writer.commit(3, rows(3, tag="another"), 4, 0.1)
    assert replaced(folder) == ([0, 3], [3])


@pytest.mark.parametrize("name", ["_SUCCESS", "manifest/000002.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"shard": 1}'])
def test_damaged_json_is_named_and_mended(folder: Folder, whole, name: str, content: bytes) -> None:
    if name != "_SUCCESS":
        folder.delete("_SUCCESS")
    folder.write(name, content)
    with pytest.raises(RunDirError, match=f"{name}: damaged"):
        DatasetWriter(folder, info(shards=SHARDS), SEED).open()
    faults = find_faults(folder, info(shards=SHARDS))
    assert [fault.file for fault in faults] == [name]
    take_out(folder, faults)
    assert set(_work(folder)) == (set() if name == "_SUCCESS" else {2})
    assert len(_questions(folder)) == SHARDS * 4


def test_a_shard_of_another_config_is_named_and_made_again(folder: Folder, whole) -> None:
    other = Folder(f"{folder.url}-other")
    foreign = DatasetWriter(other, info(shards=SHARDS, fingerprint="f2"), SEED)
    foreign.open()
    entry = foreign.commit(2, rows(2), 4, 0.1)
    folder.delete("_SUCCESS")
    folder.write(entry.file, other.read(entry.file))
    folder.write(entry_name(2), other.read(entry_name(2)))
    with pytest.raises(RunDirError, match="shard 2 is of another config"):
        DatasetWriter(folder, info(shards=SHARDS), SEED).open()
    take_out(folder, find_faults(folder, info(shards=SHARDS)))
    assert set(_work(folder)) == {2}


def test_an_entry_under_another_shards_name_is_named(folder: Folder, whole) -> None:
    folder.delete("_SUCCESS")
    folder.write(entry_name(0), folder.read(entry_name(1)))
    with pytest.raises(RunDirError, match=r"000000\.json: damaged \(it tells of shard 1\)"):
        DatasetWriter(folder, info(shards=SHARDS), SEED).open()


@pytest.mark.parametrize("name", ["data/holiday.jpg", "data/part-0.parquet", "manifest/notes.json", "extra.parquet"])
@pytest.mark.parametrize("closed", [True, False])
def test_a_foreign_file_is_named_and_refused(folder: Folder, whole, name: str, closed: bool) -> None:
    if not closed:
        folder.delete("_SUCCESS")
    folder.write(name, b"x")
    with pytest.raises(RunDirError, match=f"{name}: no file of this stage"):
        DatasetWriter(folder, info(shards=SHARDS), SEED).open()


def test_leftovers_of_killed_commits_are_told_once_the_stage_is_closed(folder: Folder, whole) -> None:
    orphan = "data/part-000001-0123456789ab.parquet"
    folder.write(orphan, b"a late commit, killed after the stage was closed")
    assert check_files(folder, info(shards=SHARDS), whole.values()) == [orphan]


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("content", [None, b"{"])
def test_a_lost_stage_file_is_written_again(folder: Folder, whole, closed: bool, content: bytes | None) -> None:
    before = _questions(folder)
    if not closed:
        folder.delete("_SUCCESS")
    folder.delete("stage.json") if content is None else folder.write("stage.json", content)
    with pytest.raises(RunDirError, match="made by another config"):
        check_same_stage(folder, info(shards=SHARDS, fingerprint="f2"))
    assert check_same_stage(folder, info(shards=SHARDS))
    assert _work(folder) == {} and _questions(folder) == before
    assert not check_same_stage(folder, info(shards=SHARDS))


def test_a_lost_stage_file_that_nothing_tells_of_is_left_to_the_user(folder: Folder, whole) -> None:
    folder.write("stage.json", b"{")
    for name in ["_SUCCESS", *(entry_name(shard) for shard in range(SHARDS))]:
        folder.write(name, b"{")
    with pytest.raises(RunDirError, match="repair=all takes it for this config's"):
        check_same_stage(folder, info(shards=SHARDS))
    assert check_same_stage(folder, info(shards=SHARDS), trust=True)
    restore_stage_file(folder, info(shards=SHARDS))
    take_out(folder, find_faults(folder, info(shards=SHARDS)))
    assert set(_work(folder)) == set(range(SHARDS))


def test_what_was_made_of_other_rows_is_gone_when_the_stage_is_closed_again(folder: Folder, whole) -> None:
    folder.write("README.md", b"the card of the old rows")
    folder.write("jsonl/part-000000.jsonl", b"{}")
    reopen(folder, [0])
    _work(folder, tag="new")
    assert not folder.exists("README.md") and folder.names("jsonl") == []


def test_entries_that_only_the_closing_file_has_left_survive_a_repair(folder: Folder, whole) -> None:
    folder.delete("manifest")
    folder.delete(whole[3].file)
    take_out(folder, find_faults(folder, info(shards=SHARDS)))
    assert set(_work(folder)) == {3}


def test_what_is_no_stage_is_left_alone(folder: Folder) -> None:
    folder.write("model/weights", b"x")
    reopen(folder)
    assert folder.names() == ["model"]
