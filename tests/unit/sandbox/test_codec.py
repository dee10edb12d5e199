"""Exact types out, plain values in, nothing else accepted."""

import contextlib
import json
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from caco_ray.sandbox.codec import InvalidEncodingError, NotPlainError, Symbolic, TooLargeError, decode, encode
from caco_ray.sandbox.result import text_of

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_subnormal=False) | st.text() | st.binary() | st.fractions()
LEAVES |= st.complex_numbers(allow_nan=False) | st.decimals(allow_nan=False) | st.text(st.characters(categories=["Cs", "Ll"]))
HASHABLE = st.recursive(LEAVES, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner) | st.dictionaries(HASHABLE, inner, max_size=3) | st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and repr(a) == repr(b) if isinstance(a, float | complex) else type(a) is type(b) and a == b


@given(VALUES)
def test_round_trip(value: Any) -> None:
    text = encode(value, 1 << 20)
    assert text.isascii()
    assert same(decode(text), value)
    assert encode(decode(text), 1 << 20) == text


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1e308, 5e-324, math.inf, -math.inf, 2**63, -(2**63), 2**500, True, 1, 1.0, "", "\x00", "\U0001f600"]
)
def test_corner_values_keep_type_and_text(value: Any) -> None:
    assert same(decode(encode(value, 10_000)), value)


def test_types_are_told_apart() -> None:
    values = [1, 1.0, True, "1", Fraction(1), Decimal(1), 1 + 0j, [1], (1,), {1}, frozenset([1]), {1: 1}, {"1": 1}, b"1", range(1)]
    values += [np.int64(1), np.float64(1), sympy.Integer(1), np.array([1]), deque([1]), Counter([1]), OrderedDict({1: 1}), math.nan]
    assert len({encode(value, 1000) for value in values}) == len(values)


def test_libraries_come_back_plain() -> None:
    x = sympy.Symbol("x")
    values = {"a": np.arange(6).reshape(2, 3), "b": np.float32(0.5), "c": sympy.Rational(1, 3), "d": sympy.sqrt(2) * x, "e": sympy.true}
    decoded = decode(encode(values, 1000))
    assert decoded["a"] == [[0, 1, 2], [3, 4, 5]] and decoded["b"] == 0.5 and decoded["c"] == Fraction(1, 3) and decoded["e"] is True
    assert isinstance(decoded["d"], Symbolic) and decoded["d"].text == "sqrt(2)*x"
    assert decode(encode([np.zeros((0, 3)), np.array(5), np.zeros((2, 0))], 1000)) == [[], 5, [[], []]]
    assert decode(encode([defaultdict(int, {1: 2}), deque([1])], 1000)) == [{1: 2}, deque([1])]
    assert isinstance(decode(encode(sympy.Matrix([[1, x]]), 1000)), Symbolic)


def test_dates() -> None:
    values = [datetime(2020, 2, 29, 1, 2, 3, 4), date(1, 1, 1), time(23, 59), timedelta(days=-1, microseconds=1)]
    assert decode(encode(values, 1000)) == values


def test_sets_do_not_depend_on_order() -> None:
    assert encode({"b", "a", "c", 1, 2.5}, 1000) == encode({2.5, "c", 1, "a", "b"}, 1000)


Point = namedtuple("Point", "x y")


class MyInt(int):
    pass


@pytest.mark.parametrize(
    "value", [object(), Point(1, 2), MyInt(1), print, int, [1, {"a": object()}], np.array([object()]), iter([]), ValueError()]
)
def test_unknown_types_are_refused(value: Any) -> None:
    with pytest.raises(NotPlainError):
        encode(value, 1000)


class Watched(type):
    """A metaclass that notes every question put to it."""

    asked: ClassVar[list[str]] = []

    def __hash__(cls) -> int:
        cls.asked.append("hash")
        return type.__hash__(dict)

    def __eq__(cls, other: object) -> bool:
        cls.asked.append("eq")
        return True

    def __getattribute__(cls, name: str) -> Any:
        type.__getattribute__(Watched, "asked").append(name)
        return type.__getattribute__(cls, name)

    def __instancecheck__(cls, instance: object) -> bool:
        cls.asked.append("isinstance")
        return True


def test_no_class_is_asked_anything() -> None:
    class Liar(metaclass=Watched):
        pass

    homeless: dict[str, Any] = {}
    exec("Nameless = type('Nameless', (), {})", homeless)  # a class without a module
    value = Liar()
    Watched.asked.clear()
    with pytest.raises(NotPlainError, match="^Liar$"):
        encode([value], 1000)
    assert Watched.asked == []
    with pytest.raises(NotPlainError, match="^Nameless$"):
        encode(homeless["Nameless"](), 1000)


def test_a_class_that_passes_for_one_of_sympy_is_unknown() -> None:
    class Symbol(sympy.Symbol):
        def __str__(self) -> str:
            raise AssertionError("asked")

    Symbol.__module__ = sympy.Symbol.__module__
    for value in (Symbol("x"), sympy.Function("f")(sympy.Symbol("x"))):
        with pytest.raises(NotPlainError):
            encode(value, 1000)
    for value in (
        sympy.Interval(0, 1),
        sympy.Poly("x**2"),
        sympy.Eq(1, sympy.Symbol("x")),
        sympy.FiniteSet(1),
        sympy.I,
        sympy.ImmutableMatrix([1]),
    ):
        assert isinstance(decode(encode(value, 1000)), Symbolic)


