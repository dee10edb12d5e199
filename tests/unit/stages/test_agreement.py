"""The agreement operators on tables: what they fill, reject and quarantine, and that they return every row."""

import pytest

from caco_ray.errors import StageContractError
from caco_ray.schema import CODE_COT, EVALUATED, SOLUTION, row_id, to_table
from caco_ray.stages.agreement import Agreement, Grade, MatchKnownAnswer

HANGS = r"\boxed{9^{9^{9^9}}}"


@pytest.fixture(scope="module")
def agreement():
    operator = Agreement(cpu_s=1)
    yield operator
    operator.close()


def _table(schema, *rows):
    ids = ({"row_id": row_id("seed", "test", at), "parent_id": "seed"} for at in range(len(rows)))
    return to_table([{**known, **row} for known, row in zip(ids, rows, strict=True)], schema)


def _solution(text, output_json="12"):
    return {"solution": text, "output_json": output_json}


def test_solutions_are_kept_rejected_or_quarantined(agreement):
    table = _table(
        SOLUTION,
        _solution(r"3 * 4 = 12, so \boxed{12}."),
        _solution(r"\boxed{13}"),
        _solution("There are twelve."),
        _solution(r"\boxed{12} or rather: \boxed{13}"),
        _solution(HANGS),
        _solution(HANGS + r" no: \boxed{13}"),
        {**_solution(r"\boxed{12}"), "reject_reason": "truncated"},
        {**_solution(r"\boxed{12}"), "infra_error": "engine: gone"},
        _solution(None),
    )
    result = agreement(table)
    assert result.schema == table.schema
    assert result["row_id"].equals(table["row_id"])
    rows = result.to_pylist()
    assert [row["reject_reason"] for row in rows] == [
        None, "answer_disagrees", "no_final_answer", "answer_disagrees", None, "answer_disagrees", "truncated", None, "no_final_answer",
    ]  # fmt: skip
    assert [row["language_answer"] for row in rows] == ["12", "13", None, "13", "9^{9^{9^9}}", "13", None, None, None]
    assert [row["infra_error"] is not None for row in rows] == [False, False, False, False, True, False, False, True, False]
    assert "algebra" in rows[4]["infra_error"]
    assert rows[7]["infra_error"] == "engine: gone"


def test_exact_types_of_the_output_count(agreement):
    table = _table(
        SOLUTION,
        _solution(r"\boxed{0.33}", '{"$fraction":[1,3]}'),
        _solution(r"\boxed{0.33}", "0.3333333333333333"),
        _solution(r"\boxed{2, 1}", "[1,2]"),
        _solution(r"\boxed{2, 1}", '{"$set":[1,2]}'),
    )
    assert agreement(table)["reject_reason"].to_pylist() == ["answer_disagrees", None, "answer_disagrees", None]


def test_a_live_row_without_an_output_is_a_bug_not_a_wrong_answer(agreement):
    with pytest.raises(StageContractError, match="output_json"):
        agreement(_table(SOLUTION, _solution(r"\boxed{12}", None)))


def _votes(rows):
    return [(row["solve_samples"], row["solve_pass_rate"], row["solve_majority"]) for row in rows]


def test_solutions_of_a_problem_are_counted_together():
    operator = Agreement(cpu_s=1, samples=4)
    problem = [{**_solution(text), "parent_id": "p"} for text in (r"\boxed{13}", r"\boxed{12}", r"\boxed{12.0}", "None.")]
    other = [{**_solution(rf"\boxed{{{answer}}}"), "parent_id": "q"} for answer in (7, 8, 8, 12)]
    other[3] |= {"infra_error": "engine: gone"}
    lost = [{**_solution(r"\boxed{12}"), "parent_id": "r", "infra_error": "engine: gone"}] * 4
    table = operator(_table(SOLUTION, *problem, *other, *lost))
    assert _votes(table.to_pylist()) == [(None, None, None)] * 12  # graded, perhaps in parts
    rows = operator.complete(table).to_pylist()
    with pytest.raises(StageContractError, match="3 of 4 solutions of p"):
        operator.complete(table.slice(1))
    operator.close()
    assert _votes(rows[:4]) == [(4, 0.5, "12")] * 4
    assert _votes(rows[4:8]) == [(3, 0.0, "8")] * 4
    assert _votes(rows[8:]) == [(None, None, None)] * 4


