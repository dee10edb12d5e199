"""A program's output as values to compare with, read from its exact-type JSON. Nothing is evaluated or unpickled.

Types count: a string is compared as text first; it is a number, a list or a formula only where it plainly reads as one. `"007"` and
`"1+1"` stay words: they are not 7 and 2. Of a word that does not stand in the program it was computed how it is spelled: its case counts.
"""

import cmath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from caco_ray.grading.notation import tidy, words
from caco_ray.grading.values import MAX_DIGITS, Formula, Items, Mapping, Number, OneOf, Truth, Value, Words, from_float, readings
from caco_ray.sandbox.codec import Symbolic, decode

_LEADING_ZERO = re.compile(r"\s*[+-]?0\d")
_WORD = re.compile(r"[^\W_]*[^\W\d_][^\W_]*")  # with a letter
_NUMERAL = re.compile(r"[0-9a-f]+|[0-9A-F]+")
_MATRIX = re.compile(r"Matrix\((.*)\)", re.DOTALL)
_FLOAT = re.compile(r"-?\d+\.\d+(?:e[+-]?\d{1,3})?")


@dataclass(frozen=True)
class ExecutedAnswer:
    """What a program computed: the ways to read it, its text where it is a string, and the words whose case counts."""

    values: tuple[Value, ...]
    text: str | None = None
    spelled: frozenset[str] = frozenset()

    @classmethod
    def from_json(cls, output_json: str, code: str | None = None) -> "ExecutedAnswer":
        """From the column `output_json`, and the program where the case of computed words is to count.

        Raises:
            InvalidEncodingError: the sandbox did not write this.
        """
        value = decode(output_json)
        spelled = frozenset() if code is None else _computed_words(value, code)
        return cls(tuple(_texts(value)), value, spelled) if type(value) is str else cls((_value(value),), None, spelled)

    def keeps_case(self, language: str) -> bool:
        """False where the text has a computed word in another case."""
        stated = set(_WORD.findall(language))
        folded = {word.casefold() for word in stated - self.spelled}
        return not any(word not in stated and word.casefold() in folded for word in self.spelled)


def _computed_words(value: Any, code: str) -> frozenset[str]:
    """Words of the strings in `value` that do not stand in the program. Digits of a numeral such as `ff` have no case."""
    found = {word for text in _strings(value) for word in _WORD.findall(text)}
    return frozenset(word for word in found if word not in code and not _NUMERAL.fullmatch(word))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _strings(pair)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _strings(item)


def _texts(text: str) -> list[Value]:
    if _LEADING_ZERO.match(text):
        return [Words(words(text))]
    found = readings(text)
    computable = [value for value in found if not isinstance(value, Formula) or any(map(str.isalpha, value.text))]
    return computable or [Words(words(text))]


def _value(value: Any) -> Value:
    if type(value) is bool:
        return Truth(value)
    if type(value) is int:
        return Number(Fraction(value)) if value.bit_length() < 4 * MAX_DIGITS else Words(hex(value))
    if type(value) is float:
        return from_float(value)
    if type(value) is str:
        found = _texts(value)
        return found[0] if len(found) == 1 else OneOf(tuple(found))
    if isinstance(value, list | tuple | set | frozenset | range) or hasattr(value, "popleft"):
        return Items(tuple(_value(item) for item in value), "{}" if isinstance(value, set | frozenset) else "")
    if isinstance(value, dict):
        items = {words(str(key)): _value(item) for key, item in value.items()}
        return Mapping(items if len(items) == len(value) else {str(key): _value(item) for key, item in value.items()})
    return _rare(value)


def _rare(value: Any) -> Value:
    if isinstance(value, Fraction):
        return Number(value)
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, complex) and cmath.isfinite(value):
        return Formula(f"({Fraction(repr(value.real))})+({Fraction(repr(value.imag))})i")
    if isinstance(value, Symbolic):
        return _symbolic(value)
    return Words(words(str(value)))


def _symbolic(value: Symbolic) -> Value:
    """Of sympy. Its floats are floats; sets, tuples and matrices are their items, a single column or row also a flat list of them."""
    if value.kind == "Float" and _FLOAT.fullmatch(value.text):
        return _decimal(Decimal(value.text))
    if value.kind not in ("FiniteSet", "Tuple") and not value.kind.endswith("Matrix"):
        return Formula(tidy(value.text))
    matrix = _MATRIX.fullmatch(value.text)
    found = [reading for reading in readings(matrix[1] if matrix else value.text) if isinstance(reading, Items)]
    rows = [[_cells(row) for row in reading.items] for reading in found] if matrix else []
    flat = [Items(tuple(cell for row in its for cell in row)) for its in rows if len(its) == 1 or all(len(row) == 1 for row in its)]
    return OneOf((*found, *flat)) if found else Words(words(value.text))


def _cells(row: Value) -> tuple[Value, ...]:
    readings_of_row = row.values if isinstance(row, OneOf) else (row,)
    return next((value.items for value in readings_of_row if isinstance(value, Items)), ())


def _decimal(value: Decimal) -> Value:
    """Division leaves 28 digits: such a decimal approximates like a float; a short one is exact."""
    if not value.is_finite() or abs(value.adjusted()) > MAX_DIGITS:
        return Words(words(str(value)))
    as_float = from_float(float(value))
    approximate = isinstance(as_float, Number) and as_float.approximate and len(value.as_tuple().digits) >= 15
    return Number(Fraction(value), None, approximate)
