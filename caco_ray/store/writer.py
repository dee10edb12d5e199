"""Write one dataset, shard by shard. Any process may be killed at any moment, and several may work on one shard."""

import hashlib
import io
import json
import uuid
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from caco_ray import __version__
from caco_ray.errors import RunDirError, StageContractError, StorageError
from caco_ray.schema import is_measured
from caco_ray.store.dataset import (
    COLLECTED_FILE,
    DATA,
    MANIFEST,
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
from caco_ray.store.manifest import PART, ShardEntry, Totals, add_up, count_rows

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
        self._unsaved = 0

    def open(self) -> dict[int, ShardEntry]:
        """Claim the directory and return what is committed in it already."""
        check_same_stage(self.folder, self.info)
        body = {**asdict(self.info), "code_version": __version__}
        claim = json.dumps(body, indent=1, sort_keys=True).encode()
        if not self.folder.exists(STAGE_FILE) and not self.folder.create(STAGE_FILE, claim):
            check_same_stage(self.folder, self.info)  # another driver was faster
        self._closed = is_closed(self.folder)
        if self._closed:
            self._known = {entry.shard: entry for entry in Dataset(self.folder).entries}
        else:
            collected = _collected(self.folder)
            self._known = committed(self.folder, collected)
            self._collect(len(self._known.keys() - collected.keys()))
        check_files(self.folder, self.info, self._known)
        return dict(self._known)

    def commit(self, shard: int, table: pa.Table, rows_in: int, seconds: float) -> ShardEntry:
        """Write a shard and record it. A shard that somebody committed meanwhile is left as it is.

        `seconds` is a difference of clocks that may stand on two machines: below zero it counts as zero.

        Raises:
            StageContractError: the rows break the conservation law or are not of the schema; nothing is written.
        """
        totals = count_rows(table, rows_in, self.info.fan_out)
        data = _to_parquet(table, self.schema)
        file = f"{DATA}/part-{shard:06d}-{uuid.uuid4().hex[:12]}.parquet"
        digest = hashlib.sha256(data).hexdigest()
        took = round(max(seconds, 0.0), 3)
        entry = ShardEntry(shard, file, digest, len(data), took, totals, self.info.fingerprint, content_hash(data))
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
        """The driver heard of a commit: now and then all entries that it knows are written into one file, which a restart reads first."""
        self._known[entry.shard] = entry
        self._collect(1)

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
        named = [entries[shard] for shard in range(self.info.shards)]
        body = {
            **asdict(self.info),
            "code_version": __version__,
            "seconds": round(seconds, 3),
            "entries": [asdict(entry) for entry in named],
        }
        self.folder.write(SUCCESS_FILE, json.dumps(body).encode())
        return add_up(named)

    def _collect(self, more: int) -> None:
        self._unsaved += more
        if self._unsaved >= COLLECT_EVERY:
            self._unsaved = 0
            self.folder.write(COLLECTED_FILE, json.dumps([asdict(entry) for entry in self._known.values()]).encode())

    def _sweep(self, named: set[str]) -> None:
        """Delete what killed commits left behind. Every shard is recorded, so that no commit still on its way can win."""
        for sub in (DATA, MANIFEST):
            for name in self.folder.names(sub, hidden=True):
                file = f"{sub}/{name}"
                if _is_temporary(name) or (PART.fullmatch(file) and file not in named):
                    self.folder.delete(file)


def _collected(folder: Folder) -> dict[int, ShardEntry]:
    """Entries of the collection whose files are there. It only spares round trips: which shards are committed the manifest says."""
    try:
        entries = [ShardEntry.from_fields(fields) for fields in json.loads(folder.read(COLLECTED_FILE))]
    except (FileNotFoundError, ValueError, TypeError):
        return {}
    there = set(folder.names(DATA))
    return {entry.shard: entry for entry in entries if entry.file.removeprefix(f"{DATA}/") in there}


def entry_name(shard: int) -> str:
    return f"{MANIFEST}/{shard:06d}.json"


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


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")
