"""Puts the isolation of a level around this process: once around the warm interpreter, and the rest around each forked program.

| level | around the warm interpreter                                             | around each program                      |
|-------|-------------------------------------------------------------------------|------------------------------------------|
| L0    | rlimits                                                                 | CPU rlimit                               |
| L1    | + NO_NEW_PRIVS, no capabilities, not dumpable                           | + seccomp without any call that opens    |
| L2    | + Landlock: reads the Python library only, writes and executes nothing  | + seccomp, Landlock scope for signals    |
| L3    | + namespaces, file tree reduced to the Python library                   | as L2                                    |
"""

import math
import os
import re
import resource
import sys
from collections.abc import Callable, Sequence

from caco_ray.sandbox.guest import landlock, libc, namespaces, seccomp, syscalls

LEVELS = ("L0", "L1", "L2", "L3")
MAX_DESCRIPTORS = 64
_MB = 1 << 20
_MAX_TASKS = 256
_OWN_TASKS_SINCE = (5, 14)  # the Linux that counts the tasks of a user namespace by themselves; before, those of the user everywhere count


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def limit_resources(address_space: int, memory_mb: int) -> None:
    """The limits that a fork inherits. `address_space` is what the warm interpreter uses itself; 0 leaves memory unlimited."""
    if address_space:
        _limit(resource.RLIMIT_AS, address_space + memory_mb * _MB)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, MAX_DESCRIPTORS)
    _limit(resource.RLIMIT_STACK, 8 * _MB)
    for name in ("RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE"):
        if hasattr(resource, name):
            _limit(getattr(resource, name), 0)


def limit_threads() -> None:
    """Bounds the threads of a user namespace that is ours alone. No effect where root made it: the kernel exempts root by its outer id."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if release and (int(release[1]), int(release[2])) >= _OWN_TASKS_SINCE:
        _limit(resource.RLIMIT_NPROC, _MAX_TASKS)


def seal_interpreter(level: str, readable: Sequence[str]) -> None:
    """What all programs inherit.

    Raises:
        SetupError, OSError: a piece that the level promises is missing.
    """
    if level == "L0":
        return
    if level == "L3":
        namespaces.keep_only(readable)
    libc.no_more_huge_pages()
    libc.no_new_privileges()
    libc.drop_capabilities()
    libc.hide_from_others()
    if level >= "L2":
        ruleset = landlock.read_only_files(readable)
        landlock.restrict(ruleset)
        os.close(ruleset)


def program_seal(level: str, cpu_s: float, trap: bool) -> Callable[[], None]:
    """Prepares what each program does for itself after the fork, as one function that raises SetupError.

    Raises:
        SetupError: no filter for this machine.
    """
    limit_cpu = cpu_limiter(cpu_s)
    if level == "L0":
        return limit_cpu
    machine = syscalls.machine()
    if not machine:
        raise libc.SetupError("seccomp: no table for this machine's architecture")
    install = seccomp.installer(seccomp.assemble(machine, files=level >= "L2", trap=trap))
    scope = landlock.own_scope() if level >= "L2" else None

    def seal() -> None:
        limit_cpu()
        if scope is not None:
            landlock.restrict(scope)
        install()

    return seal


def cpu_limiter(seconds: float) -> Callable[[], None]:
    """Prepares the CPU limit of one program: a timer that sends SIGKILL, exact to the tick, which a sealed program cannot stop; and the
    rlimit behind it, which only knows whole seconds (soft = hard, so that no handler can catch the signal)."""
    whole = math.ceil(seconds)
    arm = libc.cpu_killer(seconds) if sys.platform == "linux" else lambda: None

    def limit_cpu() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (whole, whole))
        arm()

    return limit_cpu
