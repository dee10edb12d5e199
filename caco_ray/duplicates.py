"""Find duplicate programs over a whole data set: the one step of the loop that needs all rows at once.

Nobody holds them all: tasks pass files on (`duplicate_files.py`), each at most a bucket of a million rows or so. A task that finds
its file written does nothing, so a search that was killed goes on where it was. The first of equal programs stays: known programs
first, then by sample number, so the result does not depend on which shard was read first.
"""

import hashlib
from collections.abc import Callable, Sequence

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

KeyFunction = Callable[[str], tuple[int, int]]  # code -> (hash of the text, hash of the normalised AST)
Shard = tuple[Folder, int, bool]  # of a data set; whether its programs are known


def find_duplicates(
    programs: Folder,
    known: Sequence[Folder],
    key: KeyFunction,
    folder: Folder,
    rows_per_bucket: int = _ROWS_PER_BUCKET,
    timeout_s: float = TIMEOUT_S,
) -> Duplicates:
    """Rows of `programs` that repeat an earlier program, or one of the `known` data sets (seeds, held-out problems).

    `folder`: where the files go. Whoever has used them may delete it. `timeout_s`: for each task.

    Raises:
        CacoError: a shard cannot be read.
        ClusterError: the tasks' processes died.
        StageStalledError: a task did not end in time.
    """
    datasets = [*((Dataset(each), True) for each in known), (Dataset(programs), False)]
    shards = [(dataset.folder, entry.shard, is_known) for dataset, is_known in datasets for entry in dataset.entries]
    rows, kept = datasets[-1][0].totals.rows, sum(dataset.totals.kept for dataset, _ in datasets)
    parts, buckets = min(_PARTS, 1 + rows // _MIN_PART_ROWS), 1 + kept // rows_per_bucket
    found = Duplicates(folder / _digest(datasets, buckets), parts, max(1, -(-rows // parts)))
    if not all(found.folder.exists(part_name(part)) for part in range(parts)):
        _search(found, _cut(shards), key, buckets, _BYTES_PER_ROW * (kept // buckets), timeout_s)
    return found


def _search(found: Duplicates, groups: list[list[Shard]], key: KeyFunction, buckets: int, memory: int, timeout_s: float) -> None:
    keys, find, part = (ray.remote(num_cpus=0.5)(function) for function in (_keys, _find, _part))
    _wait([keys.remote(found.folder, number, group, key, buckets) for number, group in enumerate(groups)], timeout_s)
    _wait([find.options(memory=memory).remote(found, bucket, len(groups)) for bucket in range(buckets)], timeout_s)
    _wait([part.remote(found, number, buckets) for number in range(found.parts)], timeout_s)


def _wait(references: list[ray.ObjectRef], timeout_s: float) -> None:
    for reference in references:
        result_of(reference, timeout_s)


def _keys(folder: Folder, number: int, shards: list[Shard], key: KeyFunction, buckets: int) -> None:
    if folder.exists(keys_name(number)):
        return
    opened = {source.url: Dataset(source) for source, _, _ in shards}
    table = pa.concat_tables([KEYS.empty_table(), *(_hashes(opened[source.url], shard, key, known) for source, shard, known in shards)])
    places = (table["hash"].to_numpy() % np.uint64(buckets)).astype(np.int64)
    write_batches(folder, keys_name(number), split(table, places, buckets), KEYS)


def _hashes(dataset: Dataset, shard: int, key: KeyFunction, is_known: bool) -> pa.Table:
    """Two rows of each program: of its text and of its syntax tree."""
    names = ["row_id", "code"] if is_known else ["row_id", "code", "sample_index"]
    rows = [row for row in dataset.read(shard).select(names).to_pylist() if row["code"] is not None]
    hashes = [key(row["code"]) for row in rows]
    ids = [row["row_id"] for row in rows]
    order = [-1 if is_known else row["sample_index"] for row in rows]
    kinds = [1] * len(rows) + [0] * len(rows)
    return pa.table([kinds, [exact for exact, _ in hashes] + [tree for _, tree in hashes], order * 2, ids * 2], schema=KEYS)


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
