r"""Reduce the many ways to write an answer to few: LaTeX spacing, dollar signs, text commands, units.

Nothing here decides equality. `tidy` changes notation only; `unit_factor` reads a unit and refuses whatever could change the value
(dozen, tenths, below, squared, "5 or 6", "3 to 1", a variable: `5x`). Units are removed, not compared: "57 apples" and "57 pears" are
both 57.
"""

import re

_DELETE = re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)(?![A-Za-z])|\\!|`|\\[()\[\]]|\$")
_SPACE = re.compile(r"\\(?:quad|qquad|,|;|:|>| )|~|\u00a0|\u202f|\u2009")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|hbox|operatorname|mathsf)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°|\\degree(?![A-Za-z])|\\deg(?![A-Za-z])")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_BARE_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\d|[A-Za-z]|\\[A-Za-z]+))\s*(?:\{([^{}]*)\}|(\d|[A-Za-z]))")
_BARE_SCRIPT = re.compile(r"([_^])\s*(\d+|[A-Za-z])")
_PLAIN_SIGNS = {"−": "-", "–": "-", "÷": "/", "²": "^2", "³": "^3"}
_COMMANDS = {"×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "±": r"\pm "}
_UNICODE = str.maketrans(_PLAIN_SIGNS | _COMMANDS)
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\w+))")

CURRENCY = "$€£¥₹"
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_UNIT_NAMES = (
    "mm cm dm km in ft yd mi mg kg lb lbs oz ml dl cl ms ns hr hrs h min s sec g m t l L mL kL N J W V A K C F Hz kHz kW kJ Pa kPa am pm"
    " mph kph kmh rpm USD EUR GBP deg rad cc sq cu pts pt pct % °"
)
_SHORT_UNITS = frozenset(_UNIT_NAMES.split())
_SINGLE = frozenset(unit for unit in _SHORT_UNITS if len(unit) == 1 and unit.isalpha())
_CONNECTIVES = frozenset(["in", "of", "per", "an", "a", "the", "each", "for", "on"])
_VALUE_WORDS = (
    "and or to than minus plus times over divided half halves third thirds dozen dozens gross score remainder mod modulo base not least"
    " most between from pi sqrt sin cos tan cot sec csc log exp inf infinity point root squared cubed factorial choose power out if when"
    " where with but nor negative below loss deficit debt quarter quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth"
    " eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths millionth millionths tens hundreds thousands millions"
    " billions trillions quadrillion quadrillions mil mio mln bln lakh lakhs crore crores"
)
_CHANGES_VALUE = frozenset(_VALUE_WORDS.split())
_UNIT_TOKEN = re.compile(r"([A-Za-z]+|%|°)\.?(?:\^?\{?(-?[1-3])\}?)?")
_MAX_UNIT_WORDS = 6
_SAID = re.compile(r"(?<![\\A-Za-z])[A-Za-z]+(?![A-Za-z]|\s*=)")
_JOINING = frozenset(["and", "or"])
_HEDGES = frozenset(["exactly", "approximately", "approx", "about", "roughly", "around", "sqrt", "sin", "cos", "tan", "log", "exp", "pi"])


def tidy(text: str) -> str:
    """One spelling of the notation; the value stays."""
    text = text.strip()
    if text.startswith("**"):
        text = text.replace("**", "")  # bold in Markdown; elsewhere `**` is Python's power
    text = text.replace("**", "^").translate(_UNICODE).replace(r"\$", "").replace(r"\%", "%")
    text = re.sub(r"\{\s*,\s*\}", ",", text)
    if r"\begin" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)  # a text that was escaped once too often
    text = re.sub(r",\s*\\!\s*", ",", text)  # `1,\!200`: a separator, set with a thin space
    text = _FRACTION.sub(r"\\frac", text)
    for _ in range(3):  # text commands nest a little
        text = _TEXT.sub(r" \1 ", text)
    text = _DEGREES.sub(" degrees", text)
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    text = _BARE_SCRIPT.sub(r"\1{\2}", text)  # `2^10` is meant as 2^{10}
    text = _BARE_FRACTION.sub(_group_fraction, text)
    text = _SPACE.sub(" ", _DELETE.sub("", text.replace("\\\\", "\x00"))).replace("\x00", "\\\\")
    return re.sub(r"\s+(?=\^)|(?<=\^)\s+", "", re.sub(r"\s+", " ", text)).strip().rstrip(".;,").strip()


def _group_fraction(match: re.Match[str]) -> str:
    top = match[1] if match[1] is not None else match[2]
    bottom = match[3] if match[3] is not None else match[4]
    return rf"\frac{{{top}}}{{{bottom}}}"


def said_words(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Of a tidied text: which of "and" and "or" it has, and its other words, in the singular, without names (`x =`) and small words."""
    found = {word.casefold() for word in _SAID.findall(text)}
    rest = {word.removesuffix("s") or word for word in found - _JOINING - _CONNECTIVES - _HEDGES}
    return frozenset(found & _JOINING), frozenset(rest)


def words(text: str) -> str:
    """The form in which plain words are compared: case, quotes, spacing and end punctuation do not count."""
    return re.sub(r"\s+", " ", re.sub(r"[\"'“”‘’`]", "", text)).strip(" .,;!?").casefold()


def unit_factor(phrase: str, touching: bool) -> int | None:
    """What a phrase behind a number multiplies it by: 1 for a unit, 10^6 for "million dollars", None when it is no unit.

    `touching`: no space stands between number and phrase; then it is a unit only where it is a known one of several letters (`5cm`).
    """
    tokens = [token for token in re.split(r"\\cdot|\\times|[\s/*·()-]+", phrase.strip()) if token]
    if not tokens:
        return 1
    factor = SCALES.get(tokens[0].casefold())
    if factor is not None:
        rest = tokens[1:]
        return factor if not rest or _is_unit(rest, touching=False) else None
    return 1 if _is_unit(tokens, touching) else None


def _is_unit(tokens: list[str], touching: bool) -> bool:
    if len(tokens) > _MAX_UNIT_WORDS:
        return False
    matches = [_UNIT_TOKEN.fullmatch(token) for token in tokens]
    names = [match[1] for match in matches if match]
    if len(names) < len(tokens) or (touching and names[0] not in _SHORT_UNITS - _SINGLE) or names[0].casefold() in _CONNECTIVES - {"in"}:
        return False
    return all(_is_unit_word(name) for name in names)


def _is_unit_word(name: str) -> bool:
    if name in _SHORT_UNITS or name.casefold() in _CONNECTIVES:
        return True
    return len(name) >= 3 and name.casefold() not in _CHANGES_VALUE and name.casefold() not in SCALES
