"""Whatever bytes a hostile process writes, reading them gives a checked reply or a protocol violation, never anything else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caco_ray.sandbox.guest.frame import HEADER, MAGIC
from caco_ray.sandbox.limits import Limits
from caco_ray.sandbox.reply import ProtocolViolationError, frame_limit, read_frame
from caco_ray.sandbox.result import text_of
from caco_ray.sandbox.verdict import judge
from caco_ray.sandbox.zygote import Ending

PLAIN = {"state": "plain", "value": "[1,2]"}
HONEST: dict[str, Any] = {"status": "ok", "error": None, "mutated": False, "input": PLAIN, "output": PLAIN, "stdout": "x"}


def framed(reply: Any) -> bytes:
    body = json.dumps(reply).encode()
    return HEADER.pack(MAGIC, len(body)) + body


def read(data: bytes) -> dict[str, Any]:
    return read_frame(data, 1024, 1024)


def test_an_honest_frame() -> None:
    reply = read(framed(HONEST))
    assert reply["output_value"] == [1, 2] and reply["status"] == "ok"


@given(st.binary(max_size=64))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(ProtocolViolationError):
        read(data)


@given(st.integers(0, len(framed(HONEST)) - 1), st.integers(1, 255))
def test_any_flipped_byte(place: int, flip: int) -> None:
    data = bytearray(framed(HONEST))
    data[place] ^= flip
    try:
        reply = read(bytes(data))
    except ProtocolViolationError:
        return
    text_of(reply["output_value"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_subnormal=False), lambda v: st.lists(v, max_size=3), max_leaves=5
)
PARTS = (
    st.fixed_dictionaries({"state": st.sampled_from(["plain", "absent", "too_large"]) | VALUES, "value": VALUES | st.just("1")}) | VALUES
)


@given(st.dictionaries(st.sampled_from(sorted(HONEST)), VALUES | PARTS | st.sampled_from(["ok", "error"]), max_size=6))
def test_any_fields(changed: dict[str, Any]) -> None:
    try:
        reply = read(framed(HONEST | changed))
    except ProtocolViolationError:
        return
    assert reply["status"] in ("ok", "error", "no_output", "oom", "exited", "output_too_large") and type(reply["stdout"]) is str
    text_of(reply["output_value"])


@pytest.mark.parametrize("status", ["timeout_cpu", "timeout_wall", "signal", "sandbox_error", "protocol_violation", "", None, "OK", ["ok"]])
def test_what_only_the_owner_may_say(status: object) -> None:
    with pytest.raises(ProtocolViolationError):
        read(framed(HONEST | {"status": status}))


def test_sizes_are_bounded() -> None:
    for changed in ({"stdout": "x" * 1025}, {"error": "x" * 601}, {"output": {"state": "plain", "value": "[" + "1," * 1000 + "1]"}}):
        with pytest.raises(ProtocolViolationError):
            read(framed(HONEST | changed))
    longest = HONEST | {"stdout": "\U0001f600" * 1024, "output": {"state": "plain", "value": json.dumps('"' * 500)}}
    assert len(framed(longest)) < frame_limit(1024, 1024)
    read(framed(longest))


@pytest.mark.parametrize("error", [ValueError("4300 digits"), RecursionError("too deep"), OverflowError("too large")])
def test_a_value_that_cannot_be_written_is_a_violation(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last defence: no such value is known."""

    def text_of(_: object) -> str:
        raise error

    monkeypatch.setattr("caco_ray.sandbox.verdict.text_of", text_of)
    result = judge(Ending(framed(HONEST), False, False, False, 0, 0.1, 0.1, 1000), Limits(), "L2")
    assert (result.status, result.error) == ("protocol_violation", str(error))


def test_text_that_cannot_be_written_is_replaced_later_not_here() -> None:
    assert read(framed(HONEST | {"stdout": "\ud800"}))["stdout"] == "\ud800"
