"""The record that one run gives, and how an answer reads as text."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, get_args

from caco_ray.sandbox.codec import Symbolic
from caco_ray.sandbox.guest.frame import MAX_ERROR

Status = Literal[
    "ok", "error", "no_output", "timeout_cpu", "timeout_wall", "oom", "signal", "exited", "output_too_large",
    "protocol_violation", "sandbox_error",
]  # fmt: skip
ValueState = Literal["absent", "plain", "not_plain", "too_large"]
STATUSES: tuple[str, ...] = get_args(Status)
VALUE_STATES: tuple[str, ...] = get_args(ValueState)
MAX_TEXT = 4096


@dataclass(frozen=True)
class ExecutionResult:
    """What one program did.

    status: `ok` (ended, `output` is a plain value), `error` (raised), `no_output` (`output` absent or not plain), `timeout_cpu`,
        `timeout_wall`, `oom`, `signal`, `exited` (left by itself with another code than 0), `output_too_large` (`output` or stdout),
        `protocol_violation` (tampered with the reply), `sandbox_error` (the machinery failed: says nothing about the program).
    input, output: the decoded values, None where the state is not `plain`. `input` is taken right after its first top-level assignment.
    input_json, output_json: the exact-type encodings (`codec.py`), comparable between runs.
    output_text: the answer as a person would write it, at most 4096 characters; None where there is none.
    input_state, output_state: absent | plain | not_plain | too_large.
    input_mutated: the program changed its `input` after assigning it.
    error: "ValueError: message", or what went wrong, at most 500 characters.
    cpu_s, wall_s, max_rss_mb: measured from outside. near_limit: used over 80 % of the CPU limit: may end
        otherwise on a slower machine, so `stages/execute.py` keeps no such program.
    level: L0..L3, see `caco_ray.sandbox`. attempts: 2 where a wall-clock timeout or a failure of the machinery was tried again.
    """

    status: Status
    input: Any = None
    output: Any = None
    input_json: str | None = None
    output_json: str | None = None
    output_text: str | None = None
    stdout: str = ""
    error: str | None = None
    cpu_s: float = 0.0
    wall_s: float = 0.0
    level: str = "L0"
    input_state: ValueState = "absent"
    output_state: ValueState = "absent"
    input_mutated: bool = False
    near_limit: bool = False
    max_rss_mb: float = 0.0
    attempts: int = 1


def clean(error: str) -> str:
    """An error text that can be stored: no lone surrogates, at most 500 characters."""
    return writable(error[:MAX_ERROR])


def writable(text: str) -> str:
    """The text with `?` for lone surrogates, which UTF-8 cannot carry and tables refuse."""
    return text.encode("utf-8", "replace").decode()


def text_of(value: object) -> str | None:
    """`str(value)` of a decoded value; sets are written in sorted order. None where it is over `MAX_TEXT` characters."""
    text = writable(value if type(value) is str else _literal(value))
    return text if len(text) <= MAX_TEXT else None


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_literal, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(_literal, value))) + "}" if value else "set()"
    if isinstance(value, Symbolic | Fraction | Decimal):
        return str(value)
    return repr(value)
