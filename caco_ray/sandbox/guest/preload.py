"""What the warm interpreter knows before the first program: modules imported, caches filled, memory laid out for cheap forks."""

import contextlib
import ctypes
import gc
import importlib
import io
import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from caco_ray.sandbox.guest import warmup
from caco_ray.sandbox.guest.console import Console
from caco_ray.sandbox.guest.libc import libc
from caco_ray.sandbox.guest.program import run_program


def load(profile: str, wide: bool) -> None:
    """Imports and exercises; `profile` is `light` (standard library) or `full` (with numpy and sympy).

    Raises:
        ImportError: numpy or sympy is missing.
    """
    with _same_in_every_interpreter():
        for name in warmup.COMMON.split():
            importlib.import_module(name)
        for name in warmup.WIDE.split() if wide else ():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        scripts = [warmup.STDLIB]
        if profile == "full":
            for name in warmup.SCIENCE.split():
                importlib.import_module(name)
            scripts += [warmup.NUMPY, warmup.SYMPY]
        with contextlib.redirect_stdout(io.StringIO()):
            for script in scripts:
                exec(script, {})
    exercise_harness()


@contextlib.contextmanager
def _same_in_every_interpreter() -> Iterator[None]:
    """The generators that modules make for themselves, as sympy does to number its dummies, start from 0 and not from chance."""
    from_chance = random.Random.__init__

    def from_zero(generator: random.Random, seed: Any = 0) -> None:
        from_chance(generator, seed)

    random.seed(0)
    setattr(random.Random, "__init__", from_zero)  # noqa: B010  a method is not assigned to, says mypy
    try:
        yield
    finally:
        setattr(random.Random, "__init__", from_chance)  # noqa: B010


def exercise_harness() -> None:
    """Runs what runs programs: its bytecode is then specialized (which writes to it) before the forks rather than in each of them."""
    kept = sys.stdin, sys.stdout, sys.stderr, sys.argv, sys.modules["__main__"]
    for _ in range(20):
        run_program(warmup.HARNESS, seed=0, output_bytes=1 << 16, console=Console(1 << 16))
    sys.stdin, sys.stdout, sys.stderr, sys.argv, sys.modules["__main__"] = kept


def settle(huge_pages: bool = True) -> None:
    """Moves everything out of the collector's sight (a collection in a forked program would copy the whole heap), then gathers the heap
    into 2 MiB pages where the kernel can (Linux 6.1): a fork copies page tables, and these are 512 times fewer."""
    gc.collect()
    gc.freeze()
    if huge_pages:
        collapse()


def collapse() -> int:
    """Asks for huge pages under the anonymous memory of this process; returns how many bytes got them."""
    size, done = 2 << 20, 0
    pattern = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 +(\[heap\])?$")
    try:
        maps = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return 0
    for match in filter(None, map(pattern.match, maps)):
        start, end = (int(match[1], 16) + size - 1) // size * size, int(match[2], 16) // size * size
        if end > start and libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), 25) == 0:  # MADV_COLLAPSE
            done += end - start
    return done


def address_space() -> int:
    """Bytes of address space in use (VmSize), 0 where /proc is missing."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
