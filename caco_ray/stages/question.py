"""Checks on a written question that need no model: run on CPU before a solver spends tokens on it."""

import ast
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pyarrow as pa

from caco_ray.config import ReverseConfig
from caco_ray.sandbox.codec import decode
from caco_ray.schema import Row, live, reject, to_table
from caco_ray.stages import program
from caco_ray.stages.stated import as_texts, exact, leaves, missing_values, scalars, stands_in, states_list, states_text, written_numbers

Check = Callable[[Row, ReverseConfig], str | None]

_ASKS = re.compile(
    r"\?|\b(?:find|determine|calculate|compute|evaluate|simplify|solve|factor|expand|convert|count|list|name|give|state|express|write|"
    r"rewrite|rationalize|reduce|round|arrange|sort|add|subtract|multiply|divide|choose|work out|figure out|"
    r"estimate|report|tell|identify|decide|check|what|how many|how much|which|who|when|where)\b",
    re.IGNORECASE,
)
# Functions and words that mathematics writes in the same way (`sum(k^2)`, `range(f)`, a wavelength lambda) need more of code around them.
_CODE = re.compile(
    r"```|\bdef \w+\(|\b(?:print|len|str|sorted)\(|\bsum\([^?\n]*\bfor \w+ in\b|\bsum\(\s*\[|\bint\((?:[\"']|input\b)|\bin range\(|"
    r"\binput\s*[\[=]|\boutput\s*=|\*\*input|\[[\"']\w+[\"']\]|[-+*/]=|==|"
    r"[=(,]\s*lambda\s+\w+(?:\s*,\s*\w+)*\s*:|\blambda ([a-z_]\w*)(?:, ?\w+)*: ?[^.?\n]{0,20}?\b\1\b ?[-+*/%<>\[.(]|"
    r"\bfor \w+ in range\b|^\s*(?:import \w+|from \w+ import .*)$|`(?:input|output|solve|None|True|False)\b|\bPython\b",
    re.MULTILINE,
)
_SPEAKS_OF_CODE = re.compile(
    r"\b(?:source code|code snippet|this code|computer program|(?:the|following|given|above) code (?:above|below|prints?|returns?)|"
    r"(?:this|the|following|given|above) (?:program|script|snippet) (?:above|below|prints?|outputs?|returns?|takes|computes?|calculates?)|"
    r"(?:input|output) (?:dictionary|dict|variable)|key-value)\b",
    re.IGNORECASE,
)
_IDENTIFIER = re.compile(r"\b[a-z]{2,}(?:_[a-z][a-z0-9]+)+\b")
_ANNOUNCED = r"(?:\b(?:answer|result|solution)\b\W*(?:is|=|:)\W*|\\boxed\{\s*|####\s*)"
_NO_MORE_DIGITS = r"(?![\w.]*\d|,\d{3}|\s*/\s*\d)"  # 3 is not 38, 3.8, 3,800 or 3/8; but it is 3cm
_NO_CHOICE = r"(?!,?\s*(?:or|[(\"']?[a-z]|yes|no|true|false|even|odd|none)\b)"  # that goes on: "yes, no or never", "(A), (B)"
_ENDS_PHRASE = rf"(?=[\"'*$\]]*\s*(?:[.;!?}}\n]|[),]{_NO_CHOICE}|\s[-–—]\s|(?:because|since|so|and|as)\b|$))"
_COMMON = 20  # smaller whole numbers stand in many texts by chance
_LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict)
_FEW_WORDS = frozenset({"yes", "no", "true", "false", "even", "odd", "none"})


def not_a_question(row: Row, config: ReverseConfig) -> str | None:
    return None if _ASKS.search(row["question"]) else "not_a_question"


def question_too_short(row: Row, config: ReverseConfig) -> str | None:
    return "question_too_short" if len(row["question"].split()) < config.min_words else None


def question_too_long(row: Row, config: ReverseConfig) -> str | None:
    return "question_too_long" if len(row["question"].split()) > config.max_words else None


