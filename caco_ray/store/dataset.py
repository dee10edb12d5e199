"""Write and read one committed dataset. A shard is committed when its manifest entry exists, not before."""

import hashlib
import io
import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caco_ray import __version__
from caco_ray.errors import RunDirError
from caco_ray.store.folder import Folder
from caco_ray.store.manifest import ShardEntry, Totals, add_up, count_rows

STAGE_FILE = "stage.json"
SUCCESS_FILE = "_SUCCESS"


@dataclass(frozen=True)
class StageInfo:
    """What a dataset directory is made of. `settings` is what the fingerprint was computed from, kept to name a difference."""

    stage: str
    fingerprint: str
    settings: dict[str, Any]
    shards: int
    fan_out: int = 1


class DatasetWriter:
    """Commits shards of one stage. Many processes may hold one for the same directory; the first commit of a shard wins.

    Raises:
        RunDirError: the directory was made with other settings.
        StorageError: the storage refuses the write.
    """

    def __init__(self, folder: Folder, info: StageInfo, schema: pa.Schema) -> None:
        self.folder = folder
        self.info = info
        self.schema = schema

    def open(self) -> dict[int, ShardEntry]:
        """Claim the directory and return what is committed in it already."""
        check_same_stage(self.folder, self.info)
        if not self.folder.exists(STAGE_FILE):
            body = {**asdict(self.info), "code_version": __version__}
            self.folder.create(STAGE_FILE, json.dumps(body, indent=1, sort_keys=True).encode())
        return committed(self.folder)

    def commit(self, shard: int, table: pa.Table, rows_in: int, seconds: float) -> ShardEntry:
        """Write a shard and record it. A shard that somebody committed meanwhile is left as it is.

        Raises:
            StageContractError: the rows break the conservation law; nothing is written.
        """
        totals = count_rows(table, rows_in, self.info.fan_out)
        buffer = io.BytesIO()
        pq.write_table(table.cast(self.schema), buffer, compression="zstd")
        data = buffer.getvalue()
        file = f"data/part-{shard:06d}-{uuid.uuid4().hex[:8]}.parquet"
        entry = ShardEntry(shard, file, hashlib.sha256(data).hexdigest(), len(data), round(seconds, 3), totals)
        self.folder.write(file, data)
        if not self.folder.create(_entry_name(shard), entry.to_json()):
            self.folder.delete(file)
            return ShardEntry.from_json(self.folder.read(_entry_name(shard)))
        return entry

    def close(self, seconds: float) -> Totals:
        """Close the stage once every shard is committed: from now on readers trust it.

        Raises:
            RunDirError: a shard is missing.
        """
        entries = committed(self.folder)
        missing = sorted(set(range(self.info.shards)) - set(entries))
        if missing:
            raise RunDirError(f"{self.folder}: shards {missing[:5]} are not committed; run the same command again")
        body = {
            **asdict(self.info),
            "code_version": __version__,
            "seconds": round(seconds, 3),
            "entries": [asdict(entries[shard]) for shard in sorted(entries)],
        }
        self.folder.write(SUCCESS_FILE, json.dumps(body).encode())
        return add_up(entries.values())


class Dataset:
    """Reader of a closed dataset.

    Raises:
        RunDirError: the stage is not closed, or a file is missing or damaged.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        try:
            body = json.loads(folder.read(SUCCESS_FILE))
        except FileNotFoundError:
            raise RunDirError(f"{folder}: not complete; run the stages before this one first") from None
        self.info = StageInfo(**{key: body[key] for key in StageInfo.__dataclass_fields__})
        self.seconds: float = body["seconds"]
        self.entries = [ShardEntry.from_json(json.dumps(entry)) for entry in body["entries"]]

    @property
    def totals(self) -> Totals:
        return add_up(self.entries)

    def read(self, shard: int, *, kept_only: bool = True) -> pa.Table:
        """Rows of one shard, checked against the recorded hash."""
        entry = self.entries[shard]
        try:
            data = self.folder.read(entry.file)
        except FileNotFoundError:
            raise RunDirError(f"{self.folder}/{entry.file}: missing, though the manifest names it") from None
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise RunDirError(f"{self.folder}/{entry.file}: damaged (its hash is not the recorded one)")
        table = pq.read_table(io.BytesIO(data))
        if not kept_only:
            return table
        return table.filter(pc.and_(pc.is_null(table["reject_reason"]), pc.is_null(table["infra_error"])))

    def tables(self, *, kept_only: bool = True) -> Iterator[pa.Table]:
        """All shards, one at a time."""
        for shard in range(len(self.entries)):
            yield self.read(shard, kept_only=kept_only)

    def rows(self, *, kept_only: bool = True) -> Iterator[dict[str, Any]]:
        """All rows as dicts, one shard in memory at a time."""
        for table in self.tables(kept_only=kept_only):
            yield from table.to_pylist()


def is_closed(folder: Folder) -> bool:
    return folder.exists(SUCCESS_FILE)


def committed(folder: Folder) -> dict[int, ShardEntry]:
    """Manifest entries by shard.

    Raises:
        RunDirError: an entry cannot be read.
    """
    entries = {}
    for name in folder.names("manifest"):
        if not name.endswith(".json") or name.startswith("."):
            continue
        try:
            entry = ShardEntry.from_json(folder.read(f"manifest/{name}"))
        except (ValueError, TypeError, KeyError) as error:
            raise RunDirError(f"{folder}/manifest/{name}: not a manifest entry ({error}); delete it to redo that shard") from error
        entries[entry.shard] = entry
    return entries


def check_same_stage(folder: Folder, info: StageInfo) -> None:
    """Refuse a directory that another config made, naming what differs.

    Raises:
        RunDirError: see above.
    """
    try:
        body = json.loads(folder.read(STAGE_FILE))
    except FileNotFoundError:
        foreign = [name for name in folder.names() if name not in (STAGE_FILE, SUCCESS_FILE)]
        if foreign:
            raise RunDirError(f"{folder}: holds {foreign[0]!r}, which no stage of this run made; choose another run.dir") from None
        return
    except ValueError as error:
        raise RunDirError(f"{folder}/{STAGE_FILE}: not readable ({error}); choose another run.dir") from error
    if body["fingerprint"] != info.fingerprint:
        difference = "; ".join(differences(body["settings"], info.settings)) or "an earlier stage differs"
        raise RunDirError(f"{folder}: made by another config ({difference}); choose another run.dir, or set it back")


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Where two settings differ, as `key was X, is Y`."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted(old.keys() | new.keys()):
            found += differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return found
    return [] if old == new else [f"{key} was {old!r}, is {new!r}"]


def _entry_name(shard: int) -> str:
    return f"manifest/{shard:06d}.json"
