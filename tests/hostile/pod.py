"""Becomes what a container of a default Kubernetes pod is (RuntimeDefault, not root, no capabilities), then runs all attacks.

Run as root, by test_pod.py. Prints one JSON line: {"level", "refused", "problems": {attack: [..]}}.
With the argument `bare`, it becomes instead a user with namespaces, but without a folder to write to and without a network: {"levels": {..}}.
What is emulated: uid 65534, no groups, no capabilities, NO_NEW_PRIVS, and unshare, setns, mount, pivot_root, clone with namespace flags,
pidfd_getfd, ptrace, bpf, perf and keys refused. What is not: containerd itself, its cgroups and its masked /proc.
"""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

from hostile.ground import ATTACKS, ground

from caco_ray.errors import SandboxUnavailableError
from caco_ray.sandbox import Limits, Sandbox
from caco_ray.sandbox.guest import libc
from caco_ray.sandbox.guest.seccomp import _ret, _search, installer
from caco_ray.sandbox.guest.syscalls import AUDIT_ARCH, machine

_DENIED = {
    "x86_64": [101, 155, 161, 165, 166, 246, 248, 249, 250, 272, 298, 308, 310, 311, 321, 323, 425, 426, 427, 428, 429, 430, 438, 442],
    "aarch64": [39, 40, 41, 51, 97, 104, 117, 217, 218, 219, 241, 268, 270, 271, 280, 282, 425, 426, 427, 428, 429, 430, 438, 442],
}
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026


def runtime_default() -> None:
    """A filter in the spirit of containerd's default profile without capabilities."""
    name = machine()
    clone = {"x86_64": 56, "aarch64": 220}[name]
    codes = dict.fromkeys(_DENIED[name], _ret(_EPERM))
    codes[435] = _ret(_ENOSYS)
    codes[clone] = [(0x20, 0, 0, 16), (0x45, 0, 1, 0x7E020000), *_ret(_EPERM), *_ret(_ALLOW)]
    points = [(0, _ret(_ALLOW))]
    for number in sorted(codes):
        points += [(number, codes[number]), (number + 1, _ret(_ALLOW))]
    points = [point for i, point in enumerate(points) if i + 1 == len(points) or points[i + 1][0] != point[0]]
    head = [(0x20, 0, 0, 4), (0x15, 1, 0, AUDIT_ARCH[name]), *_ret(_ALLOW), (0x20, 0, 0, 0)]
    installer(head + _search(points))()


def open_the_way(paths: list[str]) -> None:
    """In a mount namespace of our own, the folders above `paths` become passable for everybody, and show nothing besides."""
    libc.check(libc.libc.unshare(0x20000), "unshare(mount)")
    libc.check(libc.libc.mount(b"none", b"/", b"none", 16384 | (1 << 18), None), "mount(private)")
    while blocked := [found for path in paths if (found := _blocked(Path(path)))]:
        folder = blocked[0][0]
        _show_only(folder, {child for other, child in blocked if other == folder})


def _blocked(path: Path) -> tuple[Path, str] | None:
    """The outermost folder above `path` that other users cannot pass, and the name in it that leads to `path`."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & 0o001:
            return folder, path.relative_to(folder).parts[0]
    return None


def _show_only(folder: Path, children: set[str]) -> None:
    keep = Path("/mnt")
    _mount("-t", "tmpfs", "none", keep)
    for child in children:
        (keep / child).mkdir()
        _mount("--bind", folder / child, keep / child)
    _mount("-t", "tmpfs", "-o", "mode=755", "none", folder)
    for child in children:
        (folder / child).mkdir()
        _mount("--move", keep / child, folder / child)
    subprocess.run(["umount", str(keep)], check=True)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def become_nobody() -> None:
    """For good."""
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    libc.no_new_privileges()
    libc.drop_capabilities()
    libc.check(libc.libc.prctl(4, 1, 0, 0, 0), "prctl(DUMPABLE)")  # lost with the user id; /proc/self must stay ours


def lose_what_can_be_written() -> None:
    """What `readOnlyRootFilesystem` does to a pod that mounts no volume; and not even the loopback interface is up."""
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        if os.path.isdir(folder):
            _mount("--rbind", folder, folder)  # not hidden: this checkout may lie in it
            _mount("-o", "remount,bind,ro", folder)
    libc.check(libc.libc.unshare(0x40000000), "unshare(network)")


def under_attack() -> dict[str, object]:
    """All attacks in a default pod."""
    runtime_default()
    assert ctypes.CDLL(None).unshare(0x10000000) == -1
    try:
        Sandbox("L3").close()
        refused = ""
    except SandboxUnavailableError as error:
        refused = str(error)
    with Sandbox() as box:
        level = box.level
    with ground("L2") as made:
        problems = {attack.name: made.run(attack) for attack in ATTACKS}
    return {"level": level, "refused": refused, "problems": {name: found for name, found in problems.items() if found}}


def bare() -> dict[str, object]:
    """Threads that a program can start at each level, where there is neither folder nor network."""
    for folder in ("/tmp", "/var/tmp", "/dev/shm", "/"):
        assert not os.access(folder, os.W_OK)
    levels: dict[str, object] = {}
    for level in ("L1", "L2", "L3"):
        try:
            with Sandbox(level, Limits(cpu_s=5, memory_mb=256), at_most=level) as box:
                levels[level] = box.run(_THREADS).output
        except SandboxUnavailableError as error:
            levels[level] = str(error)
    return {"levels": levels}


_THREADS = """
import _thread, time
_thread.stack_size(32768)
output = 0
try:
    while output < 1000:
        _thread.start_new_thread(time.sleep, (1e6,))
        output += 1
except RuntimeError:
    pass
"""


def main() -> None:
    """The emulation that was asked for."""
    open_the_way([os.path.realpath(sys.executable), sys.prefix, sys.base_prefix, __file__])
    scene = bare if sys.argv[1:] == ["bare"] else under_attack
    if scene is bare:
        lose_what_can_be_written()
    become_nobody()
    print(json.dumps(scene()))


if __name__ == "__main__":
    main()