def question_leaks_code(row: Row, config: ReverseConfig) -> str | None:
    """Code, the talk of code, or a name such as `unit_price` that is no text of the input."""
    question = row["question"]
    texts = [text for text in scalars(_input(row)) if isinstance(text, str)]
    names = [name for name in _IDENTIFIER.findall(question) if not any(name in text for text in texts)]
    return "question_leaks_code" if names or _CODE.search(question) or _SPEAKS_OF_CODE.search(question) else None


def question_leaks_answer(row: Row, config: ReverseConfig) -> str | None:
    """The answer is announced, or stands in the question without being a value of the input or a constant of the program.

    Small whole numbers, words such as "yes", and lists of two must be announced to count: they stand in many questions by chance.
    """
    question, answer = row["question"], decode(row["output_json"])
    if re.search(_ANNOUNCED + _to_the_end(row["program_answer"]), question, re.IGNORECASE):
        return "question_leaks_answer"
    given, constants = _input(row), _constants(row["code"])
    if isinstance(answer, list | tuple | set | frozenset):
        stands = _list_stands_in(answer, question, [list(given.values()), *constants])
    else:
        stands = _stands_in(answer, question, [*scalars(given), *constants])
    return "question_leaks_answer" if stands else None


def question_misses_values(row: Row, config: ReverseConfig) -> str | None:
    """More than `max_missing_values` values of `input` are not stated: the reader would have to guess."""
    values = list(_input(row).values())
    return "question_misses_values" if len(missing_values(values, row["question"])) > config.max_missing_values else None


CHECKS: dict[str, Check] = {
    "not_a_question": not_a_question,
    "question_too_short": question_too_short,
    "question_too_long": question_too_long,
    "question_leaks_code": question_leaks_code,
    "question_leaks_answer": question_leaks_answer,
    "question_misses_values": question_misses_values,
}


def check_questions(table: pa.Table, config: ReverseConfig) -> pa.Table:
    """Reject each live row by the first check that its question fails."""
    rows = table.to_pylist()
    for row in live(rows):
        reason = next(filter(None, (check(row, config) for check in CHECKS.values())), None)
        if reason:
            reject(row, reason)
    return to_table(rows, table.schema)


def _input(row: Row) -> dict[str, Any]:
    value = decode(row["input_json"])
    return value if isinstance(value, dict) else {}


def _constants(code: str) -> list[Any]:
    """Each one, and each list or dict of constants."""
    tree = program.parse(code)
    nodes = [node for node in ast.walk(tree) if isinstance(node, _LITERALS)] if tree else []
    return [value for node in nodes for value in _literal(node)]


def _literal(node: ast.AST) -> Iterator[Any]:
    try:
        yield ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):  # it holds something that is no constant
        return


def _to_the_end(answer: str) -> str:
    """A pattern of the whole answer: `No` is not `not`, and "the answer is a whole number" does not say `A`."""
    pattern = re.escape(answer)
    if answer.lower() in _FEW_WORDS or (len(answer) == 1 and answer.isalpha()):
        return pattern + _ENDS_PHRASE
    return pattern + (r"\b" if answer[-1:].isalpha() else _NO_MORE_DIGITS)


def _list_stands_in(answer: Collection[Any], question: str, known: list[Any]) -> bool:
    """True if all of a list of three or more stands in the question in its order, and nothing known has the same items in a row."""
    items = leaves(answer)
    return len(items) > 2 and states_list(items, question, alone=True) and not any(states_list(items, text) for text in as_texts(known))


def _stands_in(answer: Any, question: str, known: list[Any]) -> bool:
    """True if the answer stands in the question and nothing known explains why."""
    number = exact(answer)
    if number is not None:
        if number.denominator == 1 and number <= _COMMON:
            return False
        near = {number - 1, number, number + 1}  # a text says "0 to 23" for a program's 24
        return number in written_numbers(question) and near.isdisjoint(exact(value) for value in known)
    if isinstance(answer, str):
        explained = any(states_text(answer, value) for value in known if isinstance(value, str))
        return len(answer) > 3 and answer.lower() not in _FEW_WORDS and not explained and stands_in(answer, question)
    return False
