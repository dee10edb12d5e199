"""What must not be learned or shipped twice, on real Ray with the fake engine: evaluation problems among the seeds, equal problems, equal
solutions."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from caco_ray.run import FOLDERS
from caco_ray.schema import Row
from caco_ray.seeds.builtin import builtin_seeds
from caco_ray.stages.repeats import question_keys
from caco_ray.store import Dataset, Folder

ROOT = Path(__file__).resolve().parents[2]


def seeds() -> Iterator[tuple[str, Row]]:
    """Problems that the fake converter knows; of each, where it stands as well."""
    yield from (("heldout", row) for row in islice(builtin_seeds("heldout"), 2))
    train = builtin_seeds("train")
    yield from (("file", row) for row in islice(train, 2))
    yield from (("nowhere", row) for row in islice(train, 3))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repeats")
    lines = {"seeds": [], "protected": []}
    for number, (place, row) in enumerate(seeds()):
        lines["seeds"].append({"question": row["question"], "answer": row["answer"], "id": f"{place}{number}"})
        if place == "file":
            lines["protected"].append({"question": row["question"].upper()})
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [
        f"run.dir={folder / 'run'}", "profile=fake", "scale.samples=60", "scale.shard_rows=20", "judge.enabled=false", "evaluate.models=[]",
        "seeds.sources=[]", f"seeds.path={folder / 'seeds.jsonl'}", "seeds.fields.id=id", f"select.evaluation_paths=[{folder / 'protected.jsonl'}]",
        "reverse.samples=5", "solve.samples=3", "solve.sampling.temperature=0.7", "until=assemble",
    ]  # fmt: skip
    command = [sys.executable, str(ROOT / "jobs" / "run.py"), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


def rows(run: Path, stage: str, *, kept_only: bool = True) -> list[Row]:
    return list(Dataset(Folder(str(run / FOLDERS[stage]))).rows(kept_only=kept_only))


def test_seeds_that_are_evaluation_problems_are_neither_converted_nor_learned(run: Path) -> None:
    unified = rows(run, "unify", kept_only=False)
    found = {row["source_id"]: (row["reject_reason"], row["unify_model"]) for row in unified}
    assert found == {
        f"{place}{number}": (None, "fake") if place == "nowhere" else ("contaminated", None) for number, (place, _) in enumerate(seeds())
    }


def test_of_equal_problems_one_is_solved(run: Path) -> None:
    solutions = rows(run, "solve", kept_only=False)
    keys = {row["problem_id"]: question_keys(row["question"], row["program_answer"], row["output_json"]) for row in solutions}
    solved = {row["problem_id"] for row in solutions if row["reject_reason"] != "duplicate_question"}
    repeated = [row for row in solutions if row["reject_reason"] == "duplicate_question"]
    assert len(solved) == len(set(keys.values())) == len({keys[problem] for problem in solved}) < len(keys)
    assert all(row["solve_model"] is None and keys[row["duplicate_of"]] == keys[row["problem_id"]] for row in repeated)
    assert {row["duplicate_of"] for row in repeated} <= solved
    assert not (run / "repeated_questions").exists()


def test_no_row_ships_twice_and_counts_add_up(run: Path) -> None:
    solutions, shipped = rows(run, "solve", kept_only=False), rows(run, "assemble")
    pairs = Counter((row["instruction"], row["output"].strip()) for row in shipped)
    assert len(shipped) > 20 and max(pairs.values()) == 1
    fates = Counter(row["reject_reason"] for row in solutions)
    assert fates["duplicate_solution"] > 20 and fates[None] == len(shipped)
    totals = Dataset(Folder(str(run / FOLDERS["solve"]))).totals
    assert totals.rows == 3 * totals.rows_in == totals.kept + sum(totals.rejected.values())
    verify = [sys.executable, str(ROOT / "jobs" / "verify.py"), f"dataset={run / 'dataset'}", "fraction=0"]
    done = subprocess.run(verify, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and "faults 0" in done.stdout, done.stdout + done.stderr