def test_bounds() -> None:
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested]
    shared: list[Any] = [0]
    for _ in range(60):
        shared = [shared, shared]
    for value in (nested, shared, "x" * 1001, 2**100_000, list(range(1000)), b"x" * 600, {str(i): i for i in range(400)}, np.zeros(2000)):
        with pytest.raises(TooLargeError):
            encode(value, 1000)


@given(VALUES, st.integers(1, 300))
def test_budget_is_kept(value: Any, budget: int) -> None:
    try:
        assert len(encode(value, budget)) <= budget
    except TooLargeError:
        assert len(encode(value, 1 << 20)) > budget * 0.5


@pytest.mark.parametrize(
    "text",
    ["", "nope", "NaN", "Infinity", "[1", '{"$call":["os.system"]}', '{"$int":5}', '{"$int":"xyz"}', '{"$set":[[]]}', '{"$dict":[[[],1]]}',
     '{"$int":"1","a":2}', '{"a":1,"a":2}', '{"$np":["int64",{"$set":[]}]}', '{"$fraction":[1,0]}', '{"$fraction":["1","2"]}', '{"$float":"1"}',
     '{"$datetime":["eval","1"]}', '{"$ndarray":["x",[],[]]}', '{"$ndarray":["x",[1000000000,0],[]]}', '{"$ndarray":["x",[-1,-1],[1]]}', '{"$ndarray":["x",[2],[1]]}', '{"$sympy":[1,"x"]}', '{"$range":[1.5,2,3]}', '{"$complex":["1","2"]}', "[" * 5000, "[" * 300 + "]" * 300, '{"$tuple":[' * 200 + "]}" * 200,
     "1e999", "[1, 2]", " 1", '{"a": 1}', '{"$np":["int64",1,2,3]}', '{"$np":[1,1]}', '{"$ndarray":["x",[' + "1," * 64 + '1],[1]]}', '"' + '\\"' * 4_000_000,
     '{"$bytes":"zz"}', '{"$str":"00ff"}', '{"$tuple":5}', '{"$dict":[[1]]}', "9" * 5000, '{"$int":"' + "f" * 3572 + '"}', '{"$ndarray":["x",[1],[[1]]]}', '{"$ndarray":["x",[1],[{"$ndarray":["x",[1],[1]]}]]}', '{"$ndarray":["x",[1],[{"a":1}]]}', '{"$int":"' + "f" * 9000 + '"}', '{"$decimal":5}'],
)  # fmt: skip
def test_what_encode_cannot_have_written_is_refused(text: str) -> None:
    with pytest.raises(InvalidEncodingError):
        decode(text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text() | st.sampled_from(["$int", "ff", "$set"]),
                    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["$int", "$set", "$ndarray", "$np", "$dict", "$sympy", "$range", "$fraction", "$datetime", "a"]), inner, max_size=2)))  # fmt: skip
def test_forged_json_never_raises_anything_else(value: Any) -> None:
    with contextlib.suppress(InvalidEncodingError):
        decode(json.dumps(value))


@pytest.mark.parametrize(
    ("value", "text"),
    [(57, "57"), (57.0, "57.0"), ("a b", "a b"), (True, "True"), (None, "None"), (Fraction(3, 4), "3/4"), (Decimal("1.50"), "1.50"), ([1, "a"], "[1, 'a']"),
     ((1,), "(1,)"), ({3, 1}, "{1, 3}"), (set(), "set()"), ({"a": Fraction(1, 2)}, "{'a': 1/2}"), (Symbolic("Pow", "sqrt(2)"), "sqrt(2)"),
     ("\ud800", "?"), ("x" * 5000, None)],
)  # fmt: skip
def test_text_of_an_answer(value: Any, text: str | None) -> None:
    assert text_of(value) == text


def test_numbers_too_long_for_text() -> None:
    longest = 2**14284 - 1
    assert decode(encode([longest, -longest, Fraction(1, longest)], 1 << 20)) == [longest, -longest, Fraction(1, longest)]
    assert repr(longest) and text_of(longest) is None
    for value in (10**4300, -(10**4300), Fraction(1, 10**5000)):
        with pytest.raises(TooLargeError):
            encode(value, 1 << 20)


@pytest.mark.parametrize(
    ("value", "count"),
    [(range(10**30), 10**30), (range(7, -(10**10), -3), len(range(7, -(10**10), -3))), (range(0), 0), (range(5, 2), 0), (range(0, 7, 3), 3), (range(7, 0, -7), 1), (range(0, 10**30, 10**29), 10)],
)  # fmt: skip
def test_ranges_count_as_their_elements(value: range, count: int) -> None:
    text = encode(value, count + 100)
    assert decode(text, count) == value
    if count:
        with pytest.raises(InvalidEncodingError):
            decode(text, count - 1)
    if count > 100:
        with pytest.raises(TooLargeError):
            encode(value, count)


def test_ranges_add_up() -> None:
    text = encode([range(100)] * 10, 2000)
    assert decode(text, 1000) == [range(100)] * 10
    with pytest.raises(InvalidEncodingError):
        decode(text, 999)
    with pytest.raises(TooLargeError):
        encode([range(100)] * 10, 1000)
    with pytest.raises(InvalidEncodingError):
        decode('{"$range":[0,10000000000,1]}')


def test_names_are_ascii() -> None:
    kind = type("Gr\xf6\xdfe", (), {})
    with pytest.raises(NotPlainError) as caught:
        encode(kind(), 1000)
    assert str(caught.value) == "Gr\\xf6\\xdfe"


def test_deepest_honest_value_passes() -> None:
    value: Any = 1
    for i in range(42):
        value = {(1, i): value} if i % 2 else (value,)
    assert decode(encode(value, 10_000)) == value
