"""Exact-type JSON for values that cross the sandbox border, in both directions of trust.

`encode` runs beside the hostile program: it looks at exact types only, compared by identity, never calls a method of a class it does not
know or of its metaclass, and stops at a budget of bytes and depth. `decode` runs in the owner: it accepts only the grammar that `encode`
writes (a forger may order a set otherwise, or name a type that is none), builds plain Python values, and evaluates nothing. JSON itself
carries None, bool, int, finite float, str, list, and dict with plain string keys; the rest is `{"$tag": payload}`:

    $int hex | $float nan,inf,-inf | $str utf-8 hex (lone surrogates) | $bytes hex | $complex [re, im] | $fraction [n, d] | $decimal text
    $tuple [..] | $set [..] | $frozenset [..] | $dict [[k, v], ..] | $range [a, b, c] | $deque, $Counter, $defaultdict, $OrderedDict
    $datetime [kind, text] | $np [dtype, value] | $ndarray [dtype, shape, flat] | $sympy [class, value or text]

Sets are written in the order of their encodings, so equal values have equal encodings whatever the hash seed; dicts keep their order. The
elements of a range count against the budget like those of a list: to whoever reads it, it is one.
"""

import json
import math
import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import Any

MAX_DEPTH = 64
_MAX_JSON_DEPTH = 4 * MAX_DEPTH  # a tag adds up to three levels
# The closing quote is optional: a scan from every quote of an unterminated string would take quadratic time.
_STRINGS, _BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?'), re.compile(r"[\[\]{}]")
_SPACES = re.compile(r"\s")
_MAX_DIMENSIONS = 64  # of an array, as in numpy
_MAX_INT_BITS = 14284  # below 10**4300, the longest int that Python turns into text: a longer one could not even be printed
_SAFE_INT = 1 << 63
_MAX_EMPTY = 1024  # rows of an array without elements
MAX_ELEMENTS = 16 << 20  # of all ranges in an encoding; the largest limit on an output, in bytes
# By `id(type)`: looking up a class itself would call `__hash__` and `__eq__` of its metaclass.
_LISTS = {id(tuple): "$tuple", id(deque): "$deque"}
_SETS = {id(set): "$set", id(frozenset): "$frozenset"}
_DICTS = {id(Counter): "$Counter", id(defaultdict): "$defaultdict", id(OrderedDict): "$OrderedDict"}
_DATES = {id(datetime): "datetime", id(date): "date", id(time): "time"}
_NAME, _MODULE = type.__dict__["__name__"], type.__dict__["__module__"]


class NotPlainError(Exception):
    """The value, or a part of it, has a type that is not carried; the message is the name of the type."""


class TooLargeError(Exception):
    """The encoding is larger or deeper than allowed."""


class InvalidEncodingError(Exception):
    """A text that `encode` cannot have written."""


@dataclass(frozen=True)
class Symbolic:
    """A symbolic expression that came out of a program, as text; it is never parsed back by the sandbox."""

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text


def type_name(value: object) -> str:
    """The name of the class in ASCII, read past any metaclass."""
    return str(_NAME.__get__(type(value))).encode("ascii", "backslashreplace").decode()[:100]


