"""One row's history, found by its id in any data set of the run."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from caco_ray.errors import RunDirError
from caco_ray.ledger.trace import print_history, trace
from caco_ray.store import Folder

CHAIN = ["scale", "select", "reverse", "solve", "judge", "assemble"]


def said(run: Path, row_id: str) -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False, soft_wrap=True)
    folder = Folder(str(run))
    print_history(console, folder, trace(folder, row_id))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_shipped_row_goes_back_to_its_sample(finished_run: Path, kept) -> None:
    shipped = kept(finished_run, "assemble")[0]
    history = trace(Folder(str(finished_run)), shipped["row_id"])
    assert [event.step.stage for event in history.events] == CHAIN
    assert all(child.row["parent_id"] == parent.row["row_id"] for parent, child in zip(history.events, history.events[1:], strict=False))
    assert history.events[0].row["row_id"] == shipped["program_id"]
    assert history.cost.tokens == sum(history.events[-2].row[f"{role}_tokens"] for role in ("sample", "reverse", "solve", "judge"))


def test_the_page_names_models_prompts_parameters_seeds_and_costs(finished_run: Path, kept) -> None:
    shipped = kept(finished_run, "assemble")[0]
    judged = next(row for row in kept(finished_run, "judge") if row["row_id"] == shipped["parent_id"])
    page = said(finished_run, shipped["row_id"])
    for text in (
        "fake (models.sampler), prompt sample@",
        f"seed {judged['sample_seed']}",
        "temperature 0.9",
        f"execution      ok, sandbox {judged['sandbox_level']}",
        judged["question"],
    ):
        assert text in page, text
    assert page.count("cost ") >= 5 and "assemble (this row): kept" in page


def test_a_rejected_program_ends_where_it_was_rejected(finished_run: Path) -> None:
    from caco_ray.store import Dataset

    row = next(row for row in Dataset(Folder(str(finished_run / "programs"))).rows(kept_only=False) if row["reject_reason"])
    history = trace(Folder(str(finished_run)), row["row_id"])
    assert [(event.step.stage, event.fate) for event in history.events] == [("scale", f"rejected: {row['reject_reason']}")]


def test_a_program_shows_all_that_was_made_of_it(finished_run: Path, kept) -> None:
    """Two questions were asked of each program."""
    program = kept(finished_run, "reverse")[0]["program_id"]
    history = trace(Folder(str(finished_run)), program)
    assert [event.relation for event in history.events][:2] == ["self", "descendant"]
    assert [event.step.stage for event in history.events].count("reverse") == 2


def test_a_seed_leads_to_its_code_cot(finished_run: Path, kept) -> None:
    row = kept(finished_run, "unify")[0]
    assert [event.step.stage for event in trace(Folder(str(finished_run)), row["row_id"]).events] == ["seeds", "unify"]
    assert row["question"].splitlines()[0] in said(finished_run, row["row_id"])


def test_markup_of_a_model_is_shown_not_obeyed(run: Path, tamper, kept) -> None:
    row_id = kept(run, "assemble")[0]["row_id"]
    tamper(run, "assemble", lambda rows: [{**row, "instruction": "[bold red]hello[/] [/nothing]"} for row in rows])
    assert "[bold red]hello[/] [/nothing]" in said(run, row_id)


def test_an_unknown_id_and_a_folder_without_run_are_one_line(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="row_id=abc: no row of this id"):
        trace(Folder(str(finished_run)), "abc")
    with pytest.raises(RunDirError, match="not a run"):
        trace(Folder(str(tmp_path)), "abc")
