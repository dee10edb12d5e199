"""Decide whether two formulas are equal, in a process that may be killed.

sympy can compute for ever, and neither a signal (not in threads, not in Ray workers) nor a thread can stop it (verl#1331, verl#288). So
`algebra_process.py` runs in a child: text goes in, one JSON word comes out, nothing is unpickled. A child that hangs, dies or runs out of
memory costs one answer: it is replaced, the question is asked once more, and then the verdict is UNDECIDED, never "different".
"""

import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from caco_ray.errors import CacoError
from caco_ray.grading.equality import Verdict

MAX_CHARS = 600
_START_S = 120.0
_WALL_FACTOR = 12.0  # the CPU limit ends a busy child; the wall-clock limit is only for one that the machine starves
_HUGE = re.compile(r"\d{401}|\^\s*\{?\s*[+-]?\d{6}|\d{6}\s*\)*!|!\s*!|![^=]*![^=]*!")
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG", "TMPDIR")
_VERDICTS = {"equal": Verdict.AGREE, "different": Verdict.DISAGREE, "undecided": Verdict.UNDECIDED}
_PROGRAM = Path(__file__).with_name("algebra_process.py")


class Algebra:
    """The oracle of `equality`, safe to call from several threads: one question at a time. The child starts at the first question.

    A formula of over 600 characters, with a number of over 400 digits, an exponent of over 5 digits or stacked factorials is DISAGREE
    without being asked: no answer of a program that may be kept is that large, so nothing that is equal is lost.
    """

    def __init__(self, cpu_s: int = 5, memory_mb: int = 4096) -> None:
        self._cpu_s = cpu_s
        self._memory_mb = memory_mb
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self, pred: str, gold: str, approximate: bool) -> Verdict:
        """Raises CacoError when the child cannot be started at all."""
        if any(len(text) > MAX_CHARS or _HUGE.search(text) for text in (pred, gold)):
            return Verdict.DISAGREE
        request = {"pred": pred, "gold": gold, "approximate": approximate, "cpu_s": self._cpu_s}
        with self._lock:
            for _ in range(2):
                verdict = _VERDICTS[self._ask(request) or "undecided"]
                if verdict is not Verdict.UNDECIDED:
                    return verdict
                self._stop()
        return Verdict.UNDECIDED

    def close(self) -> None:
        with self._lock:
            self._stop()

    def __enter__(self) -> "Algebra":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, request: dict[str, object]) -> str | None:
        child = self._child = self._child or self._start()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            return None
        return _reply(child, self._cpu_s * _WALL_FACTOR)

    def _start(self) -> subprocess.Popen[bytes]:
        # Only what Python needs of the environment: the text comes from a model and must not meet our keys. The hash seed is fixed
        # because sympy's choices depend on it.
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {"PYTHONHASHSEED": "0"}
        child = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM), str(self._memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours to handle; the child ends when its input ends
        )
        if _reply(child, _START_S) != "ready":
            child.kill()
            child.communicate()
            raise CacoError(f"the algebra process did not start (exit code {child.returncode}): run `{sys.executable} -P {_PROGRAM} 4096`")
        return child

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


def _reply(child: subprocess.Popen[bytes], wall_s: float) -> str | None:
    """One reply, or None when the child died or took too long."""
    assert child.stdout is not None
    poller = select.poll()  # not select(): a worker may hold more than 1024 files
    poller.register(child.stdout, select.POLLIN)
    deadline = time.monotonic() + wall_s
    line = b""
    while not line.endswith(b"\n"):
        ready = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
        part = os.read(child.stdout.fileno(), 4096) if ready else b""
        if not part:
            return None
        line += part
    return str(json.loads(line))
