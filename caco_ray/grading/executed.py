"""A program's output as values to compare with, read from its exact-type JSON. Nothing is evaluated or unpickled.

Types count: a string is compared as text first; it is a number, a list or a formula only where it plainly reads as one. `"007"` and
`"1+1"` stay words: they are not 7 and 2.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from caco_ray.grading.notation import tidy, words
from caco_ray.grading.values import MAX_DIGITS, Formula, Items, Mapping, Number, OneOf, Truth, Value, Words, from_float, readings
from caco_ray.sandbox.codec import Symbolic, decode

_LEADING_ZERO = re.compile(r"\s*[+-]?0\d")


@dataclass(frozen=True)
class ExecutedAnswer:
    """What a program computed: the ways to read it, and its text where it is a string."""

    values: tuple[Value, ...]
    text: str | None = None

    @classmethod
    def from_json(cls, output_json: str) -> "ExecutedAnswer":
        """From the column `output_json`.

        Raises:
            InvalidEncodingError: the sandbox did not write this.
        """
        value = decode(output_json)
        return cls(tuple(_texts(value)), value) if type(value) is str else cls((_value(value),))


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
        return Mapping({words(str(key)): _value(item) for key, item in value.items()})
    return _rare(value)


def _rare(value: Any) -> Value:
    if isinstance(value, Fraction):
        return Number(value)
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, complex):
        return Formula(f"({Fraction(value.real)})+({Fraction(value.imag)})i")
    if isinstance(value, Symbolic):
        return Formula(tidy(value.text))
    return Words(words(str(value)))


def _decimal(value: Decimal) -> Value:
    """Division leaves 28 digits: such a decimal approximates like a float; a short one is exact."""
    if not value.is_finite() or abs(value.adjusted()) > MAX_DIGITS:
        return Words(words(str(value)))
    as_float = from_float(float(value))
    approximate = isinstance(as_float, Number) and as_float.approximate and len(value.as_tuple().digits) >= 15
    return Number(Fraction(value), None, approximate)
