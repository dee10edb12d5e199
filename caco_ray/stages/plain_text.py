r"""A text as decontamination compares it: what changes how it looks and not what it says is taken away first.

Taken away are case, width and superscripts of Unicode (NFKC), the dress of LaTeX (`\frac{1}{2}` is `1/2`, `\times` is `×`,
`\text{cm}` is `cm`, `\pi` is `π`), apostrophes and the commas of `1,000`. Limits: macros that the text defines itself, and structures such
as matrices, are read as their letters and digits; words that say what a symbol says (`percent`, `times`) are other words.
"""

import re
import unicodedata

_GREEK = {
    point: unicodedata.name(chr(point)).rpartition(" ")[2].lower().replace("lamda", "lambda")  # as LaTeX spells them
    for point in range(ord("α"), ord("ω") + 1)
    if chr(point) != "ς"
}
_NAMED = {"√": "sqrt", "∞": "infty", "∑": "sum", "∏": "prod", "∫": "int", "±": "pm", "≠": "neq", "∠": "angle", "△": "triangle"}
_SIGNS = {
    "—": " ; ", "–": "-", "−": "-", "‐": "-", "‑": "-", "×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "⁄": "/", "≤": "<=", "≥": ">=",
    "’": "'",
}  # fmt: skip
_TABLE = {point: f" {name} " for point, name in _GREEK.items()} | {ord(c): f" {name} " for c, name in _NAMED.items()}
_TABLE |= {ord(c): sign for c, sign in _SIGNS.items()}
_SIGNS_OF_LATEX = {
    "times": "*", "cdot": "*", "ast": "*", "div": "/", "over": "/", "lt": "<", "gt": ">", "le": "<=", "leq": "<=", "ge": ">=", "geq": ">=",
    "ne": " neq ",
}  # fmt: skip
_DRESS = re.compile(
    r"text\w*|math\w*|mbox|operatorname|displaystyle|left|right|bigg?[lr]?|begin|end|boxed|quad|qquad|circ|degree|[lc]?dots|newline|hspace|vspace"
)

_RAISED = re.compile(r"[²³¹⁰⁴-⁹⁺⁻]+")
_LOWERED = re.compile(r"[₀-₉]+")
_VULGAR = re.compile(r"[¼-¾⅐-⅞]")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\w))\s*(?:\{([^{}]*)\}|(\w))")
_COMMAND = re.compile(r"\\(?:([a-z]+)|(.))", re.DOTALL)
_WITHIN = re.compile(r"(?<=\w)'(?=\w)|(?<=\d),(?=\d{3}(?!\d))")  # an apostrophe, the comma of 1,000
_NOT_WORD = re.compile(r"[^\w\s]|_")
_PART = re.compile(r"\d+|[^\W\d_]+")
_TERM = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|[+*/=<>%]|-(?=\s*\d)")


def plain(text: str) -> str:
    """The text without its dress; punctuation stays."""
    if not text.isascii():
        text = _VULGAR.sub(r" \g<0>", _LOWERED.sub(r"_\g<0>", _RAISED.sub(r"^\g<0>", text)))
        text = unicodedata.normalize("NFKC", text).casefold().translate(_TABLE)
    text = text.lower()
    if "\\" in text:
        text = _COMMAND.sub(_without_command, _without_fractions(text.replace("{,}", ",")))
    return text


def words(text: str) -> list[str]:
    """Words of a plain text without punctuation: `5-foot` is `5foot`, as in GPT-3 (arXiv 2005.14165, appendix C)."""
    return _NOT_WORD.sub("", text).split()


def split_words(text: str) -> list[str]:
    """Words and whole numbers of a plain text, parted by punctuation and from each other: `5-foot` is `5`, `foot`; `3x` is `3`, `x`."""
    return _PART.findall(_WITHIN.sub("", text))


def terms(text: str) -> str:
    """Numbers, words and the signs that calculate of a plain text: `15% of 3x` is `15 % of 3 x`."""
    return " ".join(_TERM.findall(_WITHIN.sub("", text)))


def _without_fractions(text: str) -> str:
    """Innermost first; a text is as deep as it is, and each pass is shorter than the one before."""
    while (shorter := _FRACTION.sub(lambda found: f" {'/'.join(filter(None, found.groups()))}", text)) != text:
        text = shorter
    return text


def _without_command(found: re.Match[str]) -> str:
    name, sign = found.groups()
    if name is None:
        return "" if sign in ",!" else " " if sign in ";: \\" else sign
    return " " if _DRESS.fullmatch(name) else _SIGNS_OF_LATEX.get(name) or f" {name.removeprefix('var')} "
