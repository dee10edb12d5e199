"""The rules of agreement, case by case: (written answer, `output_json` of the program)."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caco_ray.grading import ExecutedAnswer, Verdict, answers_agree, answers_equal

AGREE = [
    ("10,000", "10000"), ("10000.0", "10000"), (r"\$10{,}000", "10000"), ("10^4", "10000"),
    (r"1 \times 10^{4}", "10000"), ("1e4", "10000.0"), ("5 million", "5000000"), ("1 000", "1000"),
    (r"1,\!200", "1200"), ("-$5", "-5"), ("−5", "-5"), ("+5", "5"), ("5.", "5"), (".5", "0.5"), ("50%", "50"),
    (r"50\%", "50"), ("57 apples", "57"), ("12 cm^2", "12"), (r"12\text{ cm}^2", "12"), (r"15\mbox{ cm}^2", "15"),
    ("60 miles per hour", "60"), (r"90^\circ", "90"), ("90°", "90"), ("5 m", "5"), ("5cm", "5"), ("5 dollars", "5"),
    ("€5", "5"), ("x = 5", "5"), ("approximately 5", "5"), (r"\frac{3}{4}", "0.75"), ("3/4", "0.75"),
    ("0.75", '{"$fraction": [3, 4]}'), (r"\frac34", '{"$fraction": [3, 4]}'), (r"-\dfrac{3}{4}", "-0.75"),
    ("1 1/2", "1.5"), (r"1\frac{1}{2}", "1.5"), ("3.50", "3.5"), ("2/6", '{"$fraction": [1, 3]}'), ("1/3", '"1/3"'),
    ("0.33", "0.3333333333333333"), ("0.3333", "0.3333333333333333"), (r"\frac{1}{3}", "0.3333333333333333"),
    ("12.3", "12.345678901234567"), ("0.67", "0.6666666666666666"), ("0.3", "0.30000000000000004"),
    ("28", "27.999999999999996"), ("0.33", '{"$decimal": "0.3333333333333333333333333333"}'), ("yes", "true"),
    ("True", "true"), (r"\text{No}.", "false"), ("yes", '"Yes"'), ("friday", '"Friday"'),
    (r"\textbf{Friday}", '"Friday"'), ("(C)", '"C"'), ("12:00", '"12:00"'), ("007", '"007"'), ("10011", '"10011"'),
    ("red and blue", '"red and blue"'), ("1, 2", "[1, 2]"), ("(1,2)", "[1, 2]"), ("[1, 2]", '{"$tuple": [1, 2]}'),
    ("1 and 2", "[1, 2]"), ("x = 1, y = 2", "[1, 2]"), ("1,200", "[1, 200]"), ("[1,200, 3,400]", "[1200, 3400]"),
    ("1, 2, and 3", "[1, 2, 3]"), ("5", "[5]"), ("Ann, Bob", '["Ann", "Bob"]'), ("(1,2),(3,4)", "[[1, 2], [3, 4]]"),
    ("[[1, 2], [3, 4]]", "[[1, 2], [3, 4]]"), (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1, 2], [3, 4]]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "[1, 2]"), ("2, 1", '{"$set": [1, 2]}'), (r"\{2, 1\}", '{"$set": [1, 2]}'),
    (r"\{2, 1\}", '{"$frozenset": [1, 2]}'), ("a: 1, b: 2", '{"a": 1, "b": 2}'), ("b = 2, a = 1", '{"a": 1, "b": 2}'),
    ('{"a": 1}', '{"a": 1}'), (r"\sqrt{16}", "4"), ("2^{10}", "1024"), ("5!", "120"), (r"\binom{5}{2}", "10"),
    (r"\sqrt{2}", "1.4142135623730951"), (r"\frac{\pi}{2}", "1.5707963267948966"),
    (r"\frac{\sqrt{2}}{2}", '{"$sympy": ["Mul", "sqrt(2)/2"]}'), ("(x+1)^2", '{"$sympy": ["Add", "x**2 + 2*x + 1"]}'),
    (r"\sqrt{2}, 1", '[1.4142135623730951, 1]'),
    ("20", '"20% profit"'), ("20% profit", '"20% Profit"'), ("5", '"5 apples"'), ("5 apple", '"5 apples"'), ("x = 3", '"3"'),
    ("x = 2, x = 3", '"x = 2 or x = 3"'), ("b = 2, a = 1", '"a = 1, b = 2"'), ("3 - 2", '"3-2"'), ("2x-3", '"2x - 3"'),
    ("0.7", "0.7"), (r"R^2 - r^2", '{"$sympy": ["Add", "R**2 - r**2"]}'), ("2x - 3", '{"$sympy": ["Add", "2*x - 3"]}'),
    ("x - 1", '{"$sympy": ["Add", "x - 1"]}'), ("2xy", '{"$sympy": ["Mul", "2*x*y"]}'),
    ("-3 + 2x", '{"$sympy": ["Add", "2*x - 3"]}'),
    ("0.33", '{"$sympy": ["Float", "0.333333333333333"]}'), ("1/3", '{"$sympy": ["Float", "0.333333333333333"]}'),
    ("0.5", '{"$sympy": ["Float", "0.500000000000000"]}'), (r"\{2, 1\}", '{"$sympy": ["FiniteSet", "{1, 2}"]}'),
    ("1, 2", '{"$sympy": ["FiniteSet", "{1, 2}"]}'), ("(1, 2)", '{"$sympy": ["Tuple", "(1, 2)"]}'),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", '{"$sympy": ["ImmutableDenseMatrix", "Matrix([[1, 2], [3, 4]])"]}'),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", '{"$sympy": ["MutableDenseMatrix", "Matrix([[1], [2]])"]}'),
    ("(1, 2)", '{"$sympy": ["MutableDenseMatrix", "Matrix([[1, 2]])"]}'), ("0.1+0.2i", '{"$complex": [0.1, 0.2]}'),
    (r"x = \pm 3", "[-3, 3]"), ("±3", "[3, -3]"), ("(2, 3)", '[{"$tuple": [2, 3]}]'),
]  # fmt: skip

DISAGREE = [
    ("10001", "10000"), ("100000", "100001"), ("100001", "100000"), ("123450", "123456"),
    ("1000000000000001", "1000000000000000.0"), ("10000.1", "10000"), ("0.5", "50"), ("50", "0.5"), (r"50\%", "0.5"),
    ("5000%", "50"), ("50", "5000"), ("5", "-5"), ("-5", "5"), (r"-\frac{1}{2}", "0.5"), ("5 million", "5"),
    ("5 dozen", "5"), ("5 or 6", "5"), ("5 out of 10", "5"), ("3 to 1", "3"), ("5 and a half", "5"),
    ("5 squared", "5"), ("5x", "5"), ("5 x", "5"), ("2 hours", "120"), ("3 remainder 2", "3"), ("less than 5", "5"),
    ("not 5", "5"), ("204_5", "204"), ("5 = 6", "5"), ("5 hours 30 minutes", "5"), ("3 - 5", "3"),
    ("0.33", '{"$fraction": [1, 3]}'), ("0.3333333333", '{"$fraction": [1, 3]}'), ("0.33", '"1/3"'),
    ("0.3", "0.3333333333333333"), ("0.34", "0.3333333333333333"), ("0.66", "0.6666666666666666"),
    ("0.05", "0.05263157894736842"), ("0.00", "0.001234567890123456"), ("1", "0.9523809523809523"),
    ("3.14", "3.14159"), ("8/3", "2.67"), ("5.0", "5.000000000001"), ("1000,99", "1000.99"),
    (r"\sqrt{2}", "1.4142135623"), (r"\sqrt{3}", "1.4142135623730951"), ("1", "true"), ("0", "false"),
    ("yes", "false"), ("true", "1"), ("maybe", "true"), ("Sunday", '"Friday"'), ("a2b3c1", '"a3b2c1"'),
    ("7", '"007"'), ("2", '"1+1"'), ("1:00", '"12:00"'), ("2, 1", "[1, 2]"), ("(2, 1)", '{"$tuple": [1, 2]}'),
    ("1, 2, 3", "[1, 2]"), ("1", "[1, 2]"), ("[5]", "5"), ("1, 1, 2", '{"$set": [1, 2]}'), ("[0, 1)", "[0, 1]"),
    (r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", "[[1, 2], [3, 4]]"), ("(2,1),(3,4)", "[[1, 2], [3, 4]]"),
    ("a: 1, b: 3", '{"a": 1, "b": 2}'), ("a: 1", '{"a": 1, "b": 2}'),
    ("e^{-100}", '{"$sympy": ["exp", "exp(-101)"]}'), ("10^{-20}x", '{"$sympy": ["Mul", "2*10**(-20)*x"]}'),
    (r"1 - \frac{1}{\mathrm{e}}", '{"$sympy": ["Add", "1 + exp(-1)"]}'), ("", "5"), ("?", "5"), ("9" * 5000, "9"),
    ("1e999999999", "5"), ("(" * 3000, "5"),
    ("20% loss", '"20% profit"'), ("2 complex roots", '"2 real roots"'), ("10 m South", '"10 m North"'), ("5 am", '"5 pm"'),
    ("10 m", '"10 km"'), ("y = 3", '"x = 3"'), ("[2, 5]", '"(2, 5)"'), ("p or q", '"p and q"'), ("2 or 3", '"2 and 3"'),
    ("7 tenths", "7"), ("3 quarters", "3"), ("5 degrees below zero", "5"), ("5 lakh", "5"), ("2 quadrillion", "2"), ("3abc", "3"),
    ("5 thousands", "5"), ("r^2", '{"$sympy": ["Mul", "R*r"]}'), (r"\pi(r^2-R^2)", '{"$sympy": ["Mul", "pi*(R**2 - r**2)"]}'),
    ("0", '{"$sympy": ["Mul", "pi*(R**2 - r**2)"]}'), ("A: 5, a: 2", '{"A": 1, "a": 2}'), ("a: 2", '{"A": 1, "a": 2}'),
    ("1125899906842000", "1125899906842624.5"), ("x = 2, y = 1", '"x = 1, y = 2"'), ("3 - 2", '"3+2"'),
    ("x + 1", '{"$sympy": ["Add", "x - 1"]}'), (r"\begin{pmatrix}1&2\end{pmatrix}", '{"$sympy": ["MutableDenseMatrix", "Matrix([[2, 1]])"]}'),
    (r"\pm 3", "[-4, 4]"), ("(3, 2)", '[{"$tuple": [2, 3]}]'), ("1, 3", '{"$sympy": ["FiniteSet", "{1, 2}"]}'),
]  # fmt: skip


def _executed(output_json: str) -> ExecutedAnswer:
    """Encodings are written without spaces; the cases above have them to be read."""
    return ExecutedAnswer.from_json(json.dumps(json.loads(output_json), separators=(",", ":")))


@pytest.mark.parametrize(("language", "output_json"), AGREE)
def test_right_answers_agree(language, output_json, algebra):
    assert answers_agree(language, _executed(output_json), algebra) is Verdict.AGREE


@pytest.mark.parametrize(("language", "output_json"), DISAGREE)
def test_wrong_answers_disagree(language, output_json, algebra):
    assert answers_agree(language, _executed(output_json), algebra) is Verdict.DISAGREE


@pytest.mark.parametrize(
    ("pred", "gold", "equal"),
    [
        ("2, 1", "1, 2", True),  # a bare gold list is a set of solutions
        ("[2, 1]", "[1, 2]", False),
        ("2, 3, 6", "[2, 3, 6]", True),
        ("(0, 1)", "[0, 1]", False),  # may be intervals
        ("(11, 5)", "[11, 5]", True),
        ("[0, 1)", "(0, 1]", False),
        ("y = 5", "x = 5", False),
        ("5", "x = 5", True),
        (r"\{-2021, 2021\}", r"\pm 2021", True),
        ("2021", r"\pm 2021", False),
        ("0.5", r"50\%", False),
        ("50", r"50\%", True),
        (r"1 + \sqrt{19}, 1 - \sqrt{19}", r"1 \pm \sqrt{19}", True),
        ("0.3333", "0.3333333333333333", True),
        ("0.33", r"\frac{1}{3}", False),
        (r"\frac{x}{7}+\frac{2}{7}", r"\frac{x+2}{7}", True),
        (r"x \ge 5", r"x \le 5", False),
        ("x = 2, y = 1", "x = 1, y = 2", False),
        ("y = 2, x = 1", "x = 1, y = 2", True),
        ("2, 1", "x = 1, y = 2", True),
        ("6abc", "6", False),
    ],
)
def test_written_answers(pred, gold, equal, algebra):
    assert answers_equal(pred, gold, algebra) is (Verdict.AGREE if equal else Verdict.DISAGREE)


COMPUTED = 'input = {"word": "Hello"}\noutput = input["word"][::-1]\n'


@pytest.mark.parametrize(
    ("language", "output", "agrees"),
    [
        ("olleH", "olleH", True),
        ("olleh", "olleH", False),
        (r"\text{olleH}", "olleH", True),
        ("hello", "Hello", True),  # as it stands in the program: it did not compute the case
        ("FF", "ff", True),  # a numeral
        ("olleh, 5", ["olleH", 5], False),
    ],
)
def test_the_case_of_a_word_that_the_program_spelled_counts(language, output, agrees, algebra):
    executed = ExecutedAnswer.from_json(json.dumps(output, separators=(",", ":")), COMPUTED)
    assert answers_agree(language, executed, algebra) is (Verdict.AGREE if agrees else Verdict.DISAGREE)


def _no_algebra(pred: str, gold: str, approximate: bool) -> Verdict:
    raise AssertionError(f"{pred!r} and {gold!r} are plain values: no algebra is needed")


@given(st.integers(), st.integers())
def test_integers_agree_only_when_equal(mine, theirs):
    verdict = answers_agree(
        f"{mine:,}", _executed(json.dumps(theirs) if abs(theirs) < 2**63 else f'{{"$int": "{theirs:x}"}}'), _no_algebra
    )
    assert verdict is (Verdict.AGREE if mine == theirs else Verdict.DISAGREE)


@given(st.fractions(), st.fractions())
def test_fractions_agree_only_when_equal(mine, theirs):
    executed = _executed(f'{{"$fraction": [{theirs.numerator}, {theirs.denominator}]}}')
    for value in (mine, theirs):
        verdict = answers_agree(rf"\frac{{{value.numerator}}}{{{value.denominator}}}", executed, _no_algebra)
        assert verdict is (Verdict.AGREE if value == theirs else Verdict.DISAGREE)


@given(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False, min_value=-1e12, max_value=1e12), st.integers(2, 6))
def test_a_float_agrees_with_its_own_rounding_or_not_at_all(value, decimals):
    written = f"{value:.{decimals}f}"
    verdict = answers_agree(written, _executed(json.dumps(value)), _no_algebra)
    if verdict is Verdict.AGREE:
        assert abs(Fraction(written) - Fraction(value)) <= Fraction(51, 100 * 10**decimals)
    wrong = f"{float(written) + 3 * 10**-decimals:.{decimals}f}"
    if abs(value) < 1e6 and wrong != written:
        assert answers_agree(wrong, _executed(json.dumps(value)), _no_algebra) is Verdict.DISAGREE


@given(st.text())
def test_any_text_gets_a_verdict(text):
    undecided: list[str] = []

    def note(pred: str, gold: str, approximate: bool) -> Verdict:
        undecided.append(pred)
        return Verdict.UNDECIDED

    verdict = answers_agree(text, _executed("12345"), note)
    assert verdict is not Verdict.UNDECIDED or undecided
