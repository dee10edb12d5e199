"""What a sweep made: the Parquet table, the terminal's table and the page, from run folders of the real commit layer."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from caco_ray.store import Folder
from caco_ray.sweep.job import Job
from caco_ray.sweep.page import comparisons, render
from caco_ray.sweep.points import Point, expand
from caco_ray.sweep.results import Reader, Result, read_result, to_parquet, to_table
from caco_ray.sweep.table import Board, print_table


@pytest.fixture
def points(whole_run: Path, tmp_path: Path) -> list[Point]:
    """Four points: a whole run, a damaged one, one that has only begun, and none."""
    made = expand("sampling.temperature=0.5,1 seeds.domains=[a],[b]", ["profile=fake", f"run.dir={tmp_path}"])
    for point in made[:2]:
        shutil.copytree(whole_run, point.run_dir)
    for point in made[:3]:
        Folder(point.run_dir).write("config.json", b"{}")
    Folder(made[1].run_dir).write("programs/_SUCCESS", b"no json")
    return made


@pytest.fixture
def results(points: list[Point]) -> list[Result]:
    jobs = [
        Job(points[0].job_id, "SUCCEEDED", 0, "", 12.5),
        Job(points[1].job_id, "FAILED", 1, "error: <b>disk</b> full", 3.0),
        Job(points[2].job_id, "RUNNING"),
        None,
    ]
    return [read_result(point, job) for point, job in zip(points, jobs, strict=True)]


def test_the_table_has_every_figure_and_null_for_what_is_not_known(results: list[Result]) -> None:
    table = pq.read_table(pa.BufferReader(to_parquet(results)))
    whole, damaged, begun, none = table.to_pylist()
    assert table.column_names[:4] == ["point", "sampling.temperature", "seeds.domains", "status"]
    assert table.schema.field("sampling.temperature").type == pa.float64()
    assert whole["status"] == "SUCCEEDED" and whole["job_seconds"] == 12.5 and whole["fault"] is None
    assert (whole["programs_sampled"], whole["programs_kept"], whole["shipped"], whole["shipped_share"]) == (10, 6, 3, 0.3)
    assert (whole["pass_at_1_base"], whole["pass_at_1_student"]) == (0.1, 0.4)
    assert (whole["scale_rows"], whole["scale_kept"], whole["scale_rejected"], whole["scale_quarantined"]) == (10, 6, 3, 1)
    assert whole["judge_rows"] is None
    assert damaged["status"] == "FAILED" and "_SUCCESS" in damaged["fault"] and damaged["shipped"] is None
    assert begun["status"] == "RUNNING" and begun["shipped"] is None and begun["seconds"] is None
    assert none["status"] == "NOT SUBMITTED" and none["job_id"] is None and none["seconds"] is None


def test_a_run_that_cannot_be_seen_is_said_not_made_up(points: list[Point]) -> None:
    result = read_result(points[3], Job(points[3].job_id, "SUCCEEDED", 0))
    assert result.report is None and "cannot be seen from here" in result.fault
    assert not any(value is not None for value in result.figures.values())


def test_null_among_numbers(tmp_path: Path) -> None:
    points = expand("seeds.limit=3,null scale.samples=1e3,5", ["profile=fake", f"run.dir={tmp_path}"])
    table = to_table([Result(point, None) for point in points])
    assert table["seeds.limit"].to_pylist() == [3, 3, None, None]
    assert table["scale.samples"].to_pylist() == [1000, 5, 1000, 5]
    mixed = to_table(
        [Result(point, None) for point in expand("models.sampler.cpus=1 judge.enabled=true,false", ["profile=fake", f"run.dir={tmp_path}"])]
    )
    assert mixed["judge.enabled"].to_pylist() == [True, False]


def test_the_page_escapes_what_jobs_say_and_compares_what_it_can(results: list[Result], tmp_path: Path) -> None:
    page = render(str(tmp_path), results)
    assert "&lt;b&gt;disk&lt;/b&gt; full" in page and "<b>disk</b>" not in page
    assert "<script" not in page and "default-src &#39;none&#39;" not in page and "default-src 'none'" in page
    assert "Not every figure below can be trusted" in page
    assert f'href="{results[0].point.name}/report.html"' in page and ">0.3</td>" in page and "1</b> of <b>4" in page
    assert "10.0%" in page and '<b>40.0%</b> <span class="soft">21.9% to 61.3%' in page
    assert comparisons(results[:1]) == []
    both = comparisons([results[0], results[0]])
    assert both[0].bars[0][1:] == (3.0, 100.0)


def printed(action: Callable[[Console], None], terminal: bool) -> str:
    file = io.StringIO()
    action(Console(file=file, force_terminal=terminal, width=160, highlight=False, soft_wrap=True, legacy_windows=False))
    return file.getvalue()


def test_a_log_has_the_table_without_control_characters(results: list[Result]) -> None:
    text = printed(lambda console: print_table(console, results), terminal=False)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert "SUCCEEDED" in lines[1] and " 0.3 " in lines[1] and "40.0%" in lines[1] and "evaluate student" in lines[1]
    assert "FAILED" in lines[2] and "RUNNING" in lines[3] and "NOT SUBMITTED" in lines[4]


class Still:
    """A sweep as a board sees it."""

    def __init__(self, results: list[Result]) -> None:
        self.points = [result.point for result in results]
        self._jobs = {result.point.job_id: result.job for result in results}

    def job(self, point: Point) -> Job | None:
        return self._jobs[point.job_id]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_board_says_each_change_once(results: list[Result], terminal: bool) -> None:
    def show(console: Console) -> None:
        with Board(console, Reader()) as board:
            for _ in range(3):
                board(Still(results))  # type: ignore[arg-type]

    text = printed(show, terminal)
    assert ("\x1b" in text) == terminal
    if not terminal:
        assert [line.split()[0] for line in text.splitlines()] == ["SUCCEEDED", "FAILED", "RUNNING"]


def test_a_reader_reads_again_when_the_state_changes(points: list[Point], whole_run: Path) -> None:
    reader, point = Reader(), points[2]
    assert reader(point, Job(point.job_id, "RUNNING")).figures["shipped"] is None
    shutil.rmtree(point.run_dir)
    shutil.copytree(whole_run, point.run_dir)
    Folder(point.run_dir).write("config.json", b"{}")
    assert reader(point, Job(point.job_id, "RUNNING")).figures["shipped"] is None
    assert reader(point, Job(point.job_id, "SUCCEEDED", 0)).figures["shipped"] == 3
