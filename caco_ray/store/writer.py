"""Write one dataset, shard by shard. Any process may be killed at any moment, and several may work on one shard."""

import hashlib
import io
import json
import re
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from caco_ray import __version__
from caco_ray.errors import RunDirError, StageContractError, StorageError
from caco_ray.schema import is_measured
from caco_ray.store.dataset import (
    COLLECTED,
    DERIVED,
    STAGE_FILE,
    SUCCESS_FILE,
    Dataset,
    StageInfo,
    check_files,
    check_same_stage,
    committed,
    is_closed,
)
from caco_ray.store.folder import Folder
from caco_ray.store.made_by import check_one_model, made_by
from caco_ray.store.manifest import DATA, ENTRY, MANIFEST, PART, ShardEntry, Totals, add_up, count_rows, entry_name, parse

# A request to an object store costs milliseconds of the client's own time: 10,000 entries are read at once, not one by one.
COLLECT_EVERY = 500


class DatasetWriter:
    """Commits shards of one stage. Many processes may hold one for the same directory; the first commit of a shard wins.

    Raises:
        RunDirError: the directory was made with other settings, or holds damaged or foreign files.
        StorageError: the storage refuses the write.
    """

    def __init__(self, folder: Folder, info: StageInfo, schema: pa.Schema) -> None:
        self.folder = folder
        self.info = info
        self.schema = schema
        self._known: dict[int, ShardEntry] = {}
        self._closed = False  # when it was opened
        self._model = ""  # of the committed shards
        self._unsaved: list[ShardEntry] = []
        self._collections = 0

    def __getstate__(self) -> dict[str, Any]:
        """Workers commit; what the driver knows of all other shards stays with it."""
        return {**self.__dict__, "_known": {}, "_unsaved": []}

    def open(self) -> dict[int, ShardEntry]:
        """Claim the directory and return what is committed in it already."""
        lost = check_same_stage(self.folder, self.info)
        body = {**asdict(self.info), "code_version": __version__}
        claim = json.dumps(body, indent=1, sort_keys=True).encode()
        if lost:
            self.folder.write(STAGE_FILE, claim)
        elif not self.folder.exists(STAGE_FILE) and not self.folder.create(STAGE_FILE, claim):
            check_same_stage(self.folder, self.info)  # another driver was faster
        self._closed = is_closed(self.folder)
        if self._closed:
            self._known = {entry.shard: entry for entry in Dataset(self.folder).entries}
        else:
            collected, self._collections = _collected(self.folder)
            self._known = committed(self.folder, collected)
            self._collect(entry for shard, entry in self._known.items() if shard not in collected)
        check_files(self.folder, self.info, self._known.values())
        if self._closed:  # a commit that came after the close, and was killed
            self._sweep({entry.file for entry in self._known.values()})
        self._model = check_one_model(self.folder, self._known.values())
        return dict(self._known)

    def commit(self, shard: int, table: pa.Table, rows_in: int, seconds: float) -> ShardEntry:
        """Write a shard and record it. A shard that somebody committed meanwhile is left as it is.

        `seconds` is a difference of clocks that may stand on two machines: below zero it counts as zero.

        Raises:
            StageContractError: the rows break the conservation law or are not of the schema; nothing is written.
            RunDirError: another model made the shards that were committed before; nothing is written.
        """
        totals = count_rows(table, rows_in, self.info.fan_out)
        data = _to_parquet(table, self.schema)
        file = f"{DATA}/part-{shard:06d}-{uuid.uuid4().hex[:12]}.parquet"
        digest = hashlib.sha256(data).hexdigest()
        took = round(max(seconds, 0.0), 3)
        model, prompt = made_by(self.info.stage, table)
        entry = ShardEntry(
            shard, file, digest, len(data), took, totals, self.info.fingerprint, content_hash(data), model, prompt, __version__
        )
        check_one_model(self.folder, [entry], self._model)
        try:
            self.folder.write(file, data)
            if self.folder.create(entry_name(shard), entry.to_json()):
                return entry
        except StorageError:
            if not self.folder.exists(entry_name(shard)):
                raise  # else a late commit: the stage was closed meanwhile, and our unfinished file swept away under us
        first = committed_entry(self.folder, shard)
        if first.file != file:
            self.folder.delete(file)
        return first

    def note(self, entry: ShardEntry) -> None:
        """The driver heard of a commit: now and then the new entries are written into one file; a restart reads these files first."""
        self._known[entry.shard] = entry
        self._collect([entry])
        self._model = check_one_model(self.folder, [entry], self._model)

    def close(self, seconds: float) -> Totals:
        """Close the stage once every shard is committed: from now on readers trust it. A closed stage is left as it is.

        Raises:
            RunDirError: a shard is missing.
        """
        if is_closed(self.folder):
            return add_up(self._known.values()) if self._closed else Dataset(self.folder).totals
        entries = committed(self.folder, self._known)
        missing = sorted(set(range(self.info.shards)) - set(entries))
        if missing:
            raise RunDirError(f"{self.folder}: shards {missing[:5]} are not committed; run the same command again")
        self._sweep({entry.file for entry in entries.values()})
        for name in DERIVED:  # of other rows, perhaps: what was closed before and reopened
            self.folder.delete(name)
        named = [entries[shard] for shard in range(self.info.shards)]
        head = {**asdict(self.info), "code_version": __version__, "seconds": round(seconds, 3)}
        self.folder.write(SUCCESS_FILE, _listed(named, json.dumps(head).encode()[:-1] + b', "entries": [', b"]}"))
        return add_up(named)

    def _collect(self, entries: Iterable[ShardEntry]) -> None:
        self._unsaved += entries
        if len(self._unsaved) >= COLLECT_EVERY:
            self.folder.write(f"{COLLECTED}/{self._collections:06d}.json", _listed(self._unsaved))
            self._collections += 1
            self._unsaved = []

    def _sweep(self, named: set[str]) -> None:
        """Delete what killed commits left behind. Every shard of ours is recorded, so that no commit of one still on its way can win; those
        of other shards may (`RoundFolder`: another driver may be a pass ahead)."""
        for sub in (DATA, MANIFEST):
            for name in self.folder.names(sub, hidden=True):
                file = f"{sub}/{name}"
                if file not in named and (shard := _left_behind(name)) is not None and shard < self.info.shards:
                    self.folder.delete(file)


