"""Runs inside vLLM's processes, which load it by way of their logging configuration: the log goes to a file, and they die with us.

vLLM 0.32 leaves its engine process behind, with its memory and GPU, when the process that started it is killed. The kernel is asked to
kill the child when its parent is gone (Linux, `prctl(2)`, PR_SET_PDEATHSIG).
"""

import ctypes
import logging
import os
import signal

_PR_SET_PDEATHSIG = 1


class ChildLog(logging.FileHandler):
    """`owner`: process id of the one that started vLLM; it logs to the same file and is left alone."""

    def __init__(self, filename: str, owner: int) -> None:
        super().__init__(filename, delay=True)
        if os.getpid() != owner:
            _die_with_parent(owner)


def _die_with_parent(owner: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        os.kill(owner, 0)
    except ProcessLookupError:  # it died before the kernel was asked
        os._exit(1)
