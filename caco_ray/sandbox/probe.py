"""Finds the strongest level that this machine gives: by trying, through the same path that programs take, never by asking."""

import os
import socket
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path

from caco_ray.errors import SandboxUnavailableError
from caco_ray.sandbox.canaries import CANARIES, Bait
from caco_ray.sandbox.guest.seal import LEVELS
from caco_ray.sandbox.limits import Limits
from caco_ray.sandbox.worker import Setting, Worker
from caco_ray.sandbox.zygote import ENVIRONMENT

VISIBLE = frozenset({*ENVIRONMENT, "PYTHONHASHSEED", "LC_CTYPE"})  # Python sets LC_CTYPE itself under some locales
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo")


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
    worker = Worker(Setting(setting.level, Limits(cpu_s=2, memory_mb=64), setting.readable, setting.site, huge_pages=False))
    try:
        worker.zygote("light", 0)
        with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
            bait = Bait(folder, server.getsockname()[1], os.getpid(), VISIBLE)
            for canary in CANARIES:
                result = worker.run(canary.program(bait), 0)
                if (result.status, result.output) not in (("ok", "blocked"), *canary.accepted):
                    return f"canary {canary.name}: {result.status} {result.output or result.error}"
    except SandboxUnavailableError as error:
        return str(error)
    finally:
        worker.close()
    return None


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
