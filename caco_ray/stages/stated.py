"""Which values a text states: numbers in digits, words and the usual formats, and strings.

Signs are not compared ("4 below zero" states -4), nor is how often a value occurs. A value that follows from others by a unit or a
rule ("5 more than") is not stated. An arithmetic progression is stated by its ends ("from 1 to 100").
"""

import math
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

_DIGITS = r"\d{1,300}"
_NUMBER = re.compile(rf"(?:\d{{1,3}}(?:,\d{{3}})+|{_DIGITS})(?:\.{_DIGITS})?|\.{_DIGITS}")
_RATIO = re.compile(
    rf"(?:({_DIGITS})\s+)?\b({_DIGITS})\s*/\s*({_DIGITS})\b|\\[dt]?frac\s*\{{?\s*({_DIGITS})\s*\}}?\s*\{{?\s*({_DIGITS})\s*\}}?"
)
_POWER = re.compile(r"\b10\s*(?:\^|\*\*)\s*\{?\s*(-?\d{1,2})\b|\b(\d+(?:\.\d+)?)e([+-]?\d{1,2})\b", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(?:\\?%|percent|per cent)", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+")

_GAP = r"[\s,;:&()\[\]{}\"'$]*+"
_BETWEEN = rf"{_GAP}(?:(?:and|or|then)\b{_GAP})?"
_GOES_BEFORE = re.compile(r"\d[\s,;]*(?:\b(?:and|or)\s+)?[-−]?$")
_GOES_ON = re.compile(r"[\s,;]*(?:(?:and|or)\s+)?(?:[-−]?\d|\.\.|…|\$?\\[lc]?dots)")

_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = (
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)  # fmt: skip
_ORDINALS = (
    "zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth", "twentieth",
)  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_ONE = "|".join((*_UNITS, *_TENS, *_SCALES))
_AND = r"(?:(?:(?<=hundred)|(?<=thousand)|(?<=million)|(?<=billion)|(?<=trillion)) and)?"
_SCALE = re.compile(rf"[ ~-]*({'|'.join(_SCALES)})\b")
_SPELLED = re.compile(rf"\b(?!(?<=\d[\s~-])(?:{'|'.join(_SCALES)}))(?:{_ONE})\b(?:{_AND}[\s-]+(?:{_ONE})\b)*")
_PARTS = re.compile(rf"\b({'|'.join(_UNITS)})[\s-]+({'|'.join(_ORDINALS[3:])})s?\b")
_WORDS: dict[str, tuple[Fraction, ...]] = {
    **{word: (Fraction(n),) for n, word in enumerate(_UNITS)},
    **{word: (Fraction(10 * n),) for n, word in enumerate(_TENS, 2)},
    **{word: (Fraction(n), Fraction(1, n)) if n else (Fraction(0),) for n, word in enumerate(_ORDINALS)},
    **{word: (Fraction(n),) for word, n in _SCALES.items()},
    **{word: (Fraction(0),) for word in ("no", "none", "nothing", "empty", "origin")},
    **{word: (Fraction(1),) for word in ("a", "an", "single", "once", "each", "every", "per", "unit")},
    **{word: (Fraction(2),) for word in ("twice", "double", "doubles", "doubled", "pair", "pairs", "both", "couple", "square", "squared")},
    **{word: (Fraction(3),) for word in ("thrice", "triple", "triples", "tripled", "cube", "cubed", "triangle")},
    **{word: (Fraction(1, 2), Fraction(2), Fraction(50)) for word in ("half", "halves", "halved", "halfway")},
    **{word: (Fraction(1, 4), Fraction(4), Fraction(25)) for word in ("quarter", "quarters")},
}


def missing_values(value: Any, text: str) -> list[str]:
    """Numbers and strings inside `value` (plain Python, nested) that `text` does not state, as text, each once."""
    numbers = stated_numbers(text)
    missing = [_shown(scalar) for scalar in scalars(value) if not _is_stated(scalar, text, numbers)]
    return list(dict.fromkeys(missing))


def stated_numbers(text: str) -> list[Fraction]:
    """Every number that the text may be read to state, without sign: `1,000` (as 1000, but 1 and 0 too), `50%`, `1/3`, `twenty-five`."""
    text = _plain_commas(text)
    found = {number for numbers in (_digits(text), _ratios(text), _powers(text), _number_words(text.lower())) for number in numbers}
    return sorted(found)