def _listed(entries: Iterable[ShardEntry], head: bytes = b"[", tail: bytes = b"]") -> bytes:
    """A JSON array, made entry by entry: all their fields as objects would take many times the memory."""
    text = io.BytesIO()
    text.write(head)
    for number, entry in enumerate(entries):
        text.write((b"," if number else b"") + entry.to_json())
    text.write(tail)
    return text.getvalue()


def _collected(folder: Folder) -> tuple[dict[int, ShardEntry], int]:
    """Entries of the collections whose files are there, and the number of the next collection. They only spare round trips: which shards
    are committed the manifest says."""
    names = [name for name in folder.names(COLLECTED) if ENTRY.fullmatch(name)]
    there = set(folder.names(DATA)) if names else set()
    entries: dict[int, ShardEntry] = {}
    for body in folder.read_many([f"{COLLECTED}/{name}" for name in names]):
        with suppress(ValueError, TypeError, AttributeError):
            entries |= {entry.shard: entry for entry in parse(body) if entry.file.removeprefix(f"{DATA}/") in there}
    return entries, 1 + max((int(name.removesuffix(".json")) for name in names), default=-1)


def committed_entry(folder: Folder, shard: int) -> ShardEntry:
    """The entry that won.

    Raises:
        RunDirError: it cannot be read.
    """
    try:
        return ShardEntry.from_json(folder.read(entry_name(shard)))
    except (ValueError, FileNotFoundError) as error:
        raise RunDirError(f"{folder}/{entry_name(shard)}: damaged ({error}); the same command with repair=all mends it") from error


def content_hash(parquet: bytes) -> str:
    """SHA-256 over the encoded columns that are not measured, taken from the file's own bytes."""
    digest, metadata = hashlib.sha256(), pq.read_metadata(pa.BufferReader(parquet))
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            if not is_measured(column.path_in_schema):
                start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
                digest.update(memoryview(parquet)[start : start + column.total_compressed_size])
    return digest.hexdigest()


def _to_parquet(table: pa.Table, schema: pa.Schema) -> bytes:
    """Encoded alike for alike rows, however they are cut in chunks."""
    try:
        table = table.cast(schema).combine_chunks()
    except (pa.ArrowInvalid, ValueError) as error:
        raise StageContractError(f"rows are not of the stage's schema: {error}") from error
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _left_behind(name: str) -> int | None:
    """The shard of a part, or of an unfinished part or entry (`.NAME.<random>.tmp`); None for other files."""
    meant = re.sub(r"^\.(.+)\.\w+\.tmp$", r"\1", name)
    match = PART.fullmatch(f"{DATA}/{meant}") or (ENTRY.fullmatch(meant) if meant != name else None)
    return int(match[1]) if match else None
