"""Final answers: find them in a solution (`extract`), and decide whether they agree with what a program computed (`equality`)."""

from caco_ray.grading.algebra import Algebra
from caco_ray.grading.equality import Verdict, answers_agree, answers_equal
from caco_ray.grading.executed import ExecutedAnswer
from caco_ray.grading.extract import final_answer, stated_answers

__all__ = ["Algebra", "ExecutedAnswer", "Verdict", "answers_agree", "answers_equal", "final_answer", "stated_answers"]
