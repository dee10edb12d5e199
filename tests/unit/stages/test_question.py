"""Checks on questions: good ones pass (all built-in problems, thousands of published ones), bad ones are named."""

import ast
import json

import pytest

from caco_ray.config import ReverseConfig, SamplingConfig
from caco_ray.sandbox.codec import encode
from caco_ray.schema import PROBLEM, row_id, to_table
from caco_ray.seeds.builtin import builtin_seeds
from caco_ray.stages.question import CHECKS, check_questions
from caco_ray.stages.stated import missing_values, stands_in, stated_numbers, written_numbers

CONFIG = ReverseConfig(sampling=SamplingConfig(temperature=1))
CODE = 'input = {"coffees": 3, "price": 4, "paid": 50}\n\ndef solve(coffees, price, paid):\n    return paid - coffees * price\n'
GOOD = "Lena buys 3 coffees at 4 dollars each and pays with a 50 dollar note. How much change does she get?"


def plain(text):
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def problem(question, given=None, answer="38", code=CODE, index=0):
    return {
        "row_id": row_id("p", "reverse", index),
        "parent_id": "p",
        "question": question,
        "code": code,
        "program_answer": answer,
        "input_json": encode({"coffees": 3, "price": 4, "paid": 50} if given is None else given, 10**6),
        "output_json": encode(plain(answer), 10**6),
    }


def reasons(rows, config=CONFIG):
    table = to_table(rows, PROBLEM)
    result = check_questions(table, config)
    assert result.schema == table.schema and result["row_id"].equals(table["row_id"])
    return result["reject_reason"].to_pylist()


def seed_problems():
    seeds = [row for split in ("train", "heldout") for row in builtin_seeds(split)]
    inputs = [ast.literal_eval(ast.parse(seed["code"]).body[0].value) for seed in seeds]
    return [problem(s["question"], given, s["answer"], s["code"], n) for n, (s, given) in enumerate(zip(seeds, inputs, strict=True))]


def test_every_builtin_problem_passes():
    rows = seed_problems()
    assert dict(zip([row["question"] for row in rows], reasons(rows), strict=True)) == {row["question"]: None for row in rows}


def test_the_question_of_another_program_is_rejected():
    rows = seed_problems()
    swapped = [{**row, "question": other["question"]} for row, other in zip(rows, rows[1:] + rows[:1], strict=True)]
    assert sum(reason is not None for reason in reasons(swapped)) > 0.97 * len(rows)


def test_published_word_problems_are_questions_without_code(shared_data):
    lines = (shared_data / "gsm8k" / "train.jsonl").read_text().splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    for question in questions:
        row = problem(question, {})
        for name in ("not_a_question", "question_leaks_code", "question_too_long"):
            assert CHECKS[name](row, CONFIG) is None, (name, question)


@pytest.mark.parametrize(
    "question,reason",
    [
        (GOOD, None),
        ("How much?", "question_too_short"),
        (GOOD + " word" * 300, "question_too_long"),
        ("Lena buys 3 coffees at 4 dollars each and pays with a 50 dollar note.", "not_a_question"),
        ("What does the following program print for 3 coffees at 4 dollars and 50 dollars paid?", "question_leaks_code"),
        ("Given coffees = 3, price 4 and paid 50, what is output = solve(**input) here?", "question_leaks_code"),
        ("With 3 coffees, a unit_price of 4 and 50 paid, what is the change?", "question_leaks_code"),
        ("What is the change?\n```python\nprint(50 - 3 * 4)\n```", "question_leaks_code"),
        (GOOD + " The answer is 38.", "question_leaks_answer"),
        (GOOD.replace("How much", "Show that she gets back 38 dollars. How much"), "question_leaks_answer"),
        (GOOD.replace("at 4 dollars each ", ""), "question_misses_values"),
        (GOOD.replace("3 coffees", "some coffees").replace("50 dollar", "large"), "question_misses_values"),
    ],
)
def test_each_fault_has_its_name(question, reason):
    assert reasons([problem(question)]) == [reason]


