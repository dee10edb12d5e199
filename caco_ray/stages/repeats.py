"""When two problems are the same: their questions have the same terms (`plain_text.terms`) and their programs the same answer.

The answer counts since a question in plain terms may be another one: brackets are no terms. Limit: of answers that are no single numbers
the texts are compared, so that `[0.5]` is not `[1/2]`.
"""

import hashlib
import re
from decimal import Decimal
from fractions import Fraction

from caco_ray.sandbox.codec import decode
from caco_ray.stages import plain_text

_MAX_DIGITS = 400
_DECIMAL = re.compile(r"[+-]?\d{1,100}(?:\.\d{1,100})?", re.ASCII)


def question_keys(question: str, program_answer: str | None, output_json: str) -> tuple[int]:
    """64 bits of the terms of the question and of the answer.

    Raises:
        InvalidEncodingError: the sandbox did not write `output_json`.
    """
    terms = plain_text.terms(plain_text.plain(question))
    text = f"{terms}\x1f{_number(decode(output_json)) or plain_text.terms(plain_text.plain(program_answer or output_json))}"
    return (int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"),)


def _number(value: object) -> str | None:
    """A real number as text: whole ones exactly, others to 12 digits, so that 1/2 is 0.5 and 0.1 + 0.2 is 0.3."""
    if isinstance(value, str):
        value = Decimal(value) if _DECIMAL.fullmatch(value) else value
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction | Decimal):
        return None
    if isinstance(value, Decimal) and not (value.is_finite() and abs(value.adjusted()) < _MAX_DIGITS):
        return None
    try:
        exact = Fraction(value)
        near = exact if exact.denominator == 1 else Fraction(f"{float(exact):.12g}")
    except (ValueError, OverflowError):  # not finite
        return None
    return f"{near.numerator:x}/{near.denominator:x}"
