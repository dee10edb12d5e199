import pytest

from caco_ray.grading import final_answer, stated_answers


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        (r"so \boxed{5}.", ["5"]),
        (r"\boxed{\frac{1}{2}}", [r"\frac{1}{2}"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        (r"\boxed{\boxed{5}}", ["5"]),
        (r"\fbox{5}" + r" and then \boxed 7 .", ["7"]),
        (r"\boxed{1} and \boxed{2}", ["1, 2"]),
        (r"\[\boxed{1},\quad\boxed{2}\]", ["1, 2"]),
        (r"first \boxed{3}, so in the end \boxed{4}", ["3", "4"]),
        (r"\boxed{5}" + "\n\nFinal answer: 6", ["5", "6"]),
        (r"\[ x = \boxed{5} \]" + "\n\n" + r"\boxed{5}", ["5", "5"]),
        (r"$\boxed{5}$ $\boxed{5}$", ["5", "5"]),
        (r"\boxed{1}" + "\n" + r"\boxed{2}", ["1", "2"]),
        (r"$\boxed{1}$ $\boxed{2}$", ["1, 2"]),
        (r"\boxed{5}, \boxed{5}", ["5, 5"]),
        (r"\boxed{5}. The answer is positive.", ["5"]),
        ("The answer is 3.5.", ["3.5"]),
        ("The answer is 5. So there.", ["5"]),
        ("the final answer is: $1,200$", ["$1,200$"]),
        ("Final Answer: The final answer is $12$. I hope it is correct.", ["$12$"]),
        ("**Final Answer:** 12", ["12"]),
        ("2 + 2 = 4\n#### 4", ["4"]),
        ("The answer is 5. No: the answer is 7.", ["5", "7"]),
        (r"<think>\boxed{3}</think> The answer is 9", ["9"]),
        ("The answer is:\n\n12", ["12"]),
        ("The answer is\n12", ["12"]),
        ("Final answer:\r\n12", ["12"]),
        ("**Final answer is:**\n\n**12**", ["12"]),
        ("The final answer is:\n\n$$12$$", ["$$12$$"]),
        ("The final answer is:\n$$\n12\n$$", ["12"]),
        ("The final answer is: \\[\n12\n\\]", ["12"]),
        ("Therefore the answer is:\n- 12", ["12"]),
        ("Therefore the answer is:\n-12", ["-12"]),
        ("The answer is:\nFriday", ["Friday"]),
        (r"\boxed{12}. The final answer is:" + "\n12", ["12", "12"]),
        (r"\boxed{12}" + "\n\n**Final answer:**\nThe cost is 12 dollars.", ["12"]),
        ("### Final answer:\n\nThe final answer is 12.", ["12"]),
    ],
)
def test_statements_are_found(text, stated):
    assert stated_answers(text) == stated


@pytest.mark.parametrize("text", ["", "There are 5 apples.", r"\boxed{}", r"cut off in \boxed{5", "#### ", r"<think>\boxed{3}</think>", "The answer is:"])
def test_no_statement(text):
    assert final_answer(text) is None


def test_the_last_statement_is_the_final_one():
    assert final_answer(r"\boxed{3} then \boxed{4}") == "4"
