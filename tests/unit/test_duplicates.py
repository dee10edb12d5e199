"""The first of equal programs stays, whichever shard was read first and however the search is cut; seeds come before all samples."""

import random
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pytest

from caco_ray import duplicates
from caco_ray.duplicate_files import KEYS, Duplicates, merged, repeated, split
from caco_ray.duplicates import Key
from caco_ray.schema import PROBLEM, PROGRAM, SEED, SELECTED, SOLUTION, Row, to_table
from caco_ray.stages.mark import mark_duplicates
from caco_ray.stages.repeats import question_keys
from caco_ray.store import DatasetWriter, Folder, StageInfo

REASONS = ("duplicate_exact", "duplicate_ast")
ROWS = (
    ("seed", -1, 10, 100),
    ("copy_of_seed", 0, 10, 100),
    ("renamed_seed", 1, 11, 100),
    ("new", 2, 12, 102),
    ("copy_of_new", 3, 12, 102),
    ("renamed_new", 4, 13, 102),
    ("alone", 5, 14, 105),
)


def keys(*rows: tuple[str, int, int, int]) -> pa.Table:
    each = chain.from_iterable(((1, exact, order, name), (0, tree, order, name)) for name, order, exact, tree in rows)
    return pa.Table.from_pylist([dict(zip(KEYS.names, key, strict=True)) for key in each], schema=KEYS)


def found(table: pa.Table) -> list[tuple[str, str, int]]:
    return [(row["row_id"], row["duplicate_of"], row["is_exact"]) for row in merged(repeated(table)).to_pylist()]


def test_copies_and_renamed_programs_name_the_first() -> None:
    assert found(keys(*ROWS)) == [
        ("copy_of_seed", "seed", 1),
        ("renamed_seed", "seed", 0),
        ("copy_of_new", "new", 1),
        ("renamed_new", "new", 0),
    ]


def test_the_order_of_shards_does_not_matter() -> None:
    assert found(keys(*reversed(ROWS))) == found(keys(*ROWS))


def test_equal_seeds_are_left_alone() -> None:
    assert found(keys(("a", -1, 1, 1), ("b", -1, 1, 1))) == []


def test_a_table_is_split_by_place_and_keeps_its_order() -> None:
    table = pa.table({"at": [2, 0, 2, 3, 0], "name": list("abcde")})
    assert [part["name"].to_pylist() for part in split(table, table["at"].to_numpy(), 5)] == [["b", "e"], [], ["a", "c"], ["d"], []]


def programs(draw: random.Random, first: int) -> list[list[Row]]:
    """Shards of rows whose programs often repeat each other."""
    rows = [
        {"row_id": f"{number:032x}", "parent_id": "scale", "sample_index": number, "code": f"{draw.randrange(30)} {draw.randrange(40)}"}
        for number in range(first, first + 60)
    ]
    return [rows[start : start + 7] for start in range(0, len(rows), 7)]


def seeds(draw: random.Random) -> list[list[Row]]:
    return [[{"row_id": f"seed{number:028x}", "parent_id": "x", "code": f"{draw.randrange(30)} 1"} for number in range(8)]]


def commit(folder: Folder, stage: str, schema: pa.Schema, shards: list[list[Row]]) -> None:
    writer = DatasetWriter(folder, StageInfo(stage, "fp", {}, len(shards)), schema)
    writer.open()
    for shard, rows in enumerate(shards):
        writer.commit(shard, to_table(rows, schema), len(rows), 0.0)
    writer.close(0.0)


def key(code: str) -> tuple[int, int]:
    """`exact tree`: equal texts with different trees too, as trailing blanks in a string make them."""
    exact, tree = code.split()
    return int(exact), int(tree)


def plainly(before: list[list[Row]], shards: list[list[Row]]) -> dict[str, tuple[str, str]]:
    """The rule with dictionaries."""
    known = sorted(chain.from_iterable(before), key=lambda row: row["row_id"])
    exact, tree, result = dict[int, str](), dict[int, str](), {}
    for row in chain(known, chain.from_iterable(shards)):
        of_text, of_tree = (of.setdefault(value, row["row_id"]) for of, value in zip((exact, tree), key(row["code"]), strict=True))
        if "sample_index" in row and of_text != row["row_id"]:
            result[row["row_id"]] = (of_text, "duplicate_exact")
        elif "sample_index" in row and of_tree != row["row_id"]:
            result[row["row_id"]] = (of_tree, "duplicate_ast")
    return result


