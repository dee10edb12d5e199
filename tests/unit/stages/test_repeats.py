"""Which problems are the same."""

import pytest

from caco_ray.sandbox.codec import encode
from caco_ray.stages.repeats import question_keys


def keys(question: str, value: object, answer: str | None = None) -> tuple[int]:
    return question_keys(question, str(value) if answer is None else answer, encode(value, 10**6))


QUESTION = "What is $\\frac{1}{4}$ of 1,000 m?"


@pytest.mark.parametrize(
    "question,value",
    [
        (QUESTION, 250),
        ("what is 1/4  of 1000 m", 250),
        (QUESTION, 250.0),
        (QUESTION, 250.00000000000003),
        (QUESTION, "250"),
    ],
)
def test_the_same_problem_in_another_dress(question: str, value: object) -> None:
    assert keys(question, value) == keys(QUESTION, 250)


@pytest.mark.parametrize(
    "question,value",
    [
        (QUESTION, 251),
        (QUESTION, -250),
        (QUESTION, 250.1),
        (QUESTION.replace("1,000", "1,001"), 250),
        (QUESTION.replace("of", "less than"), 250),
        (QUESTION, [250, 250]),
        (QUESTION, True),
        (QUESTION, float("inf")),
    ],
)
def test_another_problem(question: str, value: object) -> None:
    assert keys(question, value) != keys(QUESTION, 250)


def test_answers_of_any_size_and_kind_have_keys() -> None:
    assert keys("q", 10**4000, answer="") != keys("q", 10**4000 + 1, answer="")
    assert question_keys("q", None, '"1e999999999"') != question_keys("q", None, '"1e99"')
    assert keys("q", (1, 2)) == keys("q", [1, 2])
