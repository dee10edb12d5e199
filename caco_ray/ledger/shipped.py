"""The files of a shipped data set, as they lie in a folder: with the manifest of its run, or copied elsewhere without it.

Files are read in slices of at most `SLICE_ROWS` rows, so that a data set that somebody wrote again as one large file is worked on piece
by piece too.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from caco_ray.errors import RunDirError, StorageError
from caco_ray.ledger.audit import Fault, ids_table
from caco_ray.runtime.tasks import result_of
from caco_ray.schema import SHIPPED
from caco_ray.store import Dataset, Folder
from caco_ray.store.dataset import is_closed
from caco_ray.store.faults import persistently, storage_errors

SLICE_ROWS = 1024
_FILES_PER_TASK = 16


@dataclass(frozen=True)
class Slice:
    """Rows [first, first + rows) of one row group of a file."""

    file: str
    group: int
    first: int
    rows: int


@dataclass(frozen=True)
class Survey:
    """What lies there. `digest` is of the bytes of all files; `unread`: files that are missing or are not Parquet."""

    slices: tuple[Slice, ...]
    digest: str
    unread: tuple[Fault, ...]
    ids: tuple[ray.ObjectRef, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.slices)


@dataclass(frozen=True)
class _File:
    slices: tuple[Slice, ...] = ()
    sha256: str = ""
    fault: Fault | None = None


def survey(dataset: str) -> Survey:
    """Read every file once, in Ray tasks: those that the manifest names, or all Parquet files under a folder without one.

    Raises:
        RunDirError: no Parquet files, or files without the shipped columns.
    """
    names = file_names(dataset)
    if not names:
        raise RunDirError(f"dataset={dataset}: no Parquet files there")
    task = ray.remote(num_cpus=0.5, num_returns=2)(_survey_files)
    started = [task.remote(dataset, names[first : first + _FILES_PER_TASK]) for first in range(0, len(names), _FILES_PER_TASK)]
    files = [file for listed, _ in started for file in result_of(listed)]
    digest = hashlib.sha256("".join(f"{name}\x1f{file.sha256}\x1e" for name, file in zip(names, files, strict=True)).encode())
    return Survey(
        slices=tuple(part for file in files for part in file.slices),
        digest=digest.hexdigest(),
        unread=tuple(file.fault for file in files if file.fault is not None),
        ids=tuple(ids for _, ids in started),
    )


def file_names(dataset: str) -> list[str]:
    """Paths in the file system of `dataset`."""
    filesystem, root = fsspec.core.url_to_fs(dataset)
    if is_closed(folder := Folder(dataset)):  # a file that a killed commit left behind is not part of it
        return [f"{root.rstrip('/')}/{entry.file}" for entry in Dataset(folder).entries]
    return sorted(filesystem.glob(f"{root}/**/*.parquet"))


def read_slice(dataset: str, part: Slice) -> pa.Table:
    """The shipped columns of a slice.

    Raises:
        RunDirError: the file has gone or is not Parquet any more.
    """
    filesystem, _ = fsspec.core.url_to_fs(dataset)

    def read() -> pa.Table:
        with filesystem.open(part.file, "rb") as file:
            return pq.ParquetFile(file).read_row_group(part.group, columns=SHIPPED.names).slice(part.first, part.rows)

    try:
        with storage_errors(part.file):
            return persistently(read)
    except (FileNotFoundError, StorageError) as error:
        raise RunDirError(f"{part.file}: changed while it was verified ({error})") from error


def _survey_files(dataset: str, names: list[str]) -> tuple[list[_File], pa.Table]:
    filesystem, _ = fsspec.core.url_to_fs(dataset)
    found, ids = [], [ids_table(pa.chunked_array([], pa.string()), "", "", named=False)]
    for name in names:
        file, its_ids = _survey_file(filesystem, name)
        found.append(file)
        ids.append(ids_table(its_ids, "", name, named=False))
    return found, pa.concat_tables(ids)


def _survey_file(filesystem: fsspec.AbstractFileSystem, name: str) -> tuple[_File, pa.ChunkedArray]:
    nothing = pa.chunked_array([], pa.string())
    try:
        with storage_errors(name):
            data = persistently(lambda: filesystem.cat_file(name))
        parquet = pq.ParquetFile(pa.BufferReader(data))
    except FileNotFoundError:
        return _File(fault=Fault("file", name, "missing")), nothing
    except (pa.ArrowInvalid, OSError) as error:
        return _File(fault=Fault("file", name, f"not a Parquet file ({error})")), nothing
    missing = [column for column in SHIPPED.names if column not in parquet.schema_arrow.names]
    if missing:
        raise RunDirError(f"{name}: not a shipped data set (no column {missing[0]!r})")
    ids = parquet.read(columns=["row_id"])["row_id"].cast(pa.string())
    return _File(tuple(_slices(name, parquet)), hashlib.sha256(data).hexdigest()), ids


def _slices(name: str, parquet: pq.ParquetFile) -> Iterator[Slice]:
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        for first in range(0, rows, SLICE_ROWS):
            yield Slice(name, group, first, min(SLICE_ROWS, rows - first))
