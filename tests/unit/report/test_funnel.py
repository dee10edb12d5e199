"""The numbers of a report are those of the rows on disk, and what does not add up is said."""

import json

import pytest

from caco_ray.errors import RunDirError
from caco_ray.report import RunReport, StageReport, collect
from caco_ray.report.charts import funnel_bars
from caco_ray.report.rounds import compare
from caco_ray.run import FOLDERS
from caco_ray.store import Folder


def stage_of(report: RunReport, name: str) -> StageReport:
    stage = report.stage(name)
    assert stage is not None
    return stage


def test_the_fates_of_rows_are_counted_by_stage_and_reason(run) -> None:
    report = collect(run.folder)
    scale = stage_of(report, "scale")
    assert (scale.rows_in, scale.rows, scale.kept, scale.quarantined) == (10, 10, 6, 1)
    assert scale.rejected == (("does_not_run", 2), ("too_short", 1))
    reverse = stage_of(report, "reverse")
    assert (reverse.rows_in, reverse.fan_out, reverse.rows, reverse.kept) == (4, 2, 8, 6)
    assert report.faults == ()
    assert report.not_run == ("judge",)
    assert [stage.name for stage in report.stages][-3:] == ["assemble", "evaluate base", "evaluate student"]


def test_tokens_and_cpu_are_counted_once_at_the_stage_that_spent_them(run) -> None:
    report = collect(run.folder)
    assert {stage.name: (stage.prompt_tokens, stage.tokens) for stage in report.stages if stage.tokens} == {
        "scale": (20, 500),
        "reverse": (480, 240),
        "solve": (180, 480),
        "evaluate base": (200, 400),
        "evaluate student": (200, 400),
    }
    assert (report.prompt_tokens, report.tokens) == (1080, 2020)
    assert {stage.name: stage.cpu_s for stage in report.stages if stage.cpu_s} == {"unify": 1.5, "scale": 5.0}


def test_rates_and_total_time(run) -> None:
    report = collect(run.folder)
    assert stage_of(report, "scale").rows_per_s == 5.0
    assert stage_of(report, "scale").tokens_per_s == 250.0
    assert report.seconds == 9 * 2.0 + 2 * 540.0


def test_solutions_that_were_not_needed_are_in_no_rate(run) -> None:
    """`solve.samples=4 stop_when_agreed=true`: of two problems one agrees at once, the other at the fourth sample."""
    run.folder.delete(FOLDERS["solve"])
    run.stage("solve", 2, {"solved_already": 3, "answer_disagrees": 3}, fan_out=4)
    report = collect(run.folder)
    solve = stage_of(report, "solve")
    assert (solve.rows, solve.drawn, solve.undrawn, solve.failed, solve.kept_share, solve.rows_per_s) == (8, 5, 3, 3, 0.4, 2.5)
    assert (solve.share("answer_disagrees"), solve.share("solved_already")) == (0.6, None)
    assert dict(compare(report.rounds))["solutions that agreed"] == ["2 (40.0%)"]
    assert [bar.rejected for bar in funnel_bars([solve])] == [60.0]


def test_problems_that_repeat_others_are_in_no_rate(run) -> None:
    run.folder.delete(FOLDERS["solve"])
    run.stage("solve", 2, {"duplicate_question": 4, "duplicate_solution": 1, "answer_disagrees": 1}, fan_out=4)
    solve = stage_of(collect(run.folder), "solve")
    assert (solve.rows, solve.drawn, solve.undrawn, solve.failed, solve.kept_share) == (8, 4, 4, 2, 0.5)
    assert (solve.share("duplicate_solution"), solve.share("duplicate_question")) == (0.25, None)


def test_a_run_that_stopped_early_reports_what_is_closed(empty_run) -> None:
    empty_run.stage("seeds", 6, {})
    empty_run.stage("unify", 6, {})
    empty_run.folder.write(f"{FOLDERS['scale']}/stage.json", b"{}")  # begun, not closed
    report = collect(empty_run.folder)
    assert [stage.name for stage in report.stages] == ["seeds", "unify"]
    assert report.fingerprint == "fp-unify"
    assert report.shipped is None and report.trainings == () and report.evaluations == ()
    assert "scale" in report.not_run and "evaluate" in report.not_run and "report" not in report.not_run


def test_a_folder_without_a_closed_stage_is_an_empty_report(empty_run) -> None:
    report = collect(empty_run.folder)
    assert report.stages == () and report.fingerprint is None and report.finished is None and report.seconds == 0


def test_recorded_counts_that_break_the_law_are_a_fault(run) -> None:
    change_totals(run.folder / FOLDERS["solve"], quarantined=5)
    faults = collect(run.folder).faults
    assert any(fault.startswith("solve: 6 rows in x 1 = 6, but 3 kept + 3 rejected + 5 quarantined = 11") for fault in faults)


def test_a_stage_that_did_not_start_from_all_kept_rows_is_a_fault(run) -> None:
    change_totals(run.folder / FOLDERS["reverse"], kept=4, rejected={"question_leaks_answer": 4})
    assert collect(run.folder).faults == ("solve: 6 rows came in, but reverse kept 4",)


