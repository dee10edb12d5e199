"""The C library and the process attributes that Python does not reach."""

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

libc: Any = ctypes.CDLL(None, use_errno=True)
# Holds the interpreter lock over the call, and runs no Python hook after it. os.fork() would rebuild locks that a process of one thread
# does not need rebuilt and reseed `random`, which touches 130 more pages: a sixth of the cost of a small program.
fork: Any = ctypes.PyDLL(None).fork
_CLOSE_RANGE = 436  # the same on every architecture
_PDEATHSIG, _DUMPABLE, _SUBREAPER, _NO_NEW_PRIVS, _CAPBSET_DROP, _THP_DISABLE = 1, 4, 36, 38, 24, 41


class SetupError(Exception):
    """A step of sealing the process failed; the message names the step and the reason."""


def check(result: int, step: str) -> int:
    """Passes a system call's result on.

    Raises:
        SetupError: the result is negative.
    """
    if result < 0:
        raise SetupError(f"{step}: {os.strerror(ctypes.get_errno())}")
    return result


def close_from(first: int) -> None:
    """Closes all descriptors from `first` on. An inherited one keeps its number, whatever RLIMIT_NOFILE says."""
    if sys.platform != "linux" or libc.syscall(_CLOSE_RANGE, first, ctypes.c_uint(0xFFFFFFFF), 0) < 0:
        os.closerange(first, 1 << 16)


def die_with_parent() -> None:
    if sys.platform == "linux":
        check(libc.prctl(_PDEATHSIG, 9, 0, 0, 0), "prctl(PDEATHSIG)")


def no_new_privileges() -> None:
    check(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(NO_NEW_PRIVS)")


def hide_from_others() -> None:
    """Not dumpable: /proc/PID of this process and of its children belongs to root, ptrace by the same user fails."""
    check(libc.prctl(_DUMPABLE, 0, 0, 0, 0), "prctl(DUMPABLE)")


def no_more_huge_pages() -> None:
    """For this process and its children: a page of 2 MiB is held whole, until memory runs short, by any 4 KiB of it that stay mapped, and
    RLIMIT_AS counts those alone. What is gathered already stays so. No effect where the kernel has no huge pages."""
    libc.prctl(_THP_DISABLE, 1, 0, 0, 0)


def first_to_go() -> None:
    """Where memory runs out, the kernel ends this process or a child of it before any other. No effect where /proc is missing."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def adopt_orphans() -> None:
    check(libc.prctl(_SUBREAPER, 1, 0, 0, 0), "prctl(CHILD_SUBREAPER)")


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def drop_capabilities() -> None:
    """Empties the effective, permitted and inheritable sets, and the bounding set as far as allowed."""
    for capability in range(64):
        if libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    header, empty = _CapHeader(0x20080522, 0), (ctypes.c_uint32 * 6)()
    check(libc.capset(ctypes.byref(header), ctypes.byref(empty)), "capset")


def cpu_killer(seconds: float) -> Callable[[], None]:
    """Prepares a function that arms a timer on the CPU time of the calling process (all threads) that ends in SIGKILL. Forks do not inherit
    the timer, so each arms its own; everything is laid out beforehand, because a fork pays for every page that it touches."""
    event = struct.pack("=Qii48x", 0, 9, 0)  # sigevent: no value, SIGKILL, SIGEV_SIGNAL
    timer = ctypes.c_void_p()
    pointer = ctypes.byref(timer)
    whole = int(seconds)
    when = struct.pack("@llll", 0, 0, whole, int((seconds - whole) * 1e9))
    create, arm = libc.timer_create, libc.timer_settime

    def kill_after_cpu() -> None:
        if create(2, event, pointer) < 0 or arm(timer, 0, when, None) < 0:  # CLOCK_PROCESS_CPUTIME_ID
            check(-1, "timer on CPU time")

    return kill_after_cpu
