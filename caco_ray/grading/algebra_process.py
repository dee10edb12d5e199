r"""The process behind `algebra.Algebra`: reads requests, one JSON object a line, writes one JSON string a line. Run as a script.

It stands alone (imports nothing of the package) and is disposable: a formula may keep sympy busy for ever or fill the memory, so each
request has a limit of CPU seconds, at which the kernel ends the process (SIGXCPU), and the address space is bounded.

Parsing is math-verify's LaTeX path, a grammar that builds sympy objects without evaluating text. Its other path (`ExprExtractionConfig`)
calls sympy's `parse_expr`, which uses `eval`, on characters of arithmetic only; it is not used here. math-verify's time-outs use SIGALRM
and are switched off. `verify` alone is too generous to prove anything: it takes 9% for 9 and e^-100 for e^-101. So percent signs never
reach it, decimals are made fractions before, and what it accepts is checked again to 50 digits.
"""

import json
import logging
import math
import os
import re
import resource
import sys
from typing import Any, TextIO

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Abs, Basic, Expr, Float, N, Rational

_CONFIG = [LatexExtractionConfig()]
_DIGITS = 50
_NOISE = 1e-12
_DECIMAL = re.compile(r"(?<![\w.])(\d*\.\d+|\d+\.)(?![\w.])|(?<![\w.])(\d*\.\d+)(?=[A-Za-z\\])")
_CALL = re.compile(r"(?<![\\A-Za-z])(sqrt|sin|cos|tan|log|exp|ln)\s*\(")
_NAMES = re.compile(r"(?<![\\A-Za-z])(pi|infty)(?![A-Za-z])")
_LETTER = re.compile(r"\\?[A-Za-z](?:(?<=\\[A-Za-z])[A-Za-z]+)?")  # or a command
_INFINITY = re.compile(r"(?<![\\A-Za-z])oo(?![A-Za-z])")


def main() -> None:
    """Serve until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    logging.disable(logging.CRITICAL)
    sys.set_int_max_str_digits(0)
    memory = int(sys.argv[1]) << 20
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    decide({"pred": r"\sqrt{8}", "gold": r"2\sqrt{2}", "approximate": False})  # loads what sympy imports late
    print(json.dumps("ready"), file=replies)
    serve(sys.stdin, replies, memory)


def serve(requests: TextIO, replies: TextIO, memory: int) -> None:
    for line in requests:
        request = json.loads(line)
        _allow_cpu(request["cpu_s"])
        try:
            verdict = decide(request)
        except (MemoryError, RecursionError):
            verdict = "undecided"
        if verdict == "different" and _peak_bytes() > memory // 2:
            verdict = "undecided"  # sympy swallows a MemoryError and goes on: then "different" may mean "did not fit"
        print(json.dumps(verdict), file=replies)


def _allow_cpu(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + seconds, hard))


def _peak_bytes() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmPeak"))


def decide(request: dict[str, Any]) -> str:
    """`equal` or `different`; texts that are no formulas are different."""
    pred, gold = map(_parse, _distinct([_latex(request["pred"]), _latex(request["gold"])]))
    if pred is None or gold is None:
        return "different"
    if request["approximate"]:
        return "equal" if _near(pred, gold) else "different"
    try:
        accepted = verify(gold, pred, strict=True, float_rounding=30, timeout_seconds=None, raise_on_error=True)
    except (TypeError, ValueError, AttributeError, ArithmeticError, NotImplementedError):
        return "different"  # things of different kinds, such as a set and a relation
    return "equal" if accepted and _confirmed(pred, gold) else "different"


def _parse(text: str) -> Basic | None:
    parsed = parse(f"${text}$", _CONFIG, fallback_mode="no_fallback", parsing_timeout=None)
    value = parsed[0] if parsed else None
    if not isinstance(value, Basic):
        return value  # a matrix, or nothing
    return value.xreplace({number: Rational(str(number)) for number in value.atoms(Float)})


def _distinct(texts: list[str]) -> list[str]:
    """With another letter for each capital whose small form occurs too: the parser reads `R` as `r`. `E` and `I` are sympy's constants."""
    tokens = {token for text in texts for token in _LETTER.findall(text)}
    capitals = sorted(token for token in tokens if token != token.lower() and token.lower() in tokens and token not in ("E", "I"))
    free = [letter for letter in "qzwvujkhyxbcfglmnprsta" if not {letter, letter.upper()} & tokens]
    if len(free) < len(capitals):
        return texts
    others = {capital: f"{letter} " for capital, letter in zip(capitals, free, strict=False)}
    return [_LETTER.sub(lambda match: others.get(match[0], match[0]), text) for text in texts]


def _latex(text: str) -> str:
    text = _DECIMAL.sub(lambda match: _fraction(match[1] or match[2]), text.replace("%", "").replace(" degrees", ""))
    while (call := _CALL.search(text)) is not None:
        text = _rewrite_call(text, call)
    text = _INFINITY.sub(r"\\infty", _NAMES.sub(r"\\\1 ", text))
    return re.sub(r"(?<!\\)\*", r"\\cdot ", text)


def _fraction(decimal: str) -> str:
    value = Rational(decimal.rstrip("."))
    return rf"\frac{{{value.p}}}{{{value.q}}}"


def _rewrite_call(text: str, call: re.Match[str]) -> str:
    r"""`sqrt(x)` as `\sqrt{x}`, `sin(x)` as `\sin(x)`."""
    depth, end = 0, len(text)
    for at in range(call.end() - 1, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            end = at
            break
    inner, rest = text[call.end() : end], text[end + 1 :]
    form = {"sqrt": rf"\sqrt{{{inner}}}", "exp": rf"e^{{{inner}}}"}.get(call[1], rf"\{'ln' if call[1] == 'log' else call[1]}({inner})")
    return text[: call.start()] + form + rest


def _near(pred: Any, gold: Any) -> bool:
    if not isinstance(pred, Expr) or pred.free_symbols:
        return False
    scale = abs(N(gold, _DIGITS))
    return bool(abs(N(pred.doit() - gold, _DIGITS)) <= _NOISE * scale)


def _confirmed(pred: Any, gold: Any) -> bool:
    """Values must be equal to 50 digits, at a point where the formulas have variables; sets and relations are left to `verify`."""
    if not (isinstance(pred, Expr) and isinstance(gold, Expr)):
        return True
    variables = sorted(pred.free_symbols | gold.free_symbols, key=str)
    point = {variable: Rational(17 + 4 * at, 13 + at) for at, variable in enumerate(variables)}
    left, right = (N(value.doit().subs(point), _DIGITS) for value in (pred, gold))
    if not (left.is_number and right.is_number and left.is_finite and right.is_finite):
        return bool(variables or left == right)
    return bool(N(Abs(left - right), _DIGITS) <= Rational(10) ** (10 - _DIGITS) * N(Abs(right), _DIGITS))


if __name__ == "__main__":
    main()