def test_a_missing_shard_is_a_fault(run) -> None:
    folder = run.folder / FOLDERS["select"]
    body = json.loads(folder.read("_SUCCESS"))
    body["entries"].pop()
    folder.write("_SUCCESS", json.dumps(body).encode())
    assert "select: 1 of 2 shards are recorded" in collect(run.folder).faults


def test_the_judge_is_the_parent_of_the_shipped_rows_where_it_ran(run) -> None:
    run.stage("judge", 3, {})
    assert collect(run.folder).faults == ()
    change_totals(run.folder / FOLDERS["judge"], kept=2, rejected={"judge_says_no": 1})
    assert collect(run.folder).faults == ("assemble: 3 rows came in, but judge kept 2",)


def test_samples_are_the_same_rows_each_time_and_as_many_as_asked_for(run) -> None:
    first, again, two, none = (collect(run.folder, samples).shipped for samples in (10, 10, 2, 0))
    assert first == again and len(first.samples) == 3 and first.rows == 3
    assert two.samples == first.samples[:2] and none.samples == () and none.rows == 3
    assert [sample.row_id for sample in first.samples] == sorted(sample.row_id for sample in first.samples)
    assert {sample.question for sample in first.samples} == {f"Question {n}: what is 3 + 4?" for n in range(3)}


def test_who_made_the_shipped_rows(run) -> None:
    shipped = collect(run.folder).shipped
    assert [(maker.role, maker.model, maker.rows) for maker in shipped.makers] == [("sample", "codegen", 3), ("solve", "SmolLM2", 3)]
    assert shipped.sandbox_levels == (("L2", 3),) and shipped.styles == (("plain", 3),)


def test_an_empty_data_set_is_reported_as_empty(empty_run) -> None:
    empty_run.ship(0)
    shipped = collect(empty_run.folder).shipped
    assert (shipped.rows, shipped.samples, shipped.makers) == (0, (), ())


def test_training_and_evaluation_are_read(run) -> None:
    report = collect(run.folder)
    codegen = report.trainings[0]
    assert (codegen.name, codegen.seconds, codegen.metrics["steps"], len(codegen.losses)) == ("train_codegen", 540.0, 40, 40)
    base, student = report.evaluations
    assert (base.model, base.overall.correct, student.overall.pass_at_1) == ("base", 2, 0.4)
    assert student.overall.low < 0.4 < student.overall.high
    assert set(student.by_domain) == {"algebra", "logic"}
    assert (student.unanswered, student.truncated, base.prompts) == (3, 2, ("solve@1:instruct",))
    assert (codegen.metrics["sequences_to_sample"], codegen.metrics["sequences_to_solve"]) == (500, 373)


def test_a_resumed_loss_curve_keeps_the_last_value_of_a_step_and_leaves_out_a_torn_line(empty_run) -> None:
    empty_run.train("train_codegen", '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.5}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    assert collect(empty_run.folder).trainings[0].losses == ((1, 3.0), (2, 2.0))


def test_a_training_without_a_curve_is_reported(run) -> None:
    run.folder.delete(f"{FOLDERS['train_codegen']}/progress.jsonl")
    assert collect(run.folder).trainings[0].losses == ()


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("models/codegen/progress.jsonl", '{"loss": 1}\n', "progress.jsonl, line 1"),
        ("models/codegen/_SUCCESS", "[]", "JSON object"),
        ("models/codegen/_SUCCESS", '{"seconds": 1}', "metrics"),
        ("evaluation/summary.json", '{"base": {}}', "by_domain"),
        ("evaluation/summary.json", "not json", "summary.json"),
        ("programs/_SUCCESS", "{", "programs/_SUCCESS"),
        ("programs/_SUCCESS", '{"stage": "scale"}', "programs/_SUCCESS"),
    ],
)
def test_a_damaged_file_is_named(run, file: str, text: str, says: str) -> None:
    run.folder.write(file, text.encode())
    with pytest.raises(RunDirError, match=says) as caught:
        collect(run.folder)
    assert file in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_shipped_file_stops_the_report(run) -> None:
    folder = run.folder / FOLDERS["assemble"]
    folder.write(f"data/{folder.names('data')[0]}", b"other bytes")
    with pytest.raises(RunDirError, match="damaged"):
        collect(run.folder)


def test_an_object_store_is_read_like_a_disk(tmp_path, run_in) -> None:
    stored = run_in(Folder(f"memory://{tmp_path.name}/run"))
    stored.stage("seeds", 2, {})
    stored.ship(2)
    report = collect(stored.folder)
    assert report.shipped.rows == 2 and report.finished is not None


def change_totals(folder: Folder, **totals: object) -> None:
    """Overwrite the recorded totals: the sums of all shards in the first, none in the others."""
    body = json.loads(folder.read("_SUCCESS"))
    first, *others = (entry["totals"] for entry in body["entries"])
    for other in others:
        for key in ("rows_in", "rows", "kept", "quarantined"):
            first[key] += other[key]
            other[key] = 0
        for reason, count in other["rejected"].items():
            first["rejected"][reason] = first["rejected"].get(reason, 0) + count
        other["rejected"] = {}
    first.update(totals)
    folder.write("_SUCCESS", json.dumps(body).encode())