def test_solutions_that_are_the_same_text_count_each_and_the_first_is_kept():
    operator = Agreement(cpu_s=1, samples=4)
    texts = (r"\boxed{13}", r"So \boxed{12}", r"\boxed{12}", "So \\boxed{12}\n")
    rows = [{**_solution(text), "parent_id": "p", "row_id": f"p{number}"} for number, text in enumerate(texts)]
    other = [{**_solution(r"So \boxed{12}"), "parent_id": "q", "row_id": f"q{number}"} for number in range(4)]
    wrong = [{**_solution(r"\boxed{9}"), "parent_id": "r", "row_id": f"r{number}"} for number in range(4)]
    result = operator.complete(operator(_table(SOLUTION, *rows, *other, *wrong))).to_pylist()
    operator.close()
    repeated, disagrees = "duplicate_solution", "answer_disagrees"
    assert [row["reject_reason"] for row in result[:8]] == [disagrees, None, None, repeated, None, repeated, repeated, repeated]
    assert [row["duplicate_of"] for row in result[:8]] == [None, None, None, "p1", None, "q0", "q0", "q0"]
    assert [row["reject_reason"] for row in result[8:]] == [disagrees] * 4
    assert [_votes(result)[at] for at in (0, 4)] == [(4, 0.75, "12"), (4, 1.0, "12")]


def test_problems_that_repeat_others_are_in_no_vote():
    operator = Agreement(cpu_s=1, samples=2)
    rows = [{**_solution(None), "parent_id": "p", "row_id": f"p{number}", "reject_reason": "duplicate_question"} for number in range(2)]
    result = operator.complete(operator(_table(SOLUTION, *rows))).to_pylist()
    operator.close()
    assert _votes(result) == [(None, None, None)] * 2


def test_an_empty_table_passes(agreement):
    assert agreement(_table(SOLUTION)).num_rows == 0


def test_programs_are_matched_with_known_answers():
    operator = MatchKnownAnswer()
    known = [
        ("12", "12"),
        ("We add.\n#### 12", "12"),
        (r"so \boxed{\frac{1}{3}}", '{"$fraction":[1,3]}'),
        ("13", "12"),
        ("[1, 2]", "[2,1]"),
        ("Ann", '"Ann"'),
    ]
    table = _table(CODE_COT, *({"answer": answer, "output_json": output} for answer, output in known))
    rows = operator(table).to_pylist()
    operator.close()
    assert [row["reject_reason"] for row in rows] == [None, None, None, "answer_mismatch", "answer_mismatch", None]


def test_attempts_are_graded_and_never_rejected():
    operator = Grade(cpu_s=1)
    table = _table(
        EVALUATED,
        {"solution": r"\boxed{1,200}", "answer": "1200"},
        {"solution": "The answer is 7.", "answer": "8"},
        {"solution": "I do not know.", "answer": "8"},
        {"solution": HANGS, "answer": "8"},
        {"solution": r"first \boxed{3}, then \boxed{8}", "answer": "8"},
    )
    rows = operator(table).to_pylist()
    operator.close()
    assert [row["correct"] for row in rows] == [True, False, False, None, True]
    assert [row["language_answer"] for row in rows] == ["1,200", "7", None, "9^{9^{9^9}}", "8"]
    assert [row["reject_reason"] for row in rows] == [None] * 5
    assert [row["infra_error"] is not None for row in rows] == [False, False, False, True, False]
