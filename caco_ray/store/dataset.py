"""Read a committed dataset, and say what a directory is. A shard is committed when its manifest entry exists, not before."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caco_ray.errors import RunDirError
from caco_ray.schema import OF_STAGE
from caco_ray.store.folder import Folder
from caco_ray.store.manifest import ENTRY, PART, ShardEntry, Totals, add_up

STAGE_FILE = "stage.json"
SUCCESS_FILE = "_SUCCESS"
COLLECTED_FILE = "entries.json"
DATA, MANIFEST = "data", "manifest"


@dataclass(frozen=True)
class StageInfo:
    """What a dataset directory is made of. `settings` is what the fingerprint was computed from, kept to name a difference."""

    stage: str
    fingerprint: str
    settings: dict[str, Any]
    shards: int
    fan_out: int = 1


class Dataset:
    """Reader of a closed dataset. It opens the files that the manifest names, and no others.

    Raises:
        RunDirError: the stage is not closed, a file is missing or damaged, or its columns are not those of the stage.
        StorageError: the storage does not answer.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        try:
            body = json.loads(folder.read(SUCCESS_FILE))
            self.info = StageInfo(**{key: body[key] for key in StageInfo.__dataclass_fields__})
            self.seconds: float = body["seconds"]
            self.entries = [ShardEntry.from_fields(entry) for entry in body["entries"]]
        except FileNotFoundError:
            raise RunDirError(f"{folder}: not complete; run the stages before this one first") from None
        except (ValueError, TypeError, KeyError) as error:
            raise RunDirError(f"{folder}/{SUCCESS_FILE}: damaged ({error}); delete it and run the same command again") from error
        self._of_shard = {entry.shard: entry for entry in self.entries}

    @property
    def totals(self) -> Totals:
        return add_up(self.entries)

    def read(self, shard: int, *, kept_only: bool = True) -> pa.Table:
        """Rows of one shard, checked against the recorded hash and the columns of its stage."""
        if shard not in self._of_shard:
            raise RunDirError(f"{self.folder}/{SUCCESS_FILE}: damaged (no shard {shard}); delete it and run the same command again")
        table = read_entry(self.folder, self._of_shard[shard])
        check_columns(self.folder, self.info.stage, table.schema)
        if not kept_only:
            return table
        return table.filter(pc.and_(pc.is_null(table["reject_reason"]), pc.is_null(table["infra_error"])))

    def tables(self, *, kept_only: bool = True) -> Iterator[pa.Table]:
        """All shards, one at a time."""
        for shard in range(self.info.shards):
            yield self.read(shard, kept_only=kept_only)

    def rows(self, *, kept_only: bool = True) -> Iterator[dict[str, Any]]:
        """All rows as dicts, one shard in memory at a time."""
        for table in self.tables(kept_only=kept_only):
            yield from table.to_pylist()


def is_closed(folder: Folder) -> bool:
    return folder.exists(SUCCESS_FILE)


def read_entry(folder: Folder, entry: ShardEntry) -> pa.Table:
    """Rows of one committed shard.

    Raises:
        RunDirError: its file is missing or damaged.
    """
    try:
        data = folder.read(entry.file)
    except FileNotFoundError:
        raise RunDirError(f"{folder}/{entry.file}: missing, though the manifest names it{_how_to_repair()}") from None
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise RunDirError(f"{folder}/{entry.file}: damaged (its hash is not the recorded one){_how_to_repair()}")
    return pq.read_table(io.BytesIO(data))


def check_columns(folder: Folder, stage: str, schema: pa.Schema) -> None:
    """Refuse rows that another version of the code wrote, instead of reading its missing columns as null.

    Raises:
        RunDirError: names the first column that differs.
    """
    expected = OF_STAGE.get(stage)
    if expected is None or schema.equals(expected):
        return
    for column in [*expected.names, *schema.names]:
        ours, theirs = (side.field(column).type if column in side.names else None for side in (expected, schema))
        if ours != theirs:
            raise RunDirError(f"{folder}: column {column!r} is {theirs}, this version of caco_ray has {ours}; choose another run.dir")
    raise RunDirError(f"{folder}: the columns stand in another order than in this version of caco_ray; choose another run.dir")


def committed(folder: Folder, known: Mapping[int, ShardEntry] | None = None) -> dict[int, ShardEntry]:
    """Manifest entries by shard: one listing, and the entries that are not `known` read at once.

    Raises:
        RunDirError: an entry cannot be read, or a file there is none of ours.
    """
    known = known or {}
    shards = {}
    for name in folder.names(MANIFEST):
        if (match := ENTRY.fullmatch(name)) is None:
            raise foreign(folder, f"{MANIFEST}/{name}")
        shards[int(match[1])] = f"{MANIFEST}/{name}"
    unknown = {shard: name for shard, name in shards.items() if shard not in known}
    entries = {shard: known[shard] for shard in shards if shard in known}
    for (shard, name), body in zip(unknown.items(), folder.read_many(list(unknown.values())), strict=True):
        try:
            entries[shard] = ShardEntry.from_json(body)
        except ValueError as error:
            raise RunDirError(f"{folder}/{name}: damaged ({error}){_how_to_repair()}") from error
        if entries[shard].shard != shard:
            raise RunDirError(f"{folder}/{name}: damaged (it tells of shard {entries[shard].shard}){_how_to_repair()}")
    return dict(sorted(entries.items()))


def check_files(folder: Folder, info: StageInfo, entries: Mapping[int, ShardEntry]) -> None:
    """Refuse a directory with files of others in it, or without files of its own; one listing, nothing is opened.

    Raises:
        RunDirError: names the file.
    """
    there = {f"{DATA}/{name}" for name in folder.names(DATA)}
    strangers = sorted(name for name in there if PART.fullmatch(name) is None)
    if strangers:
        raise foreign(folder, strangers[0])
    for entry in entries.values():
        if entry.file not in there:
            raise RunDirError(f"{folder}/{entry.file}: missing, though the manifest names it{_how_to_repair()}")
        if entry.fingerprint not in ("", info.fingerprint):
            raise RunDirError(f"{folder}/{entry.file}: shard {entry.shard} is of another config{_how_to_repair()}")


def foreign(folder: Folder, name: str) -> RunDirError:
    return RunDirError(f"{folder}/{name}: no file of this stage; take it away, or have the same command with repair=all do so")


def check_same_stage(folder: Folder, info: StageInfo) -> None:
    """Refuse a directory that another config made, naming what differs.

    Raises:
        RunDirError: see above.
    """
    try:
        body = json.loads(folder.read(STAGE_FILE))
        made_by, its_settings = body["fingerprint"], body["settings"]
    except FileNotFoundError:
        there = folder.names()
        if STAGE_FILE in there:  # another driver was faster
            check_same_stage(folder, info)
        elif there:
            raise RunDirError(f"{folder}: holds {there[0]!r}, which no stage of this run made; choose another run.dir") from None
        return
    except (ValueError, TypeError, KeyError) as error:
        raise RunDirError(f"{folder}/{STAGE_FILE}: damaged ({error}); choose another run.dir") from error
    if made_by != info.fingerprint:
        difference = "; ".join(differences(its_settings, info.settings)) or "an earlier stage differs"
        raise RunDirError(f"{folder}: made by another config ({difference}); choose another run.dir, or set it back")


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Where two settings differ, as `key was X, is Y`."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted(old.keys() | new.keys()):
            found += differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return found
    return [] if old == new else [f"{key} was {old!r}, is {new!r}"]


def _how_to_repair() -> str:
    return "; the same command with repair=all makes damaged shards again"