def _elements(value: range) -> int:
    """Like `len`, which knows no number over 64 bits."""
    start, stop, step = value.start, value.stop, value.step
    return max(0, (stop - start + step - 1) // step if step > 0 else (start - stop - step - 1) // -step)


def _is_of(library: str, kind: type) -> bool:
    """The class is one that a module of the library has under its own name."""
    try:
        name = _MODULE.__get__(kind)
    except AttributeError:  # deleted
        return False
    if type(name) is not str or name.partition(".")[0] != library:
        return False
    module = sys.modules.get(name)
    return type(module) is ModuleType and module.__dict__.get(_NAME.__get__(kind)) is kind


class _Encoder:
    def __init__(self, max_bytes: int) -> None:
        self.left = max_bytes

    def spend(self, text: str) -> str:
        self.left -= len(text)
        if self.left < 0:
            raise TooLargeError("larger than allowed")
        return text

    def tag(self, name: str, payload: str) -> str:
        self.spend(name + '{"":}')
        return f'{{"{name}":{payload}}}'

    def sequence(self, items: Any, depth: int) -> str:
        self.spend("[]")
        parts = []
        for item in items:
            self.left -= 1
            parts.append(self.value(item, depth + 1))
        return "[" + ",".join(parts) + "]"

    def integer(self, value: int) -> str:
        if -_SAFE_INT <= value < _SAFE_INT:
            return self.spend(int.__repr__(value))
        if value.bit_length() > _MAX_INT_BITS:
            raise TooLargeError("larger than allowed")
        return self.tag("$int", self.spend(f'"{value:x}"'))

    def real(self, value: float) -> str:
        text = float.__repr__(value)
        return self.tag("$float", self.spend(f'"{text}"')) if text in ("nan", "inf", "-inf") else self.spend(text)

    def text(self, value: str) -> str:
        if len(value) > self.left:
            raise TooLargeError("larger than allowed")
        try:
            value.encode()
        except UnicodeEncodeError:
            return self.tag("$str", self.spend(f'"{value.encode("utf-8", "surrogatepass").hex()}"'))
        return self.spend(json.dumps(value))

    def mapping(self, value: Any, depth: int) -> str:
        items = list(dict.items(value))
        self.spend("{}")
        if type(value) is dict and all(type(k) is str and k.isascii() and k[:1] != "$" for k, _ in items):
            return "{" + ",".join([self.spend(json.dumps(k) + ":,")[:-1] + self.value(v, depth + 1) for k, v in items]) + "}"
        self.spend("," * len(items))
        pairs = "[" + ",".join([self.sequence(pair, depth + 1) for pair in items]) + "]"
        return self.tag(_DICTS.get(id(type(value)), "$dict"), pairs)

    def value(self, value: Any, depth: int = 0) -> str:
        if depth > MAX_DEPTH:
            raise TooLargeError(f"nested deeper than {MAX_DEPTH}")
        kind = type(value)
        if value is None or kind is bool:
            return self.spend("null" if value is None else "true" if value else "false")
        if kind is int:
            return self.integer(value)
        if kind is float:
            return self.real(value)
        if kind is str:
            return self.text(value)
        if kind is list:
            return self.sequence(value, depth)
        if kind is dict or id(kind) in _DICTS:
            return self.mapping(value, depth)
        return self.rare(kind, value, depth)

    def rare(self, kind: type, value: Any, depth: int) -> str:
        if kind is range:
            self.left -= _elements(value)  # as if it were written out: whoever reads it may do that
            if self.left < 0:
                raise TooLargeError("larger than allowed")
            return self.tag("$range", self.sequence((value.start, value.stop, value.step), depth))
        if id(kind) in _LISTS:
            return self.tag(_LISTS[id(kind)], self.sequence(value, depth))
        if id(kind) in _SETS:
            self.spend("[]" + "," * len(value))
            return self.tag(_SETS[id(kind)], "[" + ",".join(sorted(self.value(item, depth + 1) for item in value)) + "]")
        if kind is bytes or kind is bytearray:
            if len(value) > self.left:
                raise TooLargeError("larger than allowed")
            return self.tag("$bytes", self.spend(f'"{value.hex()}"'))
        if kind is complex:
            return self.tag("$complex", self.sequence((value.real, value.imag), depth))
        if kind is Fraction:
            return self.tag("$fraction", self.sequence((value.numerator, value.denominator), depth))
        if kind is Decimal:
            return self.tag("$decimal", self.text(str(value)))
        if id(kind) in _DATES:
            return self.tag("$datetime", self.sequence((_DATES[id(kind)], value.isoformat()), depth))
        if kind is timedelta:
            return self.tag("$datetime", self.sequence(("timedelta", f"{value.days},{value.seconds},{value.microseconds}"), depth))
        return self.library(kind, value, depth)

    def library(self, kind: type, value: Any, depth: int) -> str:
        """Numpy and sympy, known by the exact classes of the modules that are loaded."""
        numpy, sympy = sys.modules.get("numpy"), sys.modules.get("sympy")
        if numpy is not None and kind is numpy.ndarray and value.dtype.kind in "biufcU":
            if value.size > self.left or (value.size == 0 and max(value.shape) > _MAX_EMPTY ** (1 / value.ndim)):
                raise TooLargeError("larger than allowed")
            return self.tag("$ndarray", self.sequence((str(value.dtype), list(value.shape), value.ravel().tolist()), depth))
        if numpy is not None and _is_of("numpy", kind) and issubclass(kind, numpy.generic):
            item = value.item()
            if type(item) in (bool, int, float, complex, str):
                return self.tag("$np", self.sequence((str(value.dtype), item), depth))
        if sympy is not None and _is_of("sympy", kind) and issubclass(kind, sympy.Basic | sympy.MatrixBase):
            return self.tag("$sympy", self.sequence((type_name(value), self.sympy(sympy, value)), depth))
        raise NotPlainError(type_name(value))

    def sympy(self, sympy: Any, value: Any) -> Any:
        if isinstance(value, sympy.Integer):
            return int(value.p)
        if isinstance(value, sympy.Rational):
            return Fraction(int(value.p), int(value.q))
        if value is sympy.true or value is sympy.false:
            return value is sympy.true
        return str(sympy.sstr(value, order="lex"))


def encode(value: object, max_bytes: int) -> str:
    """The canonical encoding, ASCII.

    Raises:
        NotPlainError: a type that is not carried.
        TooLargeError: more than `max_bytes`, or deeper than `MAX_DEPTH`.
    """
    return _Encoder(max_bytes).value(value)


def _tagged(pairs: list[tuple[str, Any]]) -> Any:
    if len(pairs) == 1 and pairs[0][0][:1] == "$":
        name, payload = pairs[0]
        return _READERS[name](payload)
    if any(key[:1] == "$" for key, _ in pairs) or len(dict(pairs)) != len(pairs):
        raise InvalidEncodingError("unexpected key")
    return dict(pairs)


def _constant(text: str) -> Any:
    raise InvalidEncodingError(f"unexpected {text}")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise InvalidEncodingError("a float out of range")
    return value


def _expect(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise InvalidEncodingError(f"unexpected {type(value).__name__}")
    return value


def _pairs(payload: Any) -> dict[Any, Any]:
    return dict(_expect(pair, list) for pair in _expect(payload, list))


def _int(payload: Any) -> int:
    if len(_expect(payload, str)) > _MAX_INT_BITS // 4 + 2:  # a sign; rounding
        raise InvalidEncodingError("int too long")
    value = int(payload, 16)
    if value.bit_length() > _MAX_INT_BITS:
        raise InvalidEncodingError("int too long")
    return value


def _datetime(payload: Any) -> Any:
    kind, text = payload
    if kind == "timedelta":
        days, seconds, micros = text.split(",")
        return timedelta(int(days), int(seconds), int(micros))
    kinds: dict[str, Any] = {"datetime": datetime, "date": date, "time": time}
    return kinds[kind].fromisoformat(text)


def _ndarray(payload: Any) -> Any:
    _, shape, flat = payload
    for item in flat:
        _expect(item, bool, int, float, complex, str)
    if len(shape) > _MAX_DIMENSIONS:
        raise InvalidEncodingError("too many dimensions")
    rows = math.prod(_expect(size, int) or 1 for size in shape)
    if math.prod(shape) != len(flat) or min(shape, default=0) < 0 or rows > max(len(flat), _MAX_EMPTY):
        raise InvalidEncodingError("the shape does not fit")

    def build(depth: int, start: int, step: int) -> Any:
        if depth == len(shape):
            return flat[start]
        inner = step // (shape[depth] or 1)
        return [build(depth + 1, start + i * inner, inner) for i in range(shape[depth])]

    return build(0, 0, len(flat))


def _numpy(payload: Any) -> Any:
    kind, value = _expect(payload, list)
    _expect(kind, str)
    return _expect(value, bool, int, float, complex, str)


def _sympy(payload: Any) -> Any:
    kind, value = payload
    return Symbolic(_expect(kind, str), value) if type(value) is str else _expect(value, int, bool, Fraction)


_READERS: dict[str, Callable[[Any], Any]] = {
    "$int": _int,
    "$float": lambda p: {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}[p],
    "$str": lambda p: bytes.fromhex(p).decode("utf-8", "surrogatepass"),
    "$bytes": lambda p: bytes.fromhex(p),
    "$complex": lambda p: complex(*(_expect(x, float) for x in p)),
    "$fraction": lambda p: Fraction(*(_expect(x, int) for x in p)),
    "$decimal": lambda p: Decimal(_expect(p, str)),
    "$tuple": lambda p: tuple(_expect(p, list)),
    "$set": lambda p: set(_expect(p, list)),
    "$frozenset": lambda p: frozenset(_expect(p, list)),
    "$range": lambda p: range(*(_expect(x, int) for x in p)),
    "$deque": lambda p: deque(_expect(p, list)),
    "$dict": _pairs,
    "$Counter": _pairs,
    "$defaultdict": _pairs,
    "$OrderedDict": _pairs,
    "$datetime": _datetime,
    "$np": _numpy,
    "$ndarray": _ndarray,
    "$sympy": _sympy,
}


def _check_outline(text: str) -> None:
    """Between the strings: no spaces, and no deeper nesting than honest encodings have, which would break whoever walks the value."""
    depth = 0
    outline = _STRINGS.sub("", text)
    if _SPACES.search(outline):
        raise InvalidEncodingError("unexpected space")
    for bracket in _BRACKETS.findall(outline):
        depth += 1 if bracket in "[{" else -1
        if depth > _MAX_JSON_DEPTH:
            raise InvalidEncodingError("nested too deep")


def decode(text: str, max_elements: int = MAX_ELEMENTS) -> Any:
    """The plain Python value of an encoding; numpy values become Python numbers and nested lists, sympy numbers int or Fraction, other
    sympy values `Symbolic`.

    Args:
        max_elements: of all ranges in it together.

    Raises:
        InvalidEncodingError: the text is not an encoding.
    """
    _check_outline(text)
    left = max_elements

    def tagged(pairs: list[tuple[str, Any]]) -> Any:
        nonlocal left
        value = _tagged(pairs)
        if type(value) is range:
            left -= _elements(value)
            if left < 0:
                raise InvalidEncodingError("ranges with too many elements")
        return value

    try:
        return json.loads(text, object_pairs_hook=tagged, parse_constant=_constant, parse_float=_finite)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise InvalidEncodingError(f"{type(error).__name__}: {error}"[:200]) from error
