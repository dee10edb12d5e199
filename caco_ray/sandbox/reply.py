"""Reads the frame that came out of a hostile process: strict, bounded, nothing evaluated."""

import json
from typing import Any

from caco_ray.sandbox.codec import InvalidEncodingError, decode
from caco_ray.sandbox.guest.frame import HEADER, MAGIC, MAX_ERROR
from caco_ray.sandbox.result import STATUSES, VALUE_STATES

_KEYS = {"status", "error", "mutated", "input", "output", "stdout"}
_CLAIMABLE = {"ok", "error", "no_output", "oom", "exited", "output_too_large"}
assert set(STATUSES) >= _CLAIMABLE


class ProtocolViolationError(Exception):
    """The bytes are not one well-formed frame."""


def frame_limit(output_bytes: int, stdout_bytes: int) -> int:
    """The most bytes that an honest reply can have: JSON escapes a character to at most 12 bytes, a quoted encoding to at most double."""
    return 4 * output_bytes + 12 * stdout_bytes + 16384


def read_frame(data: bytes, output_bytes: int, stdout_bytes: int) -> dict[str, Any]:
    """The checked reply, with `input_value` and `output_value` decoded.

    Raises:
        ProtocolViolationError: anything but exactly one frame of the agreed shape.
    """
    if len(data) < HEADER.size:
        raise ProtocolViolationError("incomplete frame")
    magic, size = HEADER.unpack_from(data)
    if magic != MAGIC or len(data) != HEADER.size + size:
        raise ProtocolViolationError("not exactly one frame")
    try:
        reply = json.loads(data[HEADER.size :].decode("ascii"))
    except (ValueError, RecursionError, MemoryError) as error:
        raise ProtocolViolationError("the frame is not JSON") from error
    _check(reply, output_bytes, stdout_bytes)
    for name in ("input", "output"):
        plain = reply[name]["state"] == "plain"
        try:
            reply[f"{name}_value"] = decode(reply[name]["value"], output_bytes) if plain else None
        except InvalidEncodingError as error:
            raise ProtocolViolationError(f"{name} is not an encoding: {error}") from error
    return reply  # type: ignore[no-any-return]


def _check(reply: Any, output_bytes: int, stdout_bytes: int) -> None:
    def demand(condition: bool, what: str) -> None:
        if not condition:
            raise ProtocolViolationError(f"bad field: {what}")

    demand(type(reply) is dict and set(reply) == _KEYS, "keys")
    demand(type(reply["status"]) is str and reply["status"] in _CLAIMABLE, "status")
    demand(type(reply["mutated"]) is bool, "mutated")
    demand(reply["error"] is None or (type(reply["error"]) is str and len(reply["error"]) <= MAX_ERROR), "error")
    demand(type(reply["stdout"]) is str and len(reply["stdout"]) <= stdout_bytes, "stdout")
    for name in ("input", "output"):
        part = reply[name]
        demand(type(part) is dict and set(part) == {"state", "value"}, name)
        demand(type(part["state"]) is str and part["state"] in VALUE_STATES, name)
        value = part["value"]
        demand((value is None) == (part["state"] == "absent"), name)
        demand(value is None or (type(value) is str and value.isascii() and len(value) <= output_bytes + 64), name)
    demand(reply["status"] != "ok" or reply["output"]["state"] == "plain", "output")
