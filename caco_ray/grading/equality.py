r"""Do two answers agree? Strict, because agreement is the proof of a row.

| executed (or gold)        | agrees with                                              | does not agree with                      |
|---------------------------|----------------------------------------------------------|------------------------------------------|
| integer 10000             | `10000`, `10,000`, `10000.0`, `10^4`, `$10,000`          | `10001`, any rounding                    |
| 50                        | `50`, `50%`, `50 cm^2`, `50 apples`                      | `0.5`                                    |
| 0.5                       | `0.5`, `\frac12`, `1/2`                                  | `50%`: the sign is a unit, never / 100   |
| 1/3 (a fraction)          | `\frac13`, `2/6`                                         | `0.33`                                   |
| 0.333... (a long float)   | `0.33`, `0.3333`, `\frac13`                              | `0.3`, `0.34`                            |
| 2.5, 3.14159 (short)      | `2.5`, `3.14159`                                         | `3.14`: the program did not say more     |
| True                      | `yes`, `true`                                            | `1`                                      |
| "Friday"                  | `friday`, `\text{Friday}`                                | other words                              |
| "20% profit"              | `20% profit`, `20%`                                      | `20% loss`: here words count             |
| "OLLEH" (computed)        | `OLLEH`                                                  | `olleh`                                  |
| [1, 2], (1, 2)            | `1, 2`, `[1,2]`, `(1, 2)`, `1 and 2`                     | `2, 1`                                   |
| {1, 2} (a set)            | the same in any order                                    |                                          |

A long float is one with 15 or more significant digits. A decimal agrees with it when it is the float rounded to the decimals that were
written, with at least 2 significant digits, and at least 2 decimals or 3 significant digits; an exact value agrees when the float lies
within 1e-12 of it, relatively (and within 1/1000). Of numbers units are removed, not checked.

Plain Python decides numbers, words, lists and mappings; only a formula goes to the computer algebra system, through `Oracle`, which is
expected to run in a process of its own (`algebra.Algebra`).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from fractions import Fraction

from caco_ray.grading.executed import ExecutedAnswer
from caco_ray.grading.notation import said_words, tidy, words
from caco_ray.grading.values import Formula, Items, Mapping, Number, OneOf, Truth, Value, Words, from_float, name_of, readings

NOISE = Fraction(1, 10**12)  # relative; what float arithmetic may add to an exact value
_MOST_NOISE = Fraction(1, 1000)  # of large floats
_OPERATOR = re.compile(r"\s*([-+*/^=<>])\s*")
_SYMBOLS = re.compile(r"(?=.*[A-Za-z])(?!.*(?:[A-Za-z]{3}|[A-Za-z]\d))[A-Za-z0-9 .+-]+")  # `2x - 3`: words, or a formula
_NAME = re.compile(r"[^\W\d][\w' ]*")
_MAX_UNORDERED = 50  # items of a set that holds formulas


class Verdict(Enum):
    AGREE = "agree"
    DISAGREE = "disagree"
    UNDECIDED = "undecided"  # the algebra system failed or took too long: no statement about the answer


Oracle = Callable[[str, str, bool], Verdict]
"""`(formula, reference, reference is an approximation) -> verdict`; texts in LaTeX, the reference within `NOISE` where approximate."""


def answers_agree(language: str, executed: ExecutedAnswer, oracle: Oracle) -> Verdict:
    """Does a written answer state what the program computed?"""
    if not executed.keeps_case(language):
        return Verdict.DISAGREE
    if executed.text is not None:
        mine, theirs = tidy(language), tidy(executed.text)
        if _plain(mine) == _plain(theirs) != "":
            return Verdict.AGREE
        if _other_name(language, executed.text) or _other_words(mine, theirs):
            return Verdict.DISAGREE
    return _any_reading(readings(language), list(executed.values), oracle)


def answers_equal(pred: str, gold: str, oracle: Oracle) -> Verdict:
    """Does a written answer state the written gold answer?

    A bare list in `gold` is unordered (`-2, 1` are solutions), a bracketed one is ordered; two ascending numbers in round brackets are not
    the same in square brackets (they may be intervals). `x = 5` and `y = 5` differ, `5` and `x = 5` do not.
    """
    mine, theirs = tidy(pred), tidy(gold)
    if mine and theirs and _squeezed(mine) == _squeezed(theirs):
        return Verdict.AGREE
    if _other_name(pred, gold):
        return Verdict.DISAGREE
    return _any_reading(readings(pred), [_gold_value(value) for value in readings(gold)], oracle)


def _any_reading(mine: Sequence[Value], theirs: Sequence[Value], oracle: Oracle) -> Verdict:
    """Where both sides name their values (`x = 1, y = 2`), the names decide, not the order."""
    my_names, their_names = ([value for value in side if _has_names(value)] for side in (mine, theirs))
    if my_names and their_names:
        mine, theirs = my_names, their_names
    return _any(_compare(one, other, oracle) for one in mine for other in theirs if not _interval_clash(one, other))


def _has_names(value: Value) -> bool:
    return isinstance(value, Mapping) and all(_NAME.fullmatch(name) for name in value.items)


def _other_name(one: str, other: str) -> bool:
    """`x = 5` and `y = 5`."""
    names = [name_of(text) for text in (one, other) if text.count("=") == 1]
    return len(names) == 2 and None not in names and names[0] != names[1]


def _other_words(mine: str, theirs: str) -> bool:
    """Of tidied texts: where both say words beside their numbers, they must say the same. The letters of formulas are for the algebra."""
    if any(isinstance(value, Formula) for text in (mine, theirs) for value in readings(text)):
        return False
    return any(one and other and one != other for one, other in zip(said_words(mine), said_words(theirs), strict=True))


def _plain(text: str) -> str:
    """Of a tidied text: as `words`, and without spaces around operators."""
    return _OPERATOR.sub(r"\1", words(text))


def _squeezed(text: str) -> str:
    return words(text).replace(" ", "") if any(character.isdigit() or character == "\\" for character in text) else words(text)


def _gold_value(value: Value) -> Value:
    if isinstance(value, Number) and value.decimals:
        return from_float(float(value.value)) if value.decimals >= 14 else value
    return Items(value.items, "{}") if isinstance(value, Items) and not value.brackets else value


def _interval_clash(mine: Value, theirs: Value) -> bool:
    if not (isinstance(mine, Items) and isinstance(theirs, Items)) or {mine.brackets, theirs.brackets} != {"()", "[]"}:
        return False
    ends = theirs.items
    return len(ends) == 2 and not (isinstance(ends[0], Number) and isinstance(ends[1], Number) and ends[0].value >= ends[1].value)


def _any(verdicts: Iterable[Verdict]) -> Verdict:
    worst = Verdict.DISAGREE
    for verdict in verdicts:
        if verdict is Verdict.AGREE:
            return verdict
        if verdict is Verdict.UNDECIDED:
            worst = verdict
    return worst


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    worst = Verdict.AGREE
    for verdict in verdicts:
        if verdict is Verdict.DISAGREE:
            return verdict
        if verdict is Verdict.UNDECIDED:
            worst = verdict
    return worst


def _compare(mine: Value, theirs: Value, oracle: Oracle) -> Verdict:
    if isinstance(mine, OneOf) or isinstance(theirs, OneOf):
        return _any(_compare(a, b, oracle) for a in _alternatives(mine) for b in _alternatives(theirs) if not _interval_clash(a, b))
    if isinstance(theirs, Items):
        if isinstance(mine, Items):
            verdicts = [_compare_items(mine.items, theirs, oracle)]
            if len(theirs.items) == 1 and len(mine.items) != 1:  # `[(2, 3)]` is the one solution (2, 3)
                verdicts.append(_compare(mine, theirs.items[0], oracle))
            return _any(verdicts)
        single = len(theirs.items) == 1 and not isinstance(mine, Mapping)
        return _compare(mine, theirs.items[0], oracle) if single else Verdict.DISAGREE
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        if mine.items.keys() != theirs.items.keys():
            return Verdict.DISAGREE
        return _all(_compare(mine.items[key], theirs.items[key], oracle) for key in theirs.items)
    if isinstance(mine, Number) and isinstance(theirs, Number):
        return _verdict(numbers_agree(mine, theirs))
    if (isinstance(mine, Words) and isinstance(theirs, Words)) or (isinstance(mine, Truth) and isinstance(theirs, Truth)):
        return _verdict(mine == theirs)
    return _compare_formulas(mine, theirs, oracle)


def _alternatives(value: Value) -> tuple[Value, ...]:
    return value.values if isinstance(value, OneOf) else (value,)


def _verdict(agree: bool) -> Verdict:
    return Verdict.AGREE if agree else Verdict.DISAGREE


def numbers_agree(mine: Number, theirs: Number) -> bool:
    """The number rule of the module's table; `theirs` is the executed or gold one."""
    if mine.value == theirs.value:
        return True
    if not theirs.approximate:
        return False
    gap = abs(mine.value - theirs.value)
    if gap <= min(NOISE * abs(theirs.value), _MOST_NOISE):
        return True
    if not mine.decimals:
        return False
    significant = len(str(abs(int(mine.value * 10**mine.decimals))).lstrip("0"))
    enough = significant >= 2 and (mine.decimals >= 2 or significant >= 3)
    return enough and gap <= Fraction(1, 2 * 10**mine.decimals)


