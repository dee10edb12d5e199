"""The first of equal programs stays, whichever shard was read first; seeds come before all samples."""

import pyarrow as pa

from caco_ray.duplicates import KEYS, repeated


def keys(*rows: tuple[str, int, int, int]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(KEYS.names, row, strict=True)) for row in rows], schema=KEYS)


ROWS = (
    ("seed", -1, 10, 100),
    ("copy_of_seed", 0, 10, 100),
    ("renamed_seed", 1, 11, 100),
    ("new", 2, 12, 102),
    ("copy_of_new", 3, 12, 102),
    ("renamed_new", 4, 13, 102),
    ("alone", 5, 14, 105),
)


def test_copies_and_renamed_programs_name_the_first() -> None:
    assert [(row["row_id"], row["duplicate_of"], row["reason"]) for row in repeated(keys(*ROWS)).to_pylist()] == [
        ("copy_of_seed", "seed", "duplicate_exact"),
        ("renamed_seed", "seed", "duplicate_ast"),
        ("copy_of_new", "new", "duplicate_exact"),
        ("renamed_new", "new", "duplicate_ast"),
    ]


def test_the_order_of_shards_does_not_matter() -> None:
    assert repeated(keys(*reversed(ROWS))).equals(repeated(keys(*ROWS)))


def test_equal_seeds_are_left_alone() -> None:
    assert repeated(keys(("a", -1, 1, 1), ("b", -1, 1, 1))).num_rows == 0
