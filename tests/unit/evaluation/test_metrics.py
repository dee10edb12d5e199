import json
from itertools import combinations

import pytest

from caco_ray.evaluation import evaluate_rows, pass_at_k, wilson_interval


def _row(problem, correct, domain="algebra", difficulty=1, **more):
    answer = "5" if correct is not None else None
    row = {"parent_id": problem, "correct": correct, "domain": domain, "difficulty": difficulty, "language_answer": answer}
    return {**row, "infra_error": None, "reject_reason": None, "solve_prompt": "solve@1:alpaca", **more}


@pytest.mark.parametrize(("samples", "correct"), [(1, 0), (1, 1), (5, 2), (6, 6), (7, 1)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(samples, correct):
    attempts = [True] * correct + [False] * (samples - correct)
    for k in range(1, samples + 1):
        subsets = list(combinations(attempts, k))
        assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize("arguments", [(5, 2, 0), (5, 2, 6), (5, 6, 1), (5, -1, 1), (0, 0, 1)])
def test_pass_at_k_refuses_the_impossible(arguments):
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(*arguments)


@pytest.mark.parametrize(
    ("correct", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_equals_published_values(correct, trials, low, high):
    """Newcombe 1998, table I (method 3): 81/263, 15/148, 1/29."""
    assert wilson_interval(correct / trials, trials) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_interval_needs_trials():
    with pytest.raises(ValueError, match="at least one trial"):
        wilson_interval(0.5, 0)


def test_summary_counts_problems_domains_and_quarantine():
    summary = evaluate_rows(
        [
            _row("a", True),
            _row("b", False, difficulty=2),
            _row("c", True, domain="geometry"),
            _row("d", None, domain="geometry", reject_reason="truncated"),
            _row("e", None, domain="logic", infra_error="engine: gone"),
        ]
    )
    assert (summary.overall.problems, summary.overall.correct, summary.overall.pass_at_1) == (4, 2, 0.5)
    assert (summary.overall.low, summary.overall.high) == wilson_interval(0.5, 4)
    assert {name: accuracy.pass_at_1 for name, accuracy in summary.by_domain.items()} == {"algebra": 0.5, "geometry": 0.5}
    assert {name: accuracy.problems for name, accuracy in summary.by_difficulty.items()} == {"1": 3, "2": 1}
    assert (summary.unanswered, summary.truncated, summary.undecided, summary.prompts) == (1, 1, 1, ("solve@1:alpaca",))
    assert summary.remarks == "1 without an answer, 1 of them truncated; asked with solve@1:alpaca"
    assert json.loads(json.dumps(summary.to_dict()))["overall"]["pass_at_1"] == 0.5


def test_an_answer_that_is_missing_is_not_one_that_was_cut_off():
    rows = [_row("a", None), _row("b", None, reject_reason="empty_generation", solve_prompt="solve@1:instruct"), _row("c", False)]
    summary = evaluate_rows([*rows, _row("d", None, infra_error="gone", solve_prompt=None, reject_reason="truncated")])
    assert (summary.unanswered, summary.truncated) == (2, 0)
    assert json.loads(json.dumps(summary.to_dict()))["prompts"] == ["solve@1:alpaca", "solve@1:instruct"]


def test_several_attempts_at_a_problem_weigh_as_one_problem():
    summary = evaluate_rows([_row("a", True), _row("a", False), _row("a", False), _row("a", True), _row("b", True)])
    assert (summary.overall.problems, summary.overall.attempts, summary.overall.correct) == (2, 5, 3)
    assert summary.overall.pass_at_1 == pytest.approx(0.75)


def test_nothing_to_evaluate_has_no_rate():
    assert evaluate_rows([]).overall.pass_at_1 is None
