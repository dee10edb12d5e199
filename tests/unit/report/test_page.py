"""The page is whole, self-contained and safe: what models wrote is text in it and nothing else."""

import re
from dataclasses import replace
from html.parser import HTMLParser

from caco_ray.report import collect, write_report
from caco_ray.report.page import PAGE, render_page
from caco_ray.run import FOLDERS
from caco_ray.schema import REASONS

HOSTILE = "</pre></div><script>alert('x')</script><img src=x onerror=alert(1)> {{ 7 * 7 }} & \u202e"
_VOID = {"meta", "link", "img", "br", "hr", "input", "line", "polyline"}


class Elements(HTMLParser):
    """All elements with their attributes, the visible text, and whether every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(run, config, samples: int = 10) -> str:
    write_report(run.folder, config, samples)
    return run.folder.read(PAGE).decode()


def test_the_page_shows_stages_reasons_training_scores_samples_and_config(run, config) -> None:
    text = Elements(page_of(run, config)).text
    for expected in (
        "6 of 10 kept (60.0%)",
        REASONS["does_not_run"],
        "does_not_run",
        "final loss 0.2134",
        "40.0%",
        "21.9% to 61.3%",
        "Question 0: what is 3 + 4?",
    ):
        assert expected in text
    assert "Not run, or switched off: judge." in text
    assert '"max_answer_chars": 200' in text
    assert "ERROR" not in text


def test_rates_are_over_what_was_drawn_and_rows_are_counted_per_program(run, config) -> None:
    for stage in ("solve", "assemble"):
        run.folder.delete(FOLDERS[stage])
    run.stage("solve", 2, {"solved_already": 3, "answer_disagrees": 3}, fan_out=4)
    run.ship(32)
    text = " ".join(Elements(page_of(run, config)).text.split())
    assert "2 of 5 kept (40.0%), 3 rejected, 3 not needed" in text
    assert "360.0%" in text and "3–" in text
    assert "rows shipped323.2 per program sampled" in text and "320.0%" not in text


def test_write_report_returns_what_the_page_shows(run, config) -> None:
    assert write_report(run.folder, config, 2) == collect(run.folder, 2)


def test_the_page_is_the_same_each_time(run, config) -> None:
    assert page_of(run, config) == page_of(run, config)


def test_elements_are_closed_and_nothing_is_loaded_or_run(run, config) -> None:
    page = page_of(run, config)
    elements = Elements(page)
    assert elements.open == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(elements.tags)
    names = {name for name, _ in elements.attributes}
    assert "src" not in names and not [name for name in names if name.startswith("on")]
    assert [value for name, value in elements.attributes if name == "href"] == ["https://arxiv.org/abs/2510.04081"]
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_what_a_model_wrote_stays_text(run, config) -> None:
    run.folder.delete("dataset")
    run.ship(
        3,
        instruction=HOSTILE,
        output=HOSTILE,
        answer=HOSTILE,
        code=HOSTILE,
        solve_model=HOSTILE,
        question_style=HOSTILE,
        sandbox_level=HOSTILE,
    )
    page = page_of(run, config)
    elements = Elements(page)
    assert elements.text.count(HOSTILE) == 3 * 4 + 2  # a style is shown up to its slash
    assert "script" not in elements.tags and "img" not in elements.tags
    assert "<script" not in page.lower()


def test_a_hostile_path_or_profile_stays_text(run, config) -> None:
    hostile = config.model_copy(update={"profile": HOSTILE})
    report = replace(collect(run.folder), folder=HOSTILE, not_run=(HOSTILE,))
    elements = Elements(render_page(report, hostile))
    assert elements.text.count(HOSTILE) >= 3 and "script" not in elements.tags


def test_a_run_without_models_says_so(run, config, config_of) -> None:
    report = collect(run.folder)
    assert "A test of the plumbing" in Elements(render_page(report, config_of("profile=fake"))).text
    assert "A test of the plumbing" not in Elements(render_page(report, config)).text


def test_counts_that_do_not_add_up_are_an_error_at_the_top(run, config) -> None:
    report = collect(run.folder)
    broken = replace(
        report, stages=tuple(replace(stage, faults=("3 rows in, 2 out",)) if stage.name == "solve" else stage for stage in report.stages)
    )
    text = Elements(render_page(broken, config)).text
    assert text.index("ERROR: the counts of this run do not add up.") < text.index("Funnel")
    assert "solve: 3 rows in, 2 out" in text and text.count("✗ ERROR") == 1


def test_a_run_that_stopped_early_has_a_page(empty_run, config) -> None:
    empty_run.stage("seeds", 6, {})
    empty_run.stage("unify", 0, {"answer_mismatch": 6})
    elements = Elements(page_of(empty_run, config))
    assert "0 of 6 kept (0.0%)" in elements.text and "train_codegen" in elements.text
    assert not re.search(r"Training|Evaluation|Shipped rows", elements.text)


def test_a_run_without_a_closed_stage_has_a_page(empty_run, config) -> None:
    assert "nothing to report" in Elements(page_of(empty_run, config)).text


def test_an_empty_data_set_is_said_to_be_empty(empty_run, config) -> None:
    empty_run.stage("scale", 0, {"does_not_run": 4})
    empty_run.ship(0)
    assert "the data set is empty" in Elements(page_of(empty_run, config)).text


def test_a_stage_without_rows_divides_by_nothing(empty_run, config) -> None:
    for name in ("seeds", "unify", "scale", "select", "reverse", "solve", "assemble"):
        empty_run.write(name, [[]])
    empty_run.evaluate()
    assert "0 of 0 kept" not in Elements(page_of(empty_run, config)).text


def test_a_rate_is_shown_with_what_was_asked_and_what_was_cut_off(run, config) -> None:
    text = Elements(page_of(run, config)).text
    assert "2 of 20 attempts, 3 without an answer, 2 of them truncated; asked with solve@1:instruct" in text
    assert "8 of 20 attempts, 3 without an answer, 2 of them truncated; asked with solve@1:alpaca" in text


def test_an_evaluation_without_problems_and_a_model_without_a_domain(run, config) -> None:
    report = collect(run.folder)
    base, student = report.evaluations
    nothing = replace(base.overall, problems=0, attempts=0, correct=0, pass_at_1=None, low=None, high=None)
    odd = (replace(base, overall=nothing), replace(student, by_domain={"algebra": nothing}))
    text = Elements(render_page(replace(report, evaluations=odd), config)).text
    assert "no problems" in text
