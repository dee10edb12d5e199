"""The one reply of a program: magic, length, JSON. Written once, by the process that ran the program."""

import json
import os
import struct
from typing import Any

READY = b"R"  # written after sealing and before the first line of the program: what fails later is the program's doing
MAGIC = b"CACO"
HEADER = struct.Struct(">4sI")


def write_frame(fd: int, reply: dict[str, Any]) -> None:
    body = json.dumps(reply).encode("ascii")
    data = memoryview(HEADER.pack(MAGIC, len(body)) + body)
    while data:
        data = data[os.write(fd, data) :]
