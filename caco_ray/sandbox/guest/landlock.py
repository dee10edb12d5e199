"""Landlock: which files can be opened, no TCP, no signal or abstract socket to the outside. https://docs.kernel.org/userspace-api/landlock.html

It does not hide the existence of files (`stat` works), and does not touch descriptors that are already open.
"""

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from caco_ray.sandbox.guest.libc import check, libc

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on every architecture
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FS_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP = 0b11  # bind, connect; ABI 4
_SCOPES = 0b11  # abstract unix sockets, signals; ABI 6


def abi() -> int:
    """The version that the kernel offers; 0 where there is no Landlock, or a container profile forbids it."""
    return max(0, int(libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1)))


def _ruleset(fs: int, net: int, scoped: int, version: int) -> int:
    attribute = struct.pack("=QQQ", fs, net, scoped)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    return check(libc.syscall(_CREATE, attribute, ctypes.c_size_t(len(attribute)), 0), "landlock_create_ruleset")


def read_only_files(readable: Sequence[str]) -> int:
    """A ruleset (descriptor): only `readable` can be opened, only for reading, nothing executed. Leaves out paths that do not exist.

    Raises:
        SetupError: no Landlock.
    """
    version = abi()
    rights = _FS_RIGHTS.get(version, _FS_RIGHTS[5])
    ruleset = _ruleset(rights, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0, version)
    for path in filter(os.path.exists, readable):
        allowed = _READ_FILE | (_READ_DIR if Path(path).is_dir() else 0)
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", allowed, descriptor)
        check(libc.syscall(_ADD_RULE, ruleset, 1, rule, 0), f"landlock_add_rule({path})")
        os.close(descriptor)
    return ruleset


def own_scope() -> int | None:
    """A ruleset that cuts signals and abstract sockets to everybody else, the warm parent included; None before ABI 6."""
    version = abi()
    return _ruleset(0, 0, _SCOPES, version) if version >= 6 else None


def restrict(ruleset: int) -> None:
    """Puts this process under the ruleset for good. Needs NO_NEW_PRIVS.

    Raises:
        SetupError: the kernel refused.
    """
    check(libc.syscall(_RESTRICT, ruleset, 0), "landlock_restrict_self")
