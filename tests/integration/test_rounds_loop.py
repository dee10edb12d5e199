"""`rounds=2` on real Ray with the fake engine: the second round adds new programs to the first, and the data set ships both."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from caco_ray.config import Config
from caco_ray.ledger.lineage import read_config
from caco_ray.ledger.trace import trace
from caco_ray.pipeline import codegen_data
from caco_ray.report import collect
from caco_ray.run import FOLDERS, Run
from caco_ray.schema import is_measured
from caco_ray.store import Dataset, Folder

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("profile=fake", "scale.samples=60", "scale.shard_rows=30", "seeds.limit=12", "judge.enabled=false", "evaluate.models=[]")


def job(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / name), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


def rows(run: Path, stage: str, number: int = 1, *, kept_only: bool = True) -> list[dict[str, object]]:
    place = f"rounds/{number}/{FOLDERS[stage]}" if number > 1 else FOLDERS[stage]
    return list(Dataset(Folder(str(run / place))).rows(kept_only=kept_only))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made in two goes: first one round until `select`, then both."""
    folder = tmp_path_factory.mktemp("rounds") / "run"
    first = job("run.py", *SMALL, f"run.dir={folder}", "until=select")
    assert first.returncode == 0, first.stdout + first.stderr
    made = {path: path.read_bytes() for path in folder.rglob("part-*.parquet")}
    second = job("run.py", *SMALL, f"run.dir={folder}", "rounds=2")
    assert second.returncode == 0, second.stdout + second.stderr
    assert made and all(path.read_bytes() == data for path, data in made.items()), "round 1 is the run that was there"
    return folder


@pytest.fixture(scope="module")
def config(two: Path) -> Config:
    return read_config(Folder(str(two)))


def test_the_second_round_samples_on_and_repeats_nothing_of_the_first(two: Path) -> None:
    first, second = (rows(two, "scale", number, kept_only=False) for number in (1, 2))
    assert [row["sample_index"] for row in (*first, *second)] == list(range(120))
    assert len({row["row_id"] for row in (*first, *second)}) == 120
    codes = {row["code"] for row in rows(two, "scale")}
    ids = {row["row_id"] for row in first}
    again = [row for row in rows(two, "select", 2, kept_only=False) if row["code"] in codes]
    assert again and all(str(row["reject_reason"]).startswith("duplicate") for row in again), "a share of the fake programs repeats"
    assert any(row["duplicate_of"] in ids for row in again)


def test_the_data_set_is_the_union_and_everything_adds_up(two: Path) -> None:
    shipped, solved = rows(two, "assemble"), [row for number in (1, 2) for row in rows(two, "solve", number)]
    assert [row["parent_id"] for row in shipped] == [row["row_id"] for row in solved] and len(shipped) > 40
    assert {int(str(row["sample_index"])) // 60 for row in shipped} == {0, 1}
    proved = job("verify.py", f"dataset={two / 'dataset'}", "fraction=0")
    assert proved.returncode == 0 and "faults 0" in proved.stdout, proved.stdout + proved.stderr
    for name in ("scale 60", "scale round 2 60", f"assemble {len(shipped)}"):
        assert name in proved.stdout


def test_a_row_is_traced_within_its_round(two: Path) -> None:
    last = rows(two, "assemble")[-1]
    history = trace(Folder(str(two)), str(last["row_id"]))
    stages = ["scale", "select", "reverse", "solve"]
    assert [event.step.label for event in history.events] == [*(f"{stage} round 2" for stage in stages), "assemble"]
    assert [event.step.label for event in trace(Folder(str(two)), str(last["program_id"])).events][-1] == "assemble"


def test_the_report_compares_the_rounds(two: Path) -> None:
    report = collect(Folder(str(two)))
    first, second = report.rounds
    assert report.faults == () and report.programs[0] == 120
    assert (first.sampled, second.sampled, second.new) == (60, 60, len(rows(two, "select", 2)))
    assert first.diversity is not None and second.diversity is not None and first.diversity.programs == second.diversity.programs > 30
    page = (two / "report.html").read_text()
    assert "<h2>Rounds</h2>" in page and "scale round 2" in page and "distinct syntax trees" in page


def test_the_generator_of_a_round_learns_from_seeds_and_all_rounds_before(two: Path, config: Config) -> None:
    run = Run(config)
    seeds, own = codegen_data(run.round(2))
    assert own.roles == ("sample",)  # its programs have no questions yet
    assert (seeds.name, own.name, own.weight) == ("code_cot", "selected", config.own_weight)
    assert [row["row_id"] for row in own.rows()] == [row["row_id"] for row in rows(two, "select")]
    assert all(own.examples(row) for row in own.rows())
    assert [data.name for data in codegen_data(run.round(3))] == ["code_cot", "selected", "rounds/2/selected"]
    assert [data.name for data in codegen_data(run.round(1))] == ["code_cot"]


def test_another_number_of_rounds_is_refused_for_the_data_set_alone(two: Path) -> None:
    refused = job("run.py", *SMALL, f"run.dir={two}", "rounds=3")
    assert refused.returncode == 2 and "dataset: made by another config (rounds was 2, is 3)" in refused.stderr, refused.stderr


@pytest.fixture
def barren(two: Path) -> Iterator[Path]:
    """The second round made to have found nothing; nothing is made of both yet."""
    place, made = two / "rounds/2/selected/_SUCCESS", ("dataset", "evaluation")
    before = place.read_text()
    body = json.loads(before)
    for entry in body["entries"]:
        entry["totals"] |= {"kept": 0, "rejected": {"duplicate_ast": entry["totals"]["rows"]}}
    place.write_text(json.dumps(body))
    for name in made:
        (two / name).rename(two / f"{name}-elsewhere")
    yield two
    for name in made:
        (two / f"{name}-elsewhere").rename(two / name)
    place.write_text(before)


def test_a_round_that_found_nothing_ends_the_run_with_one_line(barren: Path) -> None:
    done = job("run.py", *SMALL, f"run.dir={barren}", "rounds=3", "until=scale")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "round 2: none of its" in done.stderr and "duplicate_ast), so round 3 has nothing to learn from" in done.stderr
    assert not (barren / "rounds/3").exists()


def test_a_damaged_shard_of_a_round_is_made_again(two: Path) -> None:
    part = sorted((two / "rounds/2/problems/data").glob("part-*.parquet"))[0]
    before, shipped = part.read_bytes(), rows(two, "assemble")
    part.unlink()
    mended = job("run.py", *SMALL, f"run.dir={two}", "rounds=2", "repair=all")
    assert mended.returncode == 0 and "reverse round 2" in mended.stdout and part.name in mended.stdout, mended.stdout + mended.stderr
    assert before and [plain(row) for row in rows(two, "assemble")] == [plain(row) for row in shipped]
    assert len(list((two / "rounds/2/problems/data").glob("part-*.parquet"))) == 2


def plain(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if not is_measured(name)}