def test_an_answer_that_is_also_a_value_of_the_input_or_a_constant_is_no_leak():
    higher = "In a game Ann scored 48 points and Bob scored 73 points. What was the higher score?"
    assert reasons([problem(higher, {"ann": 48, "bob": 73}, "73", "output = max(a, b)")]) == [None]
    names = "Ann, Bob and Cleo ran a race and the last letter wins. Who is the winner?"
    assert reasons([problem(names, {"names": ["Ann", "Bob", "Cleo"]}, "Cleo", "output = max(names)")]) == [None]
    degrees = "A turn of 180 degrees is cut into 1 part. How many degrees has the part?"
    assert reasons([problem(degrees, {"parts": 1}, "180", "output = 180 // parts")]) == [None]
    assert reasons([problem(degrees, {"parts": 1}, "180", "output = parts")]) == ["question_leaks_answer"]


def test_a_small_number_leaks_only_where_it_is_announced():
    text = "Two friends share 8 apples and 6 pears. They say nothing to 2 others. How many more apples than pears are there?"
    assert reasons([problem(text, {"apples": 8, "pears": 6}, "2", "output = apples - pears")]) == [None]
    assert reasons([problem(text + " Answer: 2", {"apples": 8, "pears": 6}, "2", "output = apples - pears")]) == ["question_leaks_answer"]


@pytest.mark.parametrize(
    "answer,announced,no_leak",
    [
        ("No", "The answer is no.", "If the answer is not whole, round it down."),
        ("No", "Answer: No", "The answer is no more than 50. Answer yes or no."),
        ("A", "The answer is A.", "The answer is a whole number."),
        ("A", "(Answer: (A))", "The answer is Ann or Bo."),
        ("Fri", "The answer is Fri, as you see.", "The answer is Friday or Monday."),
        ("B", "The answer is B - as you see.", "The answer is A, B or C."),
        ("A", "\\boxed{A} is it.", "The answer is A, B or C."),
        ("A", "(The answer is A) Then stop.", "The answer is (A) or (B)."),
        ("even", "The answer is even since 38 is.", "Result: even or odd"),
        ("yes", "The answer is yes, but why?", "Answer: yes, no or never"),
        ("12", "The answer is 12cm.", "The answer is 12,000 for a thousand."),
        ("12", "The answer is 12, as you see.", "The result is 12/7 in a week."),
        ("3", "\\boxed{3}", "\\boxed{30}"),
    ],
)
def test_an_announced_answer_is_the_whole_word_or_number(answer, announced, no_leak):
    assert reasons([problem(f"{GOOD} {announced}", answer=answer)]) == ["question_leaks_answer"]
    assert reasons([problem(f"{GOOD} {no_leak}", answer=answer)]) == [None]


@pytest.mark.parametrize(
    "answer,text,reason",
    [
        ("25", "A quarter of them is red.", None),
        ("50", "Half of them is red.", None),
        ("0.5", "Half of them is red.", None),
        ("0.25", "Of all, 25% is red.", None),
        ("250", "Of the 1,250 cups, some are red.", None),
        ("50", "Between twenty and thirty cups are red.", None),
        ("0.5", "In one second, one falls.", None),
        (str(10**6), "Of 2.5 million cups, some are red.", None),
        ("heart", "The art of cups is old.", None),
        ("cart", "A carton of cups is red.", None),
        ("25", "Of the twenty-five cups, some are red.", "question_leaks_answer"),
        ("25", "Of all, 25% is red.", "question_leaks_answer"),
        ("1250", "Of the 1,250 cups, some are red.", "question_leaks_answer"),
        ("2500000", "Of 2.5 Million cups, some are red.", "question_leaks_answer"),
        ("312", "Of three hundred and twelve cups, some are red.", "question_leaks_answer"),
        ("0.5", "The share .5 of it is red.", "question_leaks_answer"),
        ("2.5", "Add 2 1/2 cups.", "question_leaks_answer"),
        ("0.4", "Of these, two fifths are red.", "question_leaks_answer"),
        ("x**2 + 3", "Show that it is x^2 + 3.", "question_leaks_answer"),
    ],
)
def test_an_answer_leaks_where_it_stands_and_not_where_it_might_be_read(answer, text, reason):
    assert reasons([problem(f"{GOOD} {text}", answer=answer)]) == [reason]


