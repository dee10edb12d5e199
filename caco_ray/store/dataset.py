"""Read a committed dataset, and say what a directory is. A shard is committed when its manifest entry exists, not before."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caco_ray.errors import RunDirError
from caco_ray.schema import OF_STAGE
from caco_ray.store.folder import Folder
from caco_ray.store.manifest import DATA, ENTRY, MANIFEST, PART, ShardEntry, Totals, add_up, entry_name, parse

STAGE_FILE = "stage.json"
SUCCESS_FILE = "_SUCCESS"
COLLECTED = "entries"
DERIVED = ("README.md", "jsonl")  # written from the rows of a closed dataset: `DatasetWriter.close` deletes those of before
_OURS = {STAGE_FILE, SUCCESS_FILE, COLLECTED, DATA, MANIFEST, "attempts", *DERIVED}


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
            body = parse(folder.read(SUCCESS_FILE))
            self.info = StageInfo(**{key: body[key] for key in StageInfo.__dataclass_fields__})
            self.seconds: float = body["seconds"]
            self.entries: list[ShardEntry] = [_entry(each) for each in body["entries"]]
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
        return read_rows(self.folder, self.info.stage, self._of_shard[shard], kept_only=kept_only)

    def tables(self, *, kept_only: bool = True) -> Iterator[pa.Table]:
        """All shards, one at a time."""
        for shard in range(self.info.shards):
            yield self.read(shard, kept_only=kept_only)

    def rows(self, *, kept_only: bool = True) -> Iterator[dict[str, Any]]:
        """All rows as dicts, one shard in memory at a time."""
        for table in self.tables(kept_only=kept_only):
            yield from table.to_pylist()


def _entry(fields: Any) -> ShardEntry:
    return fields if isinstance(fields, ShardEntry) else ShardEntry.from_fields(fields)


def is_closed(folder: Folder) -> bool:
    return folder.exists(SUCCESS_FILE)


def read_shard(folder: Folder, shard: int, *, kept_only: bool = True) -> pa.Table:
    """As `Dataset.read`, for a worker that wants one shard of a closed dataset: by the shard's own entry, so that the work of all
    workers does not grow with the square of the number of shards.

    Raises:
        RunDirError: see `Dataset`.
    """
    try:
        stage = json.loads(folder.read(STAGE_FILE))["stage"]
        entry = ShardEntry.from_json(folder.read(entry_name(shard)))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return Dataset(folder).read(shard, kept_only=kept_only)  # the closing file holds all that the others tell
    return read_rows(folder, stage, entry, kept_only=kept_only)


def read_rows(folder: Folder, stage: str, entry: ShardEntry, *, kept_only: bool) -> pa.Table:
    """Rows of one committed shard of `stage`, checked against the recorded hash and the columns.

    Raises:
        RunDirError: its file is missing or damaged, or of another version.
    """
    table = read_entry(folder, entry)
    check_columns(folder, stage, table.schema)
    if not kept_only:
        return table
    return table.filter(pc.and_(pc.is_null(table["reject_reason"]), pc.is_null(table["infra_error"])))


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


def check_files(folder: Folder, info: StageInfo, entries: Iterable[ShardEntry]) -> list[str]:
    """Refuse a directory with files of others in it, or without files of its own; listings only, nothing is opened. Returns parts that no
    entry names: commits on their way or, in a closed stage, late ones that were killed.

    Raises:
        RunDirError: names the file.
    """
    if unknown := strangers(folder):
        raise foreign(folder, unknown[0])
    there = {f"{DATA}/{name}" for name in folder.names(DATA)}
    unnamed = set(there)
    for entry in entries:
        unnamed.discard(entry.file)
        if entry.file not in there:
            raise RunDirError(f"{folder}/{entry.file}: missing, though the manifest names it{_how_to_repair()}")
        if entry.fingerprint not in ("", info.fingerprint):
            raise RunDirError(f"{folder}/{entry.file}: shard {entry.shard} is of another config{_how_to_repair()}")
    return sorted(unnamed)


def strangers(folder: Folder) -> list[str]:
    """Files that no stage makes, by name in the folder of a dataset."""
    found = [name for name in folder.names() if name not in _OURS]
    found += [f"{DATA}/{name}" for name in folder.names(DATA) if not PART.fullmatch(f"{DATA}/{name}")]
    return found + [f"{MANIFEST}/{name}" for name in folder.names(MANIFEST) if not ENTRY.fullmatch(name)]


def foreign(folder: Folder, name: str) -> RunDirError:
    return RunDirError(f"{folder}/{name}: no file of this stage; take it away, or have the same command with repair=all do so")


def check_same_stage(folder: Folder, info: StageInfo, *, trust: bool = False) -> bool:
    """Refuse a directory that another config made, naming what differs. Says whether `stage.json` is lost or damaged, and the directory
    known as ours by what is committed in it (or taken for ours where nothing tells, with `trust`).

    Raises:
        RunDirError: see above.
    """
    try:
        body = json.loads(folder.read(STAGE_FILE))
        made_by, its_settings = body["fingerprint"], body["settings"]
    except FileNotFoundError:
        there = folder.names()
        if STAGE_FILE in there:  # another driver was faster
            return check_same_stage(folder, info)
        if there and not {SUCCESS_FILE, MANIFEST} & set(there):
            raise RunDirError(f"{folder}: holds {there[0]!r}, which no stage of this run made; choose another run.dir") from None
        return bool(there) and _is_ours(folder, info, "missing", trust)
    except (ValueError, TypeError, KeyError) as error:
        return _is_ours(folder, info, f"damaged ({error})", trust)
    if made_by != info.fingerprint:
        difference = "; ".join(differences(its_settings, info.settings)) or "an earlier stage differs"
        raise RunDirError(f"{folder}: made by another config ({difference}); choose another run.dir, or set it back")
    return False


def _is_ours(folder: Folder, info: StageInfo, state: str, trust: bool) -> bool:
    found = _fingerprints(folder)
    if info.fingerprint in found or (trust and not found):
        return True
    if found:
        raise RunDirError(f"{folder}: made by another config (its {STAGE_FILE} is {state}); choose another run.dir, or set it back")
    how = "the same command with repair=all takes it for this config's"
    raise RunDirError(f"{folder}/{STAGE_FILE}: {state}, and no file beside it tells which config made it; {how}")


def _fingerprints(folder: Folder) -> set[str]:
    """Of the configs that the closing file and the entries tell of."""
    names = [SUCCESS_FILE] if is_closed(folder) else []
    names += [f"{MANIFEST}/{name}" for name in folder.names(MANIFEST) if ENTRY.fullmatch(name)]
    found: set[str] = set()
    for body in folder.read_many(names):
        with suppress(ValueError, TypeError, KeyError):
            found.add(str(json.loads(body)["fingerprint"]))
    return found - {""}


def clear(folder: Folder) -> None:
    """Delete a dataset. `_SUCCESS` goes last: until then a reader finds it closed, and who is killed here begins again."""
    for name in (*sorted(_OURS - {STAGE_FILE, SUCCESS_FILE}), STAGE_FILE, SUCCESS_FILE):
        folder.delete(name)


def restore_stage_file(folder: Folder, info: StageInfo) -> None:
    """Write it again, once `check_same_stage` found it lost."""
    told = {"stage": info.stage, "fingerprint": info.fingerprint, "settings": info.settings, "restored": True}
    folder.write(STAGE_FILE, json.dumps(told, indent=1, sort_keys=True).encode())


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