@pytest.mark.parametrize(("seed", "buckets", "parts", "first"), [(0, 1, 1, 0), (1, 5, 4, 0), (2, 3, 9, 1000)])
def test_shards_in_any_buckets_and_parts_give_what_one_look_at_all_rows_gives(
    tmp_path: Path, seed: int, buckets: int, parts: int, first: int
) -> None:
    draw = random.Random(seed)
    before, shards = seeds(draw), programs(draw, first)
    known, made = Folder(str(tmp_path / "seeds")), Folder(str(tmp_path / "programs"))
    commit(known, "seeds", SEED, before)
    commit(made, "scale", PROGRAM, shards)
    where = Duplicates(Folder(str(tmp_path / "duplicates")), parts, -(-60 // parts))
    every = [(known, 0, True), *((made, shard, False) for shard in range(len(shards)))]
    groups = [every[start : start + 4] for start in range(0, len(every), 4)]
    for number, group in enumerate(groups):
        duplicates._keys(where.folder, number, group, Key(("code",), key), buckets)
    for bucket in range(buckets):
        duplicates._find(where, bucket, len(groups))
    for part in range(parts):
        duplicates._part(where, part, buckets)
    marked: dict[str, tuple[str, str]] = {}
    for rows in shards:
        table = mark_duplicates(to_table([{**row, "program_id": row["row_id"]} for row in rows], SELECTED), where, "program_id", REASONS)
        marked |= {
            row["row_id"]: (row["duplicate_of"], row["reject_reason"]) for row in table.to_pylist() if row["reject_reason"] is not None
        }
    assert marked == plainly(before, shards) and len(marked) > 10


def test_of_equal_problems_the_first_stays_through_all_rounds_and_shards(tmp_path: Path) -> None:
    """The columns: sample, question, answer, and the place of the earlier problem that it repeats."""
    rounds = (
        [(0, "What is 2 + 3?", "5", None), (1, "What is 2 * 3?", "6", None)],
        [
            (70, "what is $2 + 3$ ?", "5", 0),  # of the round before
            (70, "What is 2 + 4?", "6", None),
            (70, "What is 2 + 4?", "6", 3),  # of the same program
            (71, "What is 2 * 3?", "5", None),  # another answer
            (72, "What is 2 + 4?", "6.0", 3),
            (65, "What is half of 1?", "1/2", None),
            (66, "What is half of 1?", "0.5", 7),
        ],
    )
    outputs = {"1/2": '{"$fraction":[1,2]}'}
    rows = [
        {"row_id": f"{place:032x}", "parent_id": "x", "sample_index": number, "question": question, "program_answer": answer}
        | {"output_json": outputs.get(answer, answer)}
        for place, (number, question, answer, _) in enumerate(chain(*rounds))
    ]
    first, second = Folder(str(tmp_path / "first")), Folder(str(tmp_path / "second"))
    commit(first, "reverse", PROBLEM, [rows[:2]])
    shards = [rows[2:4], rows[4:6], rows[6:7], rows[7:]]
    commit(second, "reverse", PROBLEM, shards)
    where, key = Duplicates(Folder(str(tmp_path / "found")), 2, 40), Key(("question", "program_answer", "output_json"), question_keys)
    duplicates._keys(where.folder, 0, [(second, shard, False) for shard in range(len(shards))], key, 3)
    duplicates._keys(where.folder, 1, [(first, 0, True)], key, 3)
    for bucket in range(3):
        duplicates._find(where, bucket, 2)
    for part in range(2):
        duplicates._part(where, part, 3)
    solutions = [{**row, "problem_id": row["row_id"], "row_id": f"{at}-{sample}"} for at, row in enumerate(rows) for sample in (0, 1)]
    marked = mark_duplicates(
        to_table(solutions[4:], SOLUTION), where, "problem_id", ("duplicate_question", "duplicate_question")
    ).to_pylist()
    of = [None if at is None else f"{at:032x}" for *_, at in rounds[1] for _ in (0, 1)]
    assert [row["duplicate_of"] for row in marked] == of
    assert [row["reject_reason"] for row in marked] == [at and "duplicate_question" for at in of]


def test_a_task_that_was_done_before_is_not_done_again(tmp_path: Path) -> None:
    where = Duplicates(Folder(str(tmp_path)), 1, 10)
    for name in ("keys-00000.arrow", "found-00000.arrow", "part-00000.arrow"):
        (tmp_path / name).write_bytes(b"of a search that was killed")
    duplicates._keys(where.folder, 0, [(Folder(str(tmp_path / "absent")), 0, True)], Key(("code",), key), 1)
    duplicates._find(where, 0, 1)
    duplicates._part(where, 0, 1)
    assert {file.read_bytes() for file in tmp_path.iterdir()} == {b"of a search that was killed"}