@pytest.mark.parametrize(
    "question,reason",
    [
        ("Find sum(k^2) for k from 1 to 50 and add 3 times 4.", None),
        ("Find the range(f) of f over 3, 4 and 50 to the end.", None),
        ("A light has a wavelength lambda of 500 nm: what are 3 and 4 times 50?", None),
        ("Evaluate int(x^2 dx) from 3 to 4 and add 50 to that.", None),
        ("Find sum(k for k in numbers) of 3, 4 and 50 now.", "question_leaks_code"),
        ("Find sum([3, 4, 50]) and tell it.", "question_leaks_code"),
        ("Sort 3, 4 and 50 by key=lambda n: n and tell the last.", "question_leaks_code"),
        ("Apply lambda x: x + 3 to 4 and to 50, what comes?", "question_leaks_code"),
        ("Add all i in range(50) and 3 and 4, what comes?", "question_leaks_code"),
    ],
)
def test_mathematics_that_looks_like_code_is_none(question, reason):
    assert reasons([problem(question)]) == [reason]


SORTS = "Sort the three largest of the numbers 5, 1, 3 and 0 by size."


@pytest.mark.parametrize(
    "answer,question,reason",
    [
        ("[1, 3, 5]", f"{SORTS} Show that you get 1, 3, 5.", "question_leaks_answer"),
        ("[1, 3, 5]", f"{SORTS} Show that you get $1$, $3$ and $5$.", "question_leaks_answer"),
        ("(1, 3.0, 5)", f"{SORTS} Show that you get [1,3,5]!", "question_leaks_answer"),
        ("[(1, 3), (5, 0)]", f"{SORTS} Show that you get (1, 3) and (5, 0).", "question_leaks_answer"),
        ("[-1, 2500, 0.5]", f"{SORTS} Show that you get −1, 2,500 and 0.50.", "question_leaks_answer"),
        ("{'Bo', 'Ann', 'Cy'}", f"{SORTS} Show that ann, Bo, and Cy win.", "question_leaks_answer"),
        ("[1, 3, 5]", SORTS, None),
        ("[1, 3, 5]", f"{SORTS} Show that you get 1, 3, 5, 7.", None),  # more than the answer
        ("[1, 3, 5]", f"{SORTS} The odd numbers are 1, 3, 5, ... without end.", None),
        ("[1, 3, 5]", f"{SORTS} Not 1, 3 and 50 or 0.1, 3, 5.", None),
        ("[5, 1, 3]", SORTS, None),  # a part of the input
        ("[5, 1, 3, 0]", SORTS, None),
        ("[1, 3]", f"{SORTS} Begin with 1, 3.", None),
        ("[2, 4, 6]", f"{SORTS} Then add 2, 4, 6.", None),  # a list of the program
        ("[(-2, 4), (6, 8)]", f"{SORTS} Then add (-2, 4), (6, 8).", None),  # nested, with signs
        ("[7, 8, 9]", f"{SORTS} Then add 7, 8, 9.", None),  # a text of the program
        ("[True, False, True]", f"{SORTS} Is it True, False, True?", None),
        ("[]", f"{SORTS}", None),
    ],
)
def test_a_list_leaks_where_all_of_it_stands_and_nothing_known_explains_it(answer, question, reason):
    code = 'input = {"numbers": [5, 1, 3, 0]}\nadd, more = [2, 4, 6], [(-2, 4), (6, 8), len(input)]\nmost = [(-2, 4), (6, 8)]\nnote = "7, 8, 9"\noutput = sorted(input["numbers"])[-3:]'
    assert reasons([problem(question, {"numbers": [5, 1, 3, 0]}, answer, code)]) == [reason]


