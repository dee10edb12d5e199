"""Find duplicates over a whole data set, of programs or of questions: the one thing in the loop that needs all rows at once.

Nobody holds them all: tasks pass files on (`duplicate_files.py`), each at most a bucket of a million rows or so. A task that finds
its file written does nothing, so a search that was killed goes on where it was. The first of equal rows stays: known rows first,
then by sample number and id, so the result does not depend on which shard was read first.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from caco_ray import __version__
from caco_ray.duplicate_files import (
    FOUND,
    KEYS,
    Duplicates,
    found_name,
    keys_name,
    merged,
    part_name,
    read_batches,
    repeated,
    split,
    write_batches,
)
from caco_ray.runtime.tasks import TIMEOUT_S, result_of
from caco_ray.store import Dataset, Folder

_KEY_TASKS = 256  # at most
_ROWS_PER_BUCKET = 1_000_000
_BYTES_PER_ROW = 500  # of a bucket, at the peak of the task that sorts it (measured: 443)
_PARTS, _MIN_PART_ROWS = 256, 65_536  # at most so many, and no smaller

Shard = tuple[Folder, int, bool]  # of a data set; whether its rows are known


@dataclass(frozen=True)
class Key:
    """What makes two rows equal: `hashes` of their `columns`, one of which is the same (64 bits each; that of the text itself is the
    first). A row without the first column is equal to none."""

    columns: tuple[str, ...]
    hashes: Callable[..., tuple[int, ...]]


def find_duplicates(
    rows: Folder,
    known: Sequence[Folder],
    key: Key,
    folder: Folder,
    rows_per_bucket: int = _ROWS_PER_BUCKET,
    timeout_s: float = TIMEOUT_S,
) -> Duplicates:
    """Rows of the data set `rows` that repeat an earlier one, or one of the `known` data sets (seeds, rounds before).

    `folder`: where the files go. Whoever has used them may delete it. `timeout_s`: for each task.

    Raises:
        CacoError: a shard cannot be read.
        ClusterError: the tasks' processes died.
        StageStalledError: a task did not end in time.
    """
    datasets = [*((Dataset(each), True) for each in known), (Dataset(rows), False)]
    shards = [(dataset.folder, entry.shard, is_known) for dataset, is_known in datasets for entry in dataset.entries]
    count, kept = datasets[-1][0].totals.rows, sum(dataset.totals.kept for dataset, _ in datasets)
    parts, buckets = min(_PARTS, 1 + count // _MIN_PART_ROWS), 1 + kept // rows_per_bucket
    found = Duplicates(folder / _digest(datasets, buckets), parts, max(1, -(-count // parts)))
    if not all(found.folder.exists(part_name(part)) for part in range(parts)):
        _search(found, _cut(shards), key, buckets, _BYTES_PER_ROW * (kept // buckets), timeout_s)
    return found


def _search(found: Duplicates, groups: list[list[Shard]], key: Key, buckets: int, memory: int, timeout_s: float) -> None:
    keys, find, part = (ray.remote(num_cpus=0.5)(function) for function in (_keys, _find, _part))
    _wait([keys.remote(found.folder, number, group, key, buckets) for number, group in enumerate(groups)], timeout_s)
    _wait([find.options(memory=memory).remote(found, bucket, len(groups)) for bucket in range(buckets)], timeout_s)
    _wait([part.remote(found, number, buckets) for number in range(found.parts)], timeout_s)


def _wait(references: list[ray.ObjectRef], timeout_s: float) -> None:
    for reference in references:
        result_of(reference, timeout_s)


def _keys(folder: Folder, number: int, shards: list[Shard], key: Key, buckets: int) -> None:
    if folder.exists(keys_name(number)):
        return
    opened = {source.url: Dataset(source) for source, _, _ in shards}
    table = pa.concat_tables([KEYS.empty_table(), *(_hashes(opened[source.url], shard, key, known) for source, shard, known in shards)])
    places = (table["hash"].to_numpy() % np.uint64(buckets)).astype(np.int64)
    write_batches(folder, keys_name(number), split(table, places, buckets), KEYS)


def _hashes(dataset: Dataset, shard: int, key: Key, is_known: bool) -> pa.Table:
    """A row for each hash of a row: programs have one of their text and one of their syntax tree."""
    names = ["row_id", *key.columns] if is_known else ["row_id", *key.columns, "sample_index"]
    rows = [row for row in dataset.read(shard).select(names).to_pylist() if row[key.columns[0]] is not None]
    found = [
        (int(place == 0), value, -1 if is_known else row["sample_index"], row["row_id"])
        for row in rows
        for place, value in enumerate(key.hashes(*(row[name] for name in key.columns)))
    ]
    return pa.table(list(map(list, zip(*found, strict=True))) or [[]] * len(KEYS), schema=KEYS)


def _find(found: Duplicates, bucket: int, key_files: int) -> None:
    if found.folder.exists(found_name(bucket)):
        return
    again = repeated(read_batches(found.folder, [keys_name(number) for number in range(key_files)], bucket, KEYS))
    write_batches(found.folder, found_name(bucket), split(again, found.part_of(again["order"]), found.parts), FOUND)


def _part(found: Duplicates, part: int, buckets: int) -> None:
    if not found.folder.exists(part_name(part)):
        whole = merged(read_batches(found.folder, [found_name(bucket) for bucket in range(buckets)], part, FOUND))
        write_batches(found.folder, part_name(part), [whole], FOUND)


def _cut(shards: list[Shard]) -> list[list[Shard]]:
    size = -(-len(shards) // _KEY_TASKS) or 1
    return [shards[first : first + size] for first in range(0, len(shards), size)]


def _digest(datasets: Sequence[tuple[Dataset, bool]], buckets: int) -> str:
    """Files of other rows, of another version or cut in another way are other files."""
    digest = hashlib.blake2b(f"{__version__} {buckets}".encode(), digest_size=8)
    for dataset, is_known in datasets:
        digest.update(f"\x1f{is_known}".encode())
        for entry in dataset.entries:
            digest.update(entry.sha256.encode())
    return digest.hexdigest()
