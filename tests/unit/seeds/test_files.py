"""The user's own seed files: what is read, and one clear line for each kind of mistake."""

import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caco_ray.config import SeedFields, SeedsConfig
from caco_ray.errors import CacoError, SeedError
from caco_ray.seeds import load_seeds, uniqueness
from caco_ray.seeds.files import file_seeds

ROWS = [{"problem": "What is 1 + 1?", "gold": 2, "key": "a"}, {"problem": "What is 2 + 2?", "gold": 4, "key": "b"}]
FIELDS = SeedFields(question="problem", answer="gold", id="key")


def config(path: object, fields: SeedFields = FIELDS, **more: object) -> SeedsConfig:
    return SeedsConfig(sources=(), path=str(path), fields=fields, **more)


def write_lines(path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_json_lines_and_parquet_give_the_same_rows(tmp_path) -> None:
    write_lines(tmp_path / "s.jsonl", *(json.dumps(row) for row in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "s.parquet")
    first, second = (list(file_seeds(config(tmp_path / name))) for name in ("s.jsonl", "s.parquet"))
    assert [(row["question"], row["answer"], row["source_id"]) for row in first] == [
        ("What is 1 + 1?", "2", "a"),
        ("What is 2 + 2?", "4", "b"),
    ]
    assert [{**row, "source": ""} for row in first] == [{**row, "source": ""} for row in second]


def test_ids_are_told_apart_without_keeping_them(monkeypatch) -> None:
    seen: list[tuple[str, str]] = []
    rows = [("1", "a"), ("2", "b"), ("3", "a"), ("4", "c"), ("5", "a")]
    assert list(uniqueness.unique(lambda: iter(rows), lambda row: row[1], lambda *two: seen.append((two[0][0], two[1][0])))) == rows
    assert seen == [("1", "3"), ("1", "5")]
    monkeypatch.setattr(uniqueness, "_hash", lambda name: 7)  # other ids with one hash are no mistake
    assert list(uniqueness.unique(lambda: iter(rows[:2]), lambda row: row[1], lambda *two: pytest.fail(str(two)))) == rows[:2]


def test_any_fsspec_url_is_a_source() -> None:
    with fsspec.open("memory://seeds/s.jsonl.gz", "wt", compression="gzip") as file:
        file.write("\n".join(json.dumps(row) for row in ROWS))
    assert len(list(file_seeds(config("memory://seeds/s.jsonl.gz")))) == 2


def test_rows_get_ids_and_the_held_out_problems_come_along(tmp_path) -> None:
    write_lines(tmp_path / "s.jsonl", *(json.dumps(row) for row in ROWS))
    rows = list(load_seeds(config(tmp_path / "s.jsonl")))
    assert [row["split"] for row in rows[:2]] == ["train", "train"]
    assert {row["split"] for row in rows[2:]} == {"heldout"}
    assert len({row["row_id"] for row in rows}) == len(rows)
    assert [row["row_id"] for row in rows] == [row["row_id"] for row in load_seeds(config(tmp_path / "s.jsonl"))]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"problem": "q", "gold": 1, "key": 1}', '{"problem": "q"'], "line 2: not JSON"),
        (['{"problem": "q", "key": 1}'], "line 1: no field 'gold'"),
        (['{"problem": "  ", "gold": 1, "key": 1}'], "field 'problem'.*is empty"),
        (['{"problem": "q", "gold": null, "key": 1}'], "field 'gold'.*is empty"),
        (['{"problem": "q", "gold": 1, "key": 7}', '{"problem": "r", "gold": 1, "key": 7}'], "line 2: the id '7' was used at line 1"),
        (["[1, 2]"], "line 1: a JSON object is expected"),
        (["[" * 100_000], "line 1: not JSON"),
        (['{"problem": "q", "gold": 1, "key": 1}', '{"problem": "q", "gold": {"x": 1}, "key": 2}'], "line 2: field 'gold' .*not dict"),
        (['{"problem": "q", "gold": [[1, 2]], "key": 1}'], "line 1: field 'gold' .*not list"),
        (['{"problem": "q", "gold": [1, null], "key": 1}'], "line 1: field 'gold' .*not NoneType"),
        (['{"problem": "q", "gold": [], "key": 1}'], "line 1: field 'gold' .*is empty"),
        (['{"problem": "q", "gold": NaN, "key": 1}'], "line 1: field 'gold' .*is nan"),
        (['{"problem": "q", "gold": [1, -Infinity], "key": 1}'], "line 1: field 'gold' .*is -inf"),
        (['{"problem": ["q", "r"], "gold": 1, "key": 1}'], "line 1: field 'problem' .*is a list of 2"),
        (['{"problem": "q\\ud800", "gold": 1, "key": 1}'], "line 1: field 'problem' .*surrogate"),
        (['{"problem": "q", "gold": ["\\udfff"], "key": 1}'], "line 1: field 'gold' .*surrogate"),
        (['{"problem": "q", "gold": 1, "key": "\\ud800"}'], "line 1: field 'key' .*surrogate"),
        (['{"\\ud800": "q"}'], r"line 1: no field 'problem'.*: \\ud800$"),
        ([""], "holds no problems"),
    ],
)
def test_a_bad_line_is_named(tmp_path, lines: list[str], message: str) -> None:
    write_lines(tmp_path / "s.jsonl", *lines)
    with pytest.raises(SeedError, match=message):
        list(load_seeds(config(tmp_path / "s.jsonl")))


