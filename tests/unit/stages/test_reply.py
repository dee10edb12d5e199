"""Replies taken apart: code blocks, tags, thinking."""

import textwrap

import pytest

from caco_ray.schema import row_id
from caco_ray.stages import judge, reverse, sample, solve, unify
from caco_ray.stages.reply import extract_code, without_thinking

CODE = 'input = {"a": 2, "b": 3}\n\ndef solve(a, b):\n    return a * b\n\noutput = solve(**input)\nprint(output)'


def fresh(**columns):
    return {"row_id": row_id("p", "s", 0), "reject_reason": None, "infra_error": None, **columns}


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        f"```python\n{CODE}\n```",
        f"Here is the program:\n\n```Python\n{CODE}\n```\nIt prints 6.",
        f"```\n{CODE}\n```",
        f"~~~py\n{CODE}\n~~~",
        f"  ```python3 title=x\n{CODE}\n  ```",
        f"```python\n{CODE}",  # the fence was never closed
        f"<think>\nlet me see ```python\nx\n```\n</think>\n```python\n{CODE}\n```",
        f"let me see ```python\nx\n```\n</think>\n```python\n{CODE}\n```",  # the prompt opened the thinking
        f"```python\n{CODE}\n```\nOutput:\n```text\n6\n```",
        f"```bash\npip install sympy\n```\n```python\n{CODE}\n```",
        f"First a try:\n```python\ndef f(x): return x\n```\nNow all of it:\n```python\n{CODE}\n```",
        f"```python\n{CODE}\n```\nAgain:\n```python\n{CODE}\n```",
        "1. Here:\n\n" + textwrap.indent(f"```python\n{CODE}\n```", "   "),
        f"```python\n{CODE}```",
        f"```python\n{CODE}\n```\nok".replace("\n", "\r\n"),
        f"```python3.11\n{CODE}\n```",
    ],
)
def test_the_one_program_of_a_reply_is_found(text):
    code, reason = extract_code(text)
    assert reason is None
    assert code.strip() == CODE


@pytest.mark.parametrize(
    "text,reason",
    [
        ("I cannot write a program for this.", "no_code"),
        ("", "no_code"),
        ("```text\njust words\n```", "no_code"),
        ("```python\n```", "no_code"),
        (f"<think>\n```python\n{CODE}\n```\nor rather", "no_code"),  # thinking that never ended
        ("```python\nx = 1\n```\n```python\ny = 2\n```", "several_code_blocks"),
        (f"```python\n{CODE}\n```\nor\n```python\n{CODE.replace('a * b', 'a + b')}\n```", "several_code_blocks"),
    ],
)
def test_a_reply_without_one_program_is_rejected_by_name(text, reason):
    for role in (sample, unify):
        row = fresh(code=None)
        role.parse(row, text)
        assert (row["reject_reason"], row["code"]) == (reason, None)


def test_raw_text_that_looks_like_code_is_code_even_if_it_does_not_parse():
    row = fresh(code=None)
    sample.parse(row, "input = {'a': 1}\ndef solve(a:\n")
    assert row["reject_reason"] is None and row["code"].startswith("input")


def test_thinking_is_cut_only_at_the_start():
    assert without_thinking("<think>a</think>b") == "b"
    assert without_thinking("b <think>a</think>") == "b <think>a</think>"
    assert without_thinking("a</think>b") == "b"
    assert without_thinking("<think>a") == ""


# Questions.


@pytest.mark.parametrize(
    "text",
    [
        "Lena buys 3 coffees at 4 dollars. What does she pay?",
        "<problem>\nLena buys 3 coffees at 4 dollars. What does she pay?\n</problem>",
        "Sure!\n<problem>Lena buys 3 coffees at 4 dollars. What does she pay?</problem>\nHope it helps.",
        "<problem>Lena buys 3 coffees at 4 dollars. What does she pay?",
        "<think>A shop.</think>\n**Problem:** Lena buys 3 coffees at 4 dollars. What does she pay?",
        "Problem 1: Lena buys 3 coffees at 4 dollars. What does she pay?",
        "### Question:\nLena buys 3 coffees at 4 dollars. What does she pay?",
        "Lena buys 3 coffees at 4 dollars. What does she pay?\n\n**Answer:** 12\nBecause 3 * 4 = 12.",
        "Question: Lena buys 3 coffees at 4 dollars. What does she pay?\nSolution: multiply.",
        "**Problem 2.** Lena buys 3 coffees at 4 dollars. What does she pay?",
        "**Problem**: Lena buys 3 coffees at 4 dollars. What does she pay?",
        "Exercise 2.3: Lena buys 3 coffees at 4 dollars. What does she pay?",
        "**Question: Lena buys 3 coffees at 4 dollars. What does she pay?**",
        "**Problem: Lena buys 3 coffees at 4 dollars.** What does she pay?",
        "**Problem:**\n\n---\n\n**Lena buys 3 coffees at 4 dollars. What does she pay?**",
        "*Lena buys 3 coffees at 4 dollars. What does she pay?*",
    ],
)
def test_the_question_is_what_is_left_of_the_reply(text):
    row = fresh(question=None, question_style=None, reverse_prompt="reverse@1:instruct")
    reverse.parse(row, text)
    assert row["question"] == "Lena buys 3 coffees at 4 dollars. What does she pay?"
    assert row["question_style"] not in (None, "trained")


