"""What the search for duplicates leaves on disk, and how it gets from one file to the next. Pure; `duplicates.py` has the tasks.

    keys-*   hashes of the rows of some shards, one record batch for each bucket: equal hashes come into the same bucket
    found-*  the rows of one bucket that repeat an earlier one, one record batch for each part
    part-*   the same of one part, a range of sample numbers; a shard that is marked reads the part or the two that it lies in

A task reads one batch of each file of the step before, and no process holds more than that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from caco_ray.store import Folder
from caco_ray.store.faults import persistently, storage_errors

KEYS = pa.schema([("is_exact", pa.int8()), ("hash", pa.uint64()), ("order", pa.int64()), ("row_id", pa.string())])
FOUND = pa.schema([("order", pa.int64()), ("row_id", pa.string()), ("duplicate_of", pa.string()), ("is_exact", pa.int8())])


@dataclass(frozen=True)
class Duplicates:
    """Found duplicates in `parts` files; rows are numbered by `sample_index`, `part_rows` of them in a part."""

    folder: Folder
    parts: int
    part_rows: int

    def part_of(self, numbers: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.int64]:
        """Numbers of a later round begin anywhere: parts are counted round and round."""
        parts: npt.NDArray[np.int64] = numbers.to_numpy() // self.part_rows % self.parts
        return parts

    def among(self, numbers: pa.ChunkedArray) -> pa.Table:
        """A table of `FOUND` with the duplicates among the rows of these sample numbers (and others of the same parts).

        Raises:
            StorageError: the storage does not answer.
        """
        return read_batches(self.folder, [part_name(int(part)) for part in np.unique(self.part_of(numbers))], 0, FOUND)


def keys_name(number: int) -> str:
    return f"keys-{number:05d}.arrow"


def found_name(bucket: int) -> str:
    return f"found-{bucket:05d}.arrow"


def part_name(part: int) -> str:
    return f"part-{part:05d}.arrow"


def split(table: pa.Table, places: npt.NDArray[np.int64], count: int) -> list[pa.Table]:
    """A table in `count` tables: each row goes where `places` says, in the order that it has."""
    ordered = table.take(pa.array(np.argsort(places, kind="stable")))
    ends = np.cumsum(np.bincount(places, minlength=count))
    return [ordered.slice(end - size, size) for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)]


def repeated(keys: pa.Table) -> pa.Table:
    """The rows of `KEYS` whose hash came before, as `FOUND`. Known rows have the order -1 and are never duplicates themselves."""
    ordered = keys.sort_by([(name, "ascending") for name in KEYS.names])
    kinds, hashes, order = (ordered[name].to_numpy() for name in ("is_exact", "hash", "order"))
    follows = np.zeros(len(ordered), bool)
    follows[1:] = (hashes[1:] == hashes[:-1]) & (kinds[1:] == kinds[:-1])
    first = np.maximum.accumulate(np.where(follows, 0, np.arange(len(ordered))))
    again = np.flatnonzero(follows & (order >= 0))
    of = ordered["row_id"].take(pa.array(first[again]))
    return ordered.take(pa.array(again)).append_column("duplicate_of", of).select(FOUND.names)


def merged(found: pa.Table) -> pa.Table:
    """One row of `FOUND` for each duplicate: where text and syntax tree both came before, the text counts."""
    ordered = found.sort_by([("order", "ascending"), ("row_id", "ascending"), ("is_exact", "descending")])
    ids = ordered["row_id"].to_numpy()
    is_first = np.ones(len(ids), bool)
    is_first[1:] = ids[1:] != ids[:-1]
    return ordered.filter(pa.array(is_first))


def write_batches(folder: Folder, name: str, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """One record batch for each table, empty ones too."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as file:
        for table in tables:
            batches = table.combine_chunks().to_batches()
            file.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema))
    folder.write(name, sink.getvalue().to_pybytes())


def read_batches(folder: Folder, names: Sequence[str], index: int, schema: pa.Schema) -> pa.Table:
    """The `index`-th batch of each file, and nothing else of it."""
    return pa.Table.from_batches([_read_batch(folder, name, index) for name in names], schema)


def _read_batch(folder: Folder, name: str, index: int) -> pa.RecordBatch:
    filesystem, root = folder.for_arrow()

    def batch() -> pa.RecordBatch:
        with filesystem.open_input_file(f"{root}/{name}") as file:
            return pa.ipc.open_file(file).get_batch(index)

    with storage_errors(f"{folder}/{name}"):
        return persistently(batch)