def written_numbers(text: str) -> set[Fraction]:
    """Every number that stands in the text, without sign, in digits or spelled out: `1,000`, `2 1/2`, `2.5 million`, `twenty-five`. A
    stricter reading than `stated_numbers`: 50% is 50, and "half" and "quarter" are no numbers here."""
    text = _plain_commas(text).lower()
    spelled = (_spelled(_WORD.findall(found.group())) for found in _SPELLED.finditer(text))
    parts = (Fraction(_UNITS.index(top), _ORDINALS.index(bottom)) for top, bottom in _PARTS.findall(text))
    return {*map(_scaled, _NUMBER.finditer(text)), *_ratios(text), *_powers(text), *spelled, *parts}


def scalars(value: Any) -> Iterator[int | float | Fraction | str]:
    """Numbers and strings of a nested value. Of dicts within, keys count as well; booleans, None and blank strings state nothing."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from scalars(key)
            yield from scalars(item)
    elif isinstance(value, list | tuple | set | frozenset | range):
        items = list(value)
        ends = [items[0], items[-1]] if _is_progression(items) else items
        for item in ends:
            yield from scalars(item)
    elif _says_something(value):
        yield value


def leaves(value: Any) -> list[Any]:
    """What a nested list holds, in order; sets in that of their texts, and of dicts the keys and values."""
    if isinstance(value, dict):
        return [leaf for pair in value.items() for item in pair for leaf in leaves(item)]
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list | tuple) else [value]


def as_texts(value: Any) -> Iterator[str]:
    """Each string and each list inside a nested value, the value itself included, as a text that states its items in a row."""
    if isinstance(value, dict):
        yield from as_texts([*value])
        yield from as_texts([*value.values()])
    elif isinstance(value, list | tuple | set | frozenset):
        yield ", ".join(map(_shown, leaves(value)))
        for item in value:
            yield from as_texts(item)
    elif isinstance(value, str):
        yield value


def states_list(items: list[Any], text: str, alone: bool = False) -> bool:
    """True if the numbers and strings stand in the text one after the other (`1, 3 and 5`). `alone`: as a list of their own, and not as
    numbers in a row of more. False for what has no such reading (booleans, None)."""
    patterns = [_pattern(item) for item in items] if 2 * len(items) - 1 <= len(text) else []
    if not patterns or None in patterns:
        return False
    found = re.finditer(_BETWEEN.join(filter(None, patterns)), text, re.IGNORECASE)
    return any(not alone or not (_GOES_BEFORE.search(text[: match.start()]) or _GOES_ON.match(text[match.end() :])) for match in found)


def _pattern(item: Any) -> str | None:
    if isinstance(item, str):
        return rf"(?<!\w){re.escape(item)}(?!\w)" if _says_something(item) else None
    number = exact(item)
    if number is None or number.numerator.bit_length() > 10_000:
        return None
    whole = f"{number.numerator}(?:\\.0+)?|{number.numerator:,}"
    shown = re.escape(str(abs(item))) + "0*" if isinstance(item, float) else f"{number.numerator}/{number.denominator}"
    return rf"(?<![\w.])[-−]?(?:{whole if number.denominator == 1 else shown})(?!\w|\.\d)"


def _says_something(value: Any) -> bool:
    if isinstance(value, str):
        return any(character.isalnum() for character in value)
    return isinstance(value, int | float | Fraction) and not isinstance(value, bool)


def exact(value: Any) -> Fraction | None:
    """The magnitude of a finite real number as it is written in decimal; None for anything else."""
    if not isinstance(value, int | float | Fraction) or isinstance(value, bool):
        return None
    if isinstance(value, float):
        return abs(Fraction(str(value))) if math.isfinite(value) else None
    return abs(Fraction(value))


def _shown(scalar: Any) -> str:
    """As text; Python writes no integer of more than 4300 digits."""
    if isinstance(scalar, int) and scalar.bit_length() > 10_000:
        return f"an integer of {scalar.bit_length()} bits"
    return str(scalar)


def _is_progression(items: list[Any]) -> bool:
    if len(items) < 3 or any(type(item) is not int for item in items):
        return False
    return len({b - a for a, b in pairwise(items)}) == 1


def _is_stated(scalar: int | float | Fraction | str, text: str, numbers: Iterable[Fraction]) -> bool:
    if isinstance(scalar, str):
        return states_text(scalar, text)
    wanted = exact(scalar)
    return wanted is not None and any(number == wanted or (wanted.denominator > 1 and _is_close(number, wanted)) for number in numbers)


def _is_close(a: Fraction, b: Fraction) -> bool:
    """For what a program writes as 0.3333333333333333 and a text as 1/3 or 33.33%."""
    return abs(a - b) <= abs(b) * Fraction(1, 10**4)


def states_text(value: str, text: str) -> bool:
    """True if the words of `value` stand in the text in their order, each perhaps with an ending, or its letters and digits do."""
    wanted, words = _words(value), _words(text)
    if any(all(map(_same_word, wanted, words[i:])) for i in range(len(words) - len(wanted) + 1)):
        return True
    squeezed = "".join(wanted)
    return len(squeezed) > 2 and squeezed in "".join(words)


def stands_in(value: str, text: str) -> bool:
    """True if the words of `value` stand in the text as they are, in their order; apart or joined (`x2` and `x^2`)."""
    wanted, words = "".join(_words(value)), _words(text)
    joined = list(accumulate(map(len, words), initial=0))
    squeezed, ends = "".join(words), set(joined)
    return bool(wanted) and any(squeezed.startswith(wanted, at) and at + len(wanted) in ends for at in joined)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _same_word(wanted: str, word: str) -> bool:
    return word == wanted or (len(wanted) > 2 and word.startswith(wanted))


def _plain_commas(text: str) -> str:
    return text.replace("{,}", ",").replace("\\!", "").replace("\\,", "")


def _scaled(found: re.Match[str]) -> Fraction:
    """A number in digits times the scale behind it, in lower case."""
    scale = _SCALE.match(found.string, found.end())
    return Fraction(found.group().replace(",", "")) * (_SCALES[scale[1]] if scale else 1)


def _digits(text: str) -> Iterator[Fraction]:
    for match in _NUMBER.finditer(text):
        pieces = [match.group().replace(",", "")]
        if "," in match.group():
            pieces += match.group().split(",")
        for piece in pieces:
            number = Fraction(piece)
            yield number
            after = text[match.end() :]
            if _PERCENT.match(after):
                yield number / 100
            scale = _WORD.match(after.lstrip(" -~").lower())
            if scale and scale.group() in _SCALES:
                yield number * _SCALES[scale.group()]


def _ratios(text: str) -> Iterator[Fraction]:
    for whole, top, bottom, tex_top, tex_bottom in _RATIO.findall(text):
        numerator, denominator = int(top or tex_top), int(bottom or tex_bottom)
        if denominator:
            yield Fraction(numerator, denominator)
            yield int(whole or 0) + Fraction(numerator, denominator)


def _powers(text: str) -> Iterator[Fraction]:
    for power, mantissa, exponent in _POWER.findall(text):
        yield Fraction(10) ** int(power) if power else Fraction(mantissa) * Fraction(10) ** int(exponent)


def _number_words(text: str) -> Iterator[Fraction]:
    """Single number words, and runs such as `twenty-five`, `three hundred and twelve`, `two thirds`."""
    run: list[str] = []
    for word in [*_WORD.findall(text), ""]:
        yield from _WORDS.get(word, ())
        singular = word.removesuffix("s")
        if run and singular in _ORDINALS[2:] and run[-1] in _UNITS:
            yield Fraction(_UNITS.index(run[-1]), _ORDINALS.index(singular))
        if word in _UNITS or word in _TENS or word in _SCALES or (word == "and" and run):
            run.append(word)
        elif run:
            yield _spelled(run)
            run = []


def _spelled(run: list[str]) -> Fraction:
    total = group = 0
    for word in run:
        if word in _UNITS:
            group += _UNITS.index(word)
        elif word in _TENS:
            group += 10 * (_TENS.index(word) + 2)
        elif word in ("hundred", "dozen"):
            group = max(group, 1) * _SCALES[word]
        elif word in _SCALES:
            total, group = total + max(group, 1) * _SCALES[word], 0
    return Fraction(total + group)
