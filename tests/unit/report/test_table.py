"""The table on the terminal."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from caco_ray.report import collect, print_table


def printed(report, width: int = 120, terminal: bool = True) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, soft_wrap=True, force_terminal=terminal, color_system=None)
    print_table(console, report)
    return console.file.getvalue()  # type: ignore[attr-defined]


def line(text: str, stage: str) -> list[str]:
    return next(found for found in text.splitlines() if found.startswith(stage)).split()


def test_each_stage_has_its_counts_reasons_time_and_tokens(run) -> None:
    text = printed(collect(run.folder))
    assert line(text, "scale") == ["scale", "10", "6", "3", "1", "2", "does_not_run", "2.0", "s", "500"]
    assert line(text, "reverse")[:7] == ["reverse", "4", "x", "2", "6", "2", "0"]
    assert "all stages: 18 min 18 s, 2,020 tokens generated" in text
    assert "student: pass@1 40.0% (95 % interval 21.9% to 61.3%; 20 problems; 3 without an answer, 2 of them truncated; asked with solve@1:alpaca)" in text
    assert "3 without an answer, 2 of them truncated; asked with solve@1:instruct" in text
    assert "train_codegen: 9 min 00 s; steps 40" in text
    assert "ERROR" not in text


def test_answers_that_were_not_decided_are_said_beside_the_rate(run) -> None:
    report = collect(run.folder)
    base, student = report.evaluations
    nothing = replace(base.overall, problems=0, attempts=0, correct=0, pass_at_1=None, low=None, high=None)
    text = printed(replace(report, evaluations=(replace(base, overall=nothing, undecided=20), replace(student, undecided=3))))
    assert "asked with solve@1:alpaca; 3 answers quarantined and not counted)" in text
    assert "base: pass@1 not measured (no problems; 20 answers quarantined and not counted)" in text
    assert "not counted" not in printed(report)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_fit_the_terminal(run, width: int) -> None:
    report = replace(collect(run.folder), trainings=(), evaluations=())
    assert max(map(len, printed(report, width).splitlines())) <= width


def test_the_most_frequent_reasons_come_first_and_the_rest_is_counted(empty_run) -> None:
    empty_run.stage("scale", 1, {"too_short": 1, "timeout": 5, "no_input": 3, "no_output": 2, "does_not_parse": 4})
    text = printed(collect(empty_run.folder))
    assert text.index("5 timeout") < text.index("4 does_not_parse") < text.index("3 no_input") < text.index("3 for other reasons")


def test_markup_in_the_data_is_not_interpreted(empty_run) -> None:
    empty_run.stage("scale", 1, {"[red]too_short[/red][/]": 1})
    assert "[red]too_short[/red][/]" in printed(collect(empty_run.folder))


def test_what_does_not_add_up_is_loud(run) -> None:
    report = collect(run.folder)
    stages = (replace(report.stages[0], faults=("7 [b]rows",)), *report.stages[1:])
    assert "ERROR: the counts do not add up. seeds: 7 [b]rows" in printed(replace(report, stages=stages))


def test_nothing_to_report_prints_nothing(empty_run) -> None:
    assert printed(collect(empty_run.folder)) == ""


def test_a_log_file_has_wide_lines(run) -> None:
    assert "2 question_leaks_answer" in printed(collect(run.folder), width=60, terminal=False)