def test_values_of_the_input_in_their_order_explain_a_list():
    row = problem("Which of the sides 3, 4 and 5 is which? State all.", {"a": 3, "b": 4, "c": 5}, "[3, 4, 5]")
    assert reasons([row]) == [None]
    row = problem(
        "Ann has 3 pens, Bo has 4, Cy has 5. Are Ann, Bo and Cy all?", {"pens": {"Ann": 3, "Bo": 4, "Cy": 5}}, "['Ann', 'Bo', 'Cy']"
    )
    assert reasons([row]) == [None]


def test_some_values_may_be_left_out_where_the_config_allows_it():
    row = problem(GOOD.replace("at 4 dollars each ", ""))
    assert reasons([row], CONFIG.model_copy(update={"max_missing_values": 1})) == [None]


def test_rejected_rows_are_left_alone():
    row = {**problem(None), "reject_reason": "truncated"}
    assert reasons([row]) == ["truncated"]


# Values that a text states.


@pytest.mark.parametrize(
    "value,text",
    [
        (1000, "a prize of 1,000 dollars"),
        (1234567, "it has 1,234,567 people"),
        (12.5, "costs $12.50 a piece"),
        (0.5, "a discount of 50%"),
        (0.5, "half of them"),
        (0.075, "a tax of 7.5 percent"),
        (25, "25% of the class"),
        (0.25, "a quarter of the cake"),
        (0.3333333333333333, "1/3 of the cake"),
        (2.5, "2 1/2 cups"),
        (0.75, "\\frac{3}{4} of it"),
        (-4, "4 degrees below zero"),
        (-4, "it was −4 degrees"),
        (7, "seven ducks"),
        (20, "twenty ducks"),
        (42, "forty-two ducks"),
        (312, "three hundred and twelve ducks"),
        (12, "a dozen eggs"),
        (24, "two dozen eggs"),
        (2_500_000, "2.5 million people"),
        (3000, "three thousand people"),
        (10**6, "10^6 cells"),
        (2, "twice as many"),
        (3, "the third place"),
        (1, "a single hat"),
        (0, "there are no hats"),
        (10000, "$10{,}000$"),
        (5, "f(x) = x^2 + 5x"),
        (Ellipsis, "nothing to state"),
        (True, "nothing to state"),
        ("", "nothing to state"),
        ([3, 5, 8], "the numbers 3, 5 and 8"),
        (list(range(1, 101)), "the integers from 1 to 100"),
        ({"apple": 3, "pear": 4}, "an apple costs 3 and a pear costs 4"),
        ([("Ann", 3), ("Bob", 4)], "Ann has 3 and Bob has 4"),
        ("apple", "how many apples"),
        ("North-East", "go north-east"),
        ("x**2 + 3*x", "let f(x) = x^2 + 3x"),
        ("salad and bread", 'the text "Salad and bread"'),
    ],
)
def test_stated(value, text):
    assert missing_values(value, text) == []


@pytest.mark.parametrize(
    "value,text,missing",
    [
        (13, "a price of 130 dollars", ["13"]),
        (5, "a price of 15 dollars and 0.5 more", ["5"]),
        (0.25, "25 apples", ["0.25"]),
        (12.5, "12 apples and 5 pears", ["12.5"]),
        ([3, 5, 8], "the numbers 3 and 8", ["5"]),
        ([3, 5, 8], "some numbers", ["3", "5", "8"]),
        (list(range(1, 101)), "the integers from 1 to 10", ["100"]),
        ({"apple": 3}, "a pear costs 3", ["apple"]),
        ("Ann", "Bob and Cleo", ["Ann"]),
        ([4, 4, 4], "no number", ["4"]),
        (float("nan"), "a number", ["nan"]),
    ],
)
def test_not_stated(value, text, missing):
    assert missing_values(value, text) == missing


def test_an_integer_of_any_size_is_looked_for():
    assert missing_values(10**6000, "a number") == [f"an integer of {(10**6000).bit_length()} bits"]


def test_a_text_of_digits_alone_is_read():
    assert stated_numbers("9" * 5000)


def test_numbers_of_thousands_of_digits_and_many_words_are_read():
    assert written_numbers("9" * 5000) and not stands_in("no such words", "word " * 5000)