@pytest.mark.parametrize(
    "question",
    [
        "Problem solving takes Ann 3 hours. How long do 2 rounds take?",
        "Question 4 of a quiz is worth 3 points. Why?",
        "Ann has 3 bags of 4 apples. How many?\nNote: a bag always holds one rotten apple, which does not count.",
        "Note: all angles are in degrees. Find x.",
        "Hint: x > 0.\nFind x with x * x = 4.",
        "Answer: 12",  # not a question, but not nothing either
        "Problem 3.5 litres of water fill a jug. How many jugs are 7 litres?",
        "**A** is 5 and **B** is 6. What is **A** + **B**",
        "**Ann** has 3 apples. How many are left for *Bo*",
    ],
)
def test_what_only_looks_like_a_heading_stays(question):
    row = fresh(question=None, question_style=None, reverse_prompt="reverse@1:trained")
    reverse.parse(row, question)
    assert (row["question"], row["question_style"]) == (question, "trained")


@pytest.mark.parametrize(
    "reply,question",
    [
        ("Problem: -5 + x = 3. Find x.", "-5 + x = 3. Find x."),
        ("Problem: −5 + x = 3. Find x.", "−5 + x = 3. Find x."),
        ("**Problem 1:** -5 + x = 3. Find x.", "-5 + x = 3. Find x."),
        ("Question. .5 + x = 3. Find x.", ".5 + x = 3. Find x."),
        ("Problem: [1, 2] and {3} are given. Why?", "[1, 2] and {3} are given. Why?"),
        ("Problem: **A** is 5. What is **A** + **B**", "**A** is 5. What is **A** + **B**"),
        ("<problem>**Find 2 + 3 * 4.**</problem>", "Find 2 + 3 * 4."),
    ],
)
def test_a_heading_takes_nothing_of_the_question_along(reply, question):
    row = fresh(question=None, question_style=None, reverse_prompt="reverse@1:trained")
    reverse.parse(row, reply)
    assert row["question"] == question


def test_an_empty_question_is_rejected():
    row = fresh(question=None, question_style=None, reverse_prompt="reverse@1:instruct")
    reverse.parse(row, "<problem></problem>")
    assert (row["reject_reason"], row["question"]) == ("empty_generation", None)


# Solutions and verdicts.


def test_the_solution_is_the_reply_without_its_thinking():
    row = fresh(solution=None)
    solve.parse(row, "<think>hm, 13?</think>\n3 * 4 = 12, so \\boxed{12}.\n")
    assert row["solution"] == "3 * 4 = 12, so \\boxed{12}."
    row = fresh(solution=None)
    solve.parse(row, "<think>only that</think>")
    assert (row["reject_reason"], row["solution"]) == ("empty_generation", None)


@pytest.mark.parametrize(
    "text,reason",
    [
        ("Reason: every step follows.\nVerdict: yes", None),
        ("Reason: fine.\n**Verdict:** Yes.", None),
        ("Reason: step 2 guesses.\nVerdict: no", "judge_says_no"),
        ("<think>Verdict: no?</think>Reason: fine.\nVerdict: yes", None),
        ("yes", "judge_unparsable"),
        ("Verdict: maybe", "judge_unparsable"),
        ("1. Reason: it holds.\n2. Verdict: yes", None),
        ("2. Verdict: no", "judge_says_no"),
        ("Reason: fine. Verdict: yes", None),
        ("Reason: fine.\nVerdict: Yes (all hold).", None),
        ("Verdict: **yes** [1-3 hold]", None),
        ("### Final Verdict: Yes", None),
        ("- **Final verdict**: yes\nDone.", None),
        ("Verdict: yes\nFinal Verdict: yes", None),
        ("Verdict: yes\nFinal Verdict: no", "judge_unparsable"),
        ("Verdict: no, step 2 guesses", "judge_says_no"),
        ("Verdict: yes. On a second look: my verdict: no, since step 2 guesses.", "judge_says_no"),
        ("Reply with Verdict: no or yes.\nVerdict: yes", None),
        ("Verdict: yes, but step 2 guesses", "judge_unparsable"),
        ("Verdict: yes or no", "judge_unparsable"),
        ("I say that the verdict: yes", "judge_unparsable"),
        ("Verdict: yes\nVerdict: no", "judge_unparsable"),
        ("Verdict: <yes or no>", "judge_unparsable"),
        ("The verdict: yes or no?", "judge_unparsable"),
    ],
)
def test_only_a_clear_verdict_counts(text, reason):
    row = fresh(judgement=None)
    judge.parse(row, text)
    assert row["reject_reason"] == reason
    assert row["judgement"]
