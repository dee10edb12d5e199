"""What the process of a program writes to its reply pipe: a byte that says whether it was sealed, then one frame (magic, length, JSON)."""

import json
import os
import struct
from typing import Any

READY = b"+"  # written after sealing and before the first line of the program: what fails later is the program's doing
FAILED = b"-"  # in place of READY; the reason follows, as text
MAGIC = b"CACO"
HEADER = struct.Struct(">4sI")
MAX_ERROR = 500  # characters of an error message


def build_frame(reply: dict[str, Any]) -> bytes:
    body = json.dumps(reply).encode("ascii")
    return HEADER.pack(MAGIC, len(body)) + body


_ABSENT = {"state": "absent", "value": None}
# For a program that left no memory to describe it with.
OUT_OF_MEMORY = build_frame(
    {"status": "oom", "error": "MemoryError: ", "mutated": False, "input": _ABSENT, "output": _ABSENT, "stdout": ""}
)


def write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
