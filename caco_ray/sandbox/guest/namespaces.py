"""Level L3: own user, network, process, IPC, host-name and mount namespaces, entered once per warm interpreter.

Needs a host that lets this user create user namespaces: laptops and privileged pods do, a default Kubernetes pod does not.
"""

import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from caco_ray.sandbox.guest.libc import SetupError, check, close_from, die_with_parent, libc
from caco_ray.sandbox.guest.syscalls import TABLES, machine

_NEW_NS, _NEW_UTS, _NEW_IPC, _NEW_USER, _NEW_PID, _NEW_NET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_BIND, _REC, _PRIVATE, _RDONLY, _REMOUNT, _DETACH = 4096, 16384, 1 << 18, 1, 32, 2
_NOBODY = 65534


def enter(owner: int) -> None:
    """Returns in a new process that is the first of its process namespace; this one waits for it, and ends it when `owner` is gone.

    Raises:
        SetupError, OSError: the host does not allow it.
    """
    uid, gid = os.getuid(), os.getgid()
    flags = _NEW_USER | _NEW_NS | _NEW_UTS | _NEW_IPC | _NEW_PID | _NEW_NET
    check(libc.unshare(flags), "unshare(namespaces)")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_NOBODY} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{_NOBODY} {gid} 1")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        die_with_parent()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        _check_no_network()
        return
    _watch(child, owner)


def _check_no_network() -> None:
    """Programs have no sockets to try it with, so it is tried here: in an empty network not even this host can be reached."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("127.0.0.1", 9))  # sends nothing
    except OSError:
        return
    raise SetupError("the network namespace is not empty")


def _watch(child: int, owner: int) -> None:
    close_from(0)
    while True:
        signal.sigtimedwait({signal.SIGCHLD}, 1.0)
        pid, _ = os.waitpid(child, os.WNOHANG)
        if pid == child:
            os._exit(0)
        if os.getppid() != owner:
            os.kill(child, signal.SIGKILL)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    check(libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()), f"mount({target})")


def keep_only(paths: Sequence[str]) -> None:
    """Replaces the file tree by an empty one that shows only `paths`; nothing else can even be named.

    Raises:
        SetupError: a mount was refused.
    """
    wanted = sorted({path for path in paths if os.path.isdir(path)})
    wanted = [path for path in wanted if not any(path.startswith(other + "/") for other in wanted)]
    root = next(d for d in ("/mnt", "/media", "/srv", "/opt", "/sys") if os.path.isdir(d) and not any(p.startswith(d) for p in wanted))
    _mount("none", "/", "none", _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", 0, "size=64k,mode=755")
    for path in wanted:
        os.makedirs(root + path, exist_ok=True)
        _mount(path, root + path, "none", _BIND | _REC)
    os.chdir(root)
    check(libc.syscall(TABLES[machine()]["pivot_root"], b".", b"."), "pivot_root")
    check(libc.umount2(b".", _DETACH), "umount2(old root)")
    os.chdir("/")
    _mount("none", "/", "none", _REMOUNT | _BIND | _RDONLY)