def _compare_items(mine: tuple[Value, ...], theirs: Items, oracle: Oracle) -> Verdict:
    if len(mine) != len(theirs.items):
        return Verdict.DISAGREE
    if theirs.brackets != "{}":
        return _all(_compare(a, b, oracle) for a, b in zip(mine, theirs.items, strict=True))
    if len(mine) > _MAX_UNORDERED and any(isinstance(item, Formula) for item in (*mine, *theirs.items)):
        return Verdict.UNDECIDED
    return _compare_unordered(list(mine), list(theirs.items), oracle)


def _compare_unordered(mine: list[Value], theirs: list[Value], oracle: Oracle) -> Verdict:
    undecided = False
    for item in mine:
        for at, other in enumerate(theirs):
            verdict = _compare(item, other, oracle)
            if verdict is Verdict.AGREE:
                del theirs[at]
                break
            undecided = undecided or verdict is Verdict.UNDECIDED
        else:
            return Verdict.UNDECIDED if undecided else Verdict.DISAGREE
    return Verdict.AGREE


def _compare_formulas(mine: Value, theirs: Value, oracle: Oracle) -> Verdict:
    """One side at least is a formula, or the kinds differ."""
    if not (isinstance(mine, Formula) or isinstance(theirs, Formula)):
        return Verdict.DISAGREE
    left, right = _latex(mine), _latex(theirs)
    if left is None or right is None:
        return Verdict.DISAGREE
    return oracle(left, right, isinstance(theirs, Number) and theirs.approximate)


def _latex(value: Value) -> str | None:
    """Text for the algebra system, numbers exact; None for what is no formula."""
    if isinstance(value, Number):
        top, bottom = value.value.numerator, value.value.denominator
        return f"{top}" if bottom == 1 else rf"\frac{{{top}}}{{{bottom}}}"
    if isinstance(value, Formula):
        return value.text
    return value.written if isinstance(value, Words) and _SYMBOLS.fullmatch(value.written) else None
