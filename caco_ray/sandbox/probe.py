"""Finds the strongest level that this machine gives: by trying, through the same path that programs take, never by asking."""

import contextlib
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from caco_ray.errors import SandboxUnavailableError
from caco_ray.sandbox.canaries import BURNER, CANARIES, Bait, Canary
from caco_ray.sandbox.guest.seal import LEVELS
from caco_ray.sandbox.limits import Limits
from caco_ray.sandbox.worker import Setting, Worker
from caco_ray.sandbox.zygote import ENVIRONMENT

VISIBLE = frozenset({*ENVIRONMENT, "PYTHONHASHSEED", "LC_CTYPE"})  # Python sets LC_CTYPE itself under some locales
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo", "/etc/mime.types")


def library_paths() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What programs may read (the Python library, installed packages, shared libraries), and the package folders among it.

    Raises:
        SandboxUnavailableError: numpy or sympy is not installed.
    """
    site: list[str] = []
    for name in ("numpy", "sympy"):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise SandboxUnavailableError(f"{name} is not installed; programs need it")
        site.append(str(Path(spec.origin).parents[1]))
    standard = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(sys.base_prefix) / "lib")]
    unique = tuple(dict.fromkeys(site))
    return tuple(dict.fromkeys([*_LIBRARIES, *standard, *unique])), unique


def try_level(setting: Setting) -> str | None:
    """Starts an interpreter at the level and lets the canaries out; returns why the level is not given, or None."""
    if setting.level == "L0":
        return None
    try:
        with bait() as laid:
            return _let_out(setting, Limits(cpu_s=2, memory_mb=64), CANARIES, laid) or _let_out(
                setting, Limits(cpu_s=0.1, wall_s=60, memory_mb=64), (BURNER,), laid
            )
    except (SandboxUnavailableError, OSError) as error:
        return str(error)


def _let_out(setting: Setting, limits: Limits, canaries: Sequence[Canary], laid: Bait) -> str | None:
    worker = Worker(replace(setting, limits=limits, trap=False, huge_pages=False))
    try:
        worker.zygote("light", 0)
        for canary in canaries:
            if canary.level in (None, setting.level):
                result = worker.run(canary.program(laid), 0)
                if (result.status, result.output) not in (("ok", "blocked"), *canary.accepted):
                    return f"canary {canary.name}: {result.status} {result.output or result.error}"
    finally:
        worker.close()
    return None


@contextlib.contextmanager
def bait() -> Iterator[Bait]:
    """What the canaries go for. The folder is one that this process can write to, where there is any."""
    with contextlib.ExitStack() as made:
        folder = "/"
        for place in (None, "/dev/shm"):
            with contextlib.suppress(OSError):
                folder = made.enter_context(tempfile.TemporaryDirectory(dir=place))
                break
        yield Bait(folder, os.getpid(), max(map(int, os.listdir("/proc/self/fd")), default=0) + 64, VISIBLE)


def strongest(setting_at: dict[str, Setting], require: str, at_most: str) -> Setting:
    """The setting of the strongest level from `require` to `at_most`.

    Raises:
        SandboxUnavailableError: none of them; the message names what is missing at each.
    """
    missing = []
    for level in reversed(LEVELS):
        if require <= level <= at_most:
            why = try_level(setting_at[level])
            if why is None:
                return setting_at[level]
            missing.append(f"{level}: {why}")
    raise SandboxUnavailableError(f"this machine does not give isolation level {require}. " + "; ".join(missing))
