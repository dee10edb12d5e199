"""Attacks that lean on the state of the owner: many open descriptors, generous limits."""

import os
import resource
from collections.abc import Iterator

import pytest

from caco_ray.errors import SandboxUnavailableError
from caco_ray.sandbox import Limits, Sandbox

# Reports on a run, as an interpreter sends them to its owner: "ended by SIGSEGV".
_FORGE_REPORTS = """
import os, struct
for fd in range(4, 2048):
    try: os.write(fd, struct.pack('=i?dq', 11, False, 0.0, 0) * 8)
    except OSError: pass
    else: output = 'ESCAPED'
output = globals().get('output', 'blocked')
"""
_FORGE_TEXT = """
import json, os, struct
body = json.dumps({"status": "ok", "error": None, "mutated": False, "input": {"state": "absent", "value": None},
                   "output": {"state": "plain", "value": '"' + '\\\\"' * 4_000_000}, "stdout": ""}).encode()
data = struct.pack('>4sI', b'CACO', len(body)) + body
while data: data = data[os.write(3, data):]
os._exit(0)
"""


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """1100 of them, so that whatever is opened next has a number above the 1024 that much code takes for the highest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip(f"this process may open {hard} descriptors only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    yield
    for descriptor in opened:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("level", ["L1", "L2", "L3"])
def test_no_descriptor_of_a_busy_owner_is_inherited(many_descriptors: None, level: str) -> None:
    try:
        box = Sandbox(level, at_most=level)
    except SandboxUnavailableError as error:
        if "canary" in str(error):
            raise
        pytest.skip(str(error))
    with box:
        assert box.run(_FORGE_REPORTS).output == "blocked"
        assert [box.run(f"output = {n}").output for n in range(3)] == [0, 1, 2]


@pytest.mark.timeout(200)
def test_a_long_forged_text_is_read_in_linear_time() -> None:
    """8 MB: in quadratic time, which took 0.4 s for 12 KB, it would be days."""
    with Sandbox(limits=Limits(cpu_s=20, output_kb=16384)) as box:
        assert box.run(_FORGE_TEXT).status == "protocol_violation"
        assert box.run("output = 1").output == 1