def test_answers_that_are_lists_are_their_items(tmp_path) -> None:
    answers = [["2"], ["3", "5"], [0.5, 7], True, "x"]
    rows = [{"problem": ["What?"], "gold": gold, "key": str(number)} for number, gold in enumerate(answers)]
    write_lines(tmp_path / "s.jsonl", *map(json.dumps, rows))
    pq.write_table(pa.Table.from_pylist(rows[:2]), tmp_path / "s.parquet")
    found = list(file_seeds(config(tmp_path / "s.jsonl")))
    assert [row["answer"] for row in found] == ["2", "3, 5", "0.5, 7", "True", "x"]
    assert {row["question"] for row in found} == {"What?"}
    assert [row["answer"] for row in file_seeds(config(tmp_path / "s.parquet"))] == ["2", "3, 5"]


def test_a_pair_of_surrogates_is_one_character(tmp_path) -> None:
    write_lines(tmp_path / "s.jsonl", '{"problem": "\\ud83d\\ude00?", "gold": 1, "key": 1}')
    assert [row["question"] for row in file_seeds(config(tmp_path / "s.jsonl"))] == ["\U0001f600?"]


def test_a_file_that_is_not_there_or_not_one_of_ours(tmp_path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"nope")
    (tmp_path / "latin.jsonl").write_bytes(b'{"problem": "\xe9"}')
    for name, message in [
        ("none.jsonl", "cannot be read"),
        ("s.csv", "must end in"),
        ("bad.parquet", "not a Parquet file"),
        ("latin.jsonl", "UTF-8"),
    ]:
        with pytest.raises(CacoError, match=message):
            list(file_seeds(config(tmp_path / name)))


def test_difficulty_must_be_a_number(tmp_path) -> None:
    write_lines(tmp_path / "s.jsonl", '{"problem": "q", "gold": 1, "key": 1, "level": "hard"}')
    with pytest.raises(SeedError, match="'level' must be an integer"):
        list(file_seeds(config(tmp_path / "s.jsonl", SeedFields(question="problem", answer="gold", difficulty="level"))))


def test_procedural_problems_are_the_same_for_the_same_seed() -> None:
    pytest.importorskip("reasoning_gym")
    options = SeedsConfig(sources=("reasoning_gym",), reasoning_gym={"tasks": ("chain_sum", "gcd"), "size": 5})
    first, second = list(load_seeds(options)), list(load_seeds(options))
    assert first == second
    assert sum(row["source"] == "reasoning_gym" for row in first) == 10
    assert all(row["answer"] for row in first)


def test_an_unknown_procedural_task_is_named() -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(CacoError, match="no task 'sums'"):
        list(load_seeds(SeedsConfig(sources=("reasoning_gym",), reasoning_gym={"tasks": ("sums",)})))


def test_domains_and_difficulty_choose_problems() -> None:
    chosen = [row for row in load_seeds(SeedsConfig(domains=("algebra", "logic"), max_difficulty=2)) if row["split"] == "train"]
    assert {row["domain"] for row in chosen} == {"algebra", "logic"} and {row["difficulty"] for row in chosen} == {1, 2}
    with pytest.raises(SeedError, match="holds no problems"):
        list(load_seeds(SeedsConfig(domains=("poetry",))))
