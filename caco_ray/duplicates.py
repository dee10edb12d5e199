"""Find duplicate programs over a whole data set: the one step of the loop that needs all rows at once.

Each shard gives a small table of hashes (two of 8 bytes per row) in a Ray task; one task sorts them all, at about 40 bytes a row of
memory where it runs. The first of equal programs stays: known programs first, then by sample number, so the result does not depend on
which shard was read first.
"""

from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa
import ray

from caco_ray.errors import CacoError
from caco_ray.store import Dataset, Folder

KEYS = pa.schema([("row_id", pa.string()), ("order", pa.int64()), ("exact", pa.uint64()), ("ast", pa.uint64())])
DUPLICATES = pa.schema([("row_id", pa.string()), ("duplicate_of", pa.string()), ("reason", pa.string())])

KeyFunction = Callable[[str], tuple[int, int]]  # code -> (hash of the text, hash of the normalised AST)


def find_duplicates(programs: Folder, known: Sequence[Folder], key: KeyFunction) -> pa.Table:
    """Rows of `programs` that repeat an earlier program, or one of the `known` data sets (seeds, held-out problems), as a DUPLICATES table.

    Raises:
        CacoError: a shard cannot be read.
    """
    keys, search = ray.remote(num_cpus=0.5)(_keys), ray.remote(num_cpus=0.5)(_repeated)
    tasks = [keys.remote(folder, shard, key, True) for folder in known for shard in range(len(Dataset(folder).entries))]
    tasks += [keys.remote(programs, shard, key, False) for shard in range(len(Dataset(programs).entries))]
    try:
        return ray.get(search.remote(*tasks))
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, CacoError) else error) from None


def _keys(folder: Folder, shard: int, key: KeyFunction, is_seed: bool) -> pa.Table:
    rows = [row for row in Dataset(folder).read(shard).to_pylist() if row["code"] is not None]
    hashes = [key(row["code"]) for row in rows]
    return pa.table(
        {
            "row_id": [row["row_id"] for row in rows],
            "order": [-1 if is_seed else row["sample_index"] for row in rows],
            "exact": pa.array([exact for exact, _ in hashes], pa.uint64()),
            "ast": pa.array([ast for _, ast in hashes], pa.uint64()),
        },
        schema=KEYS,
    )


def _repeated(*shards: pa.Table) -> pa.Table:
    return repeated(pa.concat_tables(shards))


def repeated(keys: pa.Table) -> pa.Table:
    """The rows of a KEYS table whose program came before, as DUPLICATES. Seeds have order -1 and are never duplicates themselves."""
    ordered = keys.sort_by([("order", "ascending"), ("row_id", "ascending")])
    first_exact, first_ast = (_first_of(ordered, column) for column in ("exact", "ast"))
    found: dict[str, list[str]] = {"row_id": [], "duplicate_of": [], "reason": []}
    add = partial(_add, found)
    for row_id, order, exact, ast in zip(*(ordered[name].to_pylist() for name in KEYS.names), strict=True):
        if order < 0:
            continue
        if first_exact[exact] != row_id:
            add(row_id, first_exact[exact], "duplicate_exact")
        elif first_ast[ast] != row_id:
            add(row_id, first_ast[ast], "duplicate_ast")
    return pa.table(found, schema=DUPLICATES)


def _first_of(ordered: pa.Table, column: str) -> dict[int, str]:
    first: dict[int, str] = {}
    for value, row_id in zip(ordered[column].to_pylist(), ordered["row_id"].to_pylist(), strict=True):
        first.setdefault(value, row_id)
    return first


def _add(found: dict[str, list[str]], row_id: str, duplicate_of: str, reason: str) -> None:
    for column, value in zip(DUPLICATES.names, (row_id, duplicate_of, reason), strict=True):
        found[column].append(value)
