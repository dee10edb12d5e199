r"""What an answer says: numbers, truth values, words, sequences, mappings, and formulas that only a computer algebra system can read.

`readings(text)` parses a written answer; `decode(tagged)` takes a program's output from its exact-type JSON. Numbers are exact
(`Fraction`): `3/4`, `0.75`, `\frac34`, `1{,}200`, `$1,200`, `3 \times 10^5`, `1\frac12`, `5 million`. A comma separates thousands or
items, it is never a decimal point. Nothing is evaluated: patterns match whole texts, and whatever they do not match is a `Formula`
or `Words`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from caco_ray.grading.notation import CURRENCY, tidy, unit_factor, words

MAX_DIGITS = 1000  # of a number; longer ones are compared as words
MAX_TEXT = 5000  # characters; longer answers are compared as words
_MAX_DEPTH = 3  # of nested lists
_MAX_POWER = 400  # of ten, in scientific notation
_FLOAT_NOISE_DIGITS = 15  # a float whose shortest form is this long is taken for a rounded real number


@dataclass(frozen=True)
class Number:
    """`decimals` = digits written after the point (None for integers and fractions); `approximate` = a float without a short form."""

    value: Fraction
    decimals: int | None = None
    approximate: bool = False


@dataclass(frozen=True)
class Truth:
    value: bool


@dataclass(frozen=True)
class Words:
    """Compared without case, quotes and spacing. `written`: as it was, where a formula may be meant."""

    text: str
    written: str = field(default="", compare=False)


@dataclass(frozen=True)
class Formula:
    """LaTeX-like text for the computer algebra system."""

    text: str


@dataclass(frozen=True)
class Items:
    """`brackets` is `()`, `[]`, `{}` (a set), or empty for a bare list."""

    items: tuple["Value", ...]
    brackets: str = ""


@dataclass(frozen=True)
class Mapping:
    items: dict[str, "Value"]


@dataclass(frozen=True)
class OneOf:
    """An item that can be read in several ways."""

    values: tuple["Value", ...]


Value = Number | Truth | Words | Formula | Items | Mapping | OneOf

_TRUTH = {"yes": True, "true": True, "no": False, "false": False}
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_SIGN = rf"(?P<sign>[+-]?)\s*[{CURRENCY}]?\s*"
_TAIL = r"(?P<tail>\s*(?:[A-Za-z%°(\\/*·].*)?)"
_FRACTION = re.compile(
    rf"{_SIGN}(?:(?P<whole>\d+)\s*(?=\\frac)|(?P<whole2>\d+)\s+(?=\d))?"
    rf"(?:\\frac\{{\s*(?P<top>-?{_DECIMAL})\s*\}}\{{\s*(?P<bottom>{_DECIMAL})\s*\}}|(?P<top2>{_DECIMAL})\s*/\s*(?P<bottom2>-?{_DECIMAL}))"
    rf"(?![\d.^_!]){_TAIL}"
)
_TIMES_TEN = r"(?:[eE]|\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*)"
_SCIENTIFIC = re.compile(rf"{_SIGN}(?P<base>{_DECIMAL}){_TIMES_TEN}\{{?(?P<power>[+-]?\d+)\}}?{_TAIL}")
_PLAIN = re.compile(rf"{_SIGN}[{CURRENCY}]?(?P<base>{_DECIMAL})(?![\d.^_!]){_TAIL}")
_NAMES = r"\([A-Za-z](?:, ?[A-Za-z])*\)|[A-Za-z](?:[\w' ]|\\[A-Za-z]+|\([A-Za-z]\))*?|\\[A-Za-z]+"
_NAME = re.compile(rf"^\s*({_NAMES})\s*(?:=|\\approx|≈|\\in\b)\s*(?=\S)")
_HEDGE = re.compile(r"^(?:exactly|approximately|approx\.?|about|roughly|around|\\approx|≈|=|\\in(?![A-Za-z]))\s*", re.IGNORECASE)
_MATHS = re.compile(r"[\\^=<>+*/|(){}\[\]!]|^-|^\d[\d.]*\s*[A-Za-z]$")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_BASED = re.compile(r"\w_\{?\d")  # `204_5`: a numeral in another base, or an indexed name: never computed with
_FUNCTION_NAMES = "sqrt sin cos tan cot sec csc log exp abs det gcd lcm max min inf arcsin arccos arctan sinh cosh tanh asin acos atan"
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_CONSTANTS = frozenset(["pi", "e", "i"])
_GRID = r"\{(?:[pbB]?(?:small)?matrix|array)\}"
_MATRIX = re.compile(rf"\[?\s*\\begin{_GRID}(?:\{{[lcr| ]+\}})?(.*)\\end{_GRID}\s*\]?", re.DOTALL)
_BRACED = re.compile(r"\{[^{}]*\}")
_EQUALS = re.compile(r"(?<![<>!])=|\\approx(?![A-Za-z])|≈")
_BRACKETS = ((r"\{", r"\}", "{}"), (r"\langle", r"\rangle", "()"), ("(", ")", "()"), ("[", "]", "[]"), ("{", "}", "{}"))
_PAIR = re.compile(r"^\s*[\"']?([^:=\"']+?)[\"']?\s*[:=]\s*([^=]+)$")


def readings(text: str) -> list[Value]:
    """What the text can mean, likeliest first: `1,200` is a number or two items; the other side of the comparison tells which."""
    return _readings(tidy(text), 0) if len(text) <= MAX_TEXT else [Words(words(text))]


def _readings(text: str, depth: int) -> list[Value]:
    value = scalar(text)
    if depth > _MAX_DEPTH:
        return [value]
    lists, mappings = [*_matrices(text, depth), *_lists(text, depth)], _mappings(text, depth)
    # A list is compared item by item; as a whole the algebra system would forgive its order.
    return [*lists, *mappings] if lists and isinstance(value, Formula) else [value, *lists, *mappings]


def _item(text: str, depth: int) -> Value:
    found = _readings(text, depth + 1)
    return found[0] if len(found) == 1 else OneOf(tuple(found))


def _lists(text: str, depth: int) -> list[Value]:
    inner, brackets = _unbracket(_unnamed(text))
    if inner.count(r"\pm") == 1 and not brackets:
        return [Items(tuple(_item(inner.replace(r"\pm", sign), depth) for sign in signs)) for signs in ("+-", "-+")]
    cuts = [parts for parts in _splits(inner) if brackets or len(parts) > 1]
    return [Items(tuple(_item(part, depth) for part in parts), brackets) for parts in cuts]


def _mappings(text: str, depth: int) -> list[Value]:
    found: list[Value] = []
    for parts in _splits(_unbracket(text)[0]):
        pairs = [match for part in parts if (match := _PAIR.match(part))]
        items = {words(pair[1]): _item(pair[2], depth) for pair in pairs}
        if len(items) == len(parts):
            found.append(Mapping(items))
    return found


def _matrices(text: str, depth: int) -> list[Value]:
    """A matrix as a list of rows; a single row or column also as a flat list."""
    match = _MATRIX.fullmatch(_unnamed(text))
    if match is None:
        return []
    rows = [[_item(cell.strip(), depth) for cell in row.split("&")] for row in match[1].strip().removesuffix("\\\\").split("\\\\")]
    nested = Items(tuple(Items(tuple(row), "[]") for row in rows), "[]")
    if len(rows) == 1 or all(len(row) == 1 for row in rows):
        return [nested, Items(tuple(cell for row in rows for cell in row), "[]")]
    return [nested]


def _unnamed(text: str) -> str:
    """Without `x =` and "approximately"."""
    return _HEDGE.sub("", _NAME.sub("", text, count=1), count=1).strip()


def name_of(text: str) -> str | None:
    """The `x` of `x = 5`, else None."""
    match = _NAME.match(tidy(text))
    return match[1].replace(" ", "") if match else None


def scalar(text: str) -> Value:
    """One value from tidied text. A chain (`x = 3 + 3 = 7`, `1/3 \\approx 0.3`) is no value: its links may contradict each other."""
    original, text = text, _unnamed(text)
    while (choice := _grouped(text)) is not None:
        text = choice
    plain = words(text)
    if plain in _TRUTH:
        return Truth(_TRUTH[plain])
    number = _number(text) if len(text) <= MAX_DIGITS else None
    if number is not None:
        return number
    chain = len(_EQUALS.findall(_BRACED.sub("", original))) > 1
    return (
        Formula(text)
        if (_is_maths(text) and not chain) or plain in _CONSTANTS
        else Words(plain.replace(" ", "") if ":" in plain else plain, text)
    )


def _is_maths(text: str) -> bool:
    """False for times and ratios (`12:00`), codes (`a3b2`) and sentences: algebra would read letters as factors and lose their order."""
    if ":" in text or _BASED.search(text) or not _MATHS.search(text) or _unbracket(text)[1] == "[]":
        return False
    return all(word.casefold() in _FUNCTIONS for word in _WORD.findall(re.sub(r"\\(?:begin|end)\{[a-z]+\}", "", text)))


def _grouped(text: str) -> str | None:
    """The inside of brackets that only group: `(5)`, `{5}`, `(C)`."""
    for opening in "({":
        if len(text) > 2 and text[0] == opening and _closing(text) == len(text) - 1 and not _split_top(text[1:-1], ",;"):
            return text[1:-1].strip()
    return None


def _number(text: str) -> Number | None:
    for pattern, read in ((_FRACTION, _read_fraction), (_SCIENTIFIC, _read_scientific), (_PLAIN, _read_plain)):
        match = pattern.fullmatch(text)
        if match is None:
            continue
        tail = match["tail"]
        factor = unit_factor(tail, touching=tail == tail.lstrip())
        number = read(match) if factor is not None else None
        if number is not None and factor is not None:
            sign = -1 if match["sign"] == "-" else 1
            return Number(number.value * sign * factor, number.decimals if factor == 1 else None)
    return None


def _read_plain(match: re.Match[str]) -> Number:
    digits = re.sub("[, ]", "", match["base"])
    point = digits.find(".")
    return Number(Fraction(digits.rstrip(".")), None if point < 0 else len(digits) - point - 1)


def _read_scientific(match: re.Match[str]) -> Number | None:
    power = match["power"]
    if len(power) > 4 or abs(int(power)) > _MAX_POWER:
        return None
    base = _read_plain(match)
    decimals = None if base.decimals is None else max(0, base.decimals - int(power))
    return Number(base.value * Fraction(10) ** int(power), decimals)


def _read_fraction(match: re.Match[str]) -> Number | None:
    top, bottom = (Fraction(re.sub("[, ]", "", match[name] or match[f"{name}2"]).rstrip(".")) for name in ("top", "bottom"))
    whole = match["whole"] or match["whole2"]
    if bottom == 0 or (whole and not (0 < top < bottom and top.denominator == bottom.denominator == 1)):
        return None
    return Number(int(whole or 0) + top / bottom)


def _unbracket(text: str) -> tuple[str, str]:
    text = text.strip()
    for opening, closing, kind in _BRACKETS:
        if text.startswith(opening) and text.endswith(closing) and (len(opening) > 1 or _closing(text) == len(text) - 1):
            return text[len(opening) : -len(closing)].strip(), kind
    return text, ""


def _splits(inner: str) -> Iterator[list[str]]:
    """Ways to cut a list into items; none when there is nothing to cut at."""
    seen: list[list[str]] = []
    joined = re.sub(r",?\s*(?<![A-Za-z])(?:and|or)(?![A-Za-z])\s*", ", ", inner)
    for text, separators in ((inner, ";"), (joined, ", "), (joined, ",")):
        parts = _split_top(text, separators) or [text]
        if len(parts) == 1 and _split_top(joined, ",") and _number(text) is None:
            continue  # uncut although it has several items: only `[1,200]` is read so
        if parts not in seen and inner and all(parts):
            seen.append(parts)
            yield parts


def _split_top(text: str, separators: str) -> list[str]:
    """Cut at top-level separators (`", "` = a comma with a space behind); empty when there is none."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth == 0 and character in separators.strip() and (separators != ", " or text[at + 1 : at + 2] == " "):
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()] if parts else []


def _closing(text: str) -> int:
    """Index of the bracket that closes the one at 0, or -1."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return at
    return -1


def from_float(value: float) -> Value:
    """A program's float. Its shortest form is exact when short (2.5), an approximation of some real number when long (0.333...)."""
    if value != value or value in (float("inf"), float("-inf")):
        return Words(str(value))
    shortest = Decimal(repr(value))
    digits = "".join(map(str, shortest.as_tuple().digits)).rstrip("0")
    approximate = len(digits) >= _FLOAT_NOISE_DIGITS and not value.is_integer()
    return Number(Fraction(shortest), None, approximate)
