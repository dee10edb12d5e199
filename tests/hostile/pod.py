"""Becomes what a container of a default Kubernetes pod is (RuntimeDefault, not root, no capabilities), then runs all attacks.

Run as root, by test_pod.py. Prints one JSON line: {"level", "refused", "problems": {attack: [..]}}.
What is emulated: uid 65534, no groups, no capabilities, NO_NEW_PRIVS, and unshare, setns, mount, pivot_root, clone with namespace flags,
pidfd_getfd, ptrace, bpf, perf and keys refused. What is not: containerd itself, its cgroups and its masked /proc.
"""

import ctypes
import json
import os
import subprocess
import sys

from hostile.ground import ATTACKS, ground

from caco_ray.errors import SandboxUnavailableError
from caco_ray.sandbox import Sandbox
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


def open_the_way_to_python() -> None:
    """In a mount namespace of our own, folders above the interpreter and the packages become passable for everybody."""
    libc.check(libc.libc.unshare(0x20000), "unshare(mount)")
    libc.check(libc.libc.mount(b"none", b"/", b"none", 16384 | (1 << 18), None), "mount(private)")
    home = os.path.expanduser("~root")
    if os.stat(home).st_mode & 0o001 or not os.path.realpath(sys.executable).startswith(home + "/"):
        return
    inner = home + "/" + os.path.realpath(sys.executable)[len(home) + 1 :].split("/")[0]
    keep = "/mnt"
    subprocess.run(["mount", "-t", "tmpfs", "none", keep], check=True)
    os.mkdir(keep + "/inner")
    subprocess.run(["mount", "--bind", inner, keep + "/inner"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", home], check=True)
    os.mkdir(inner)
    subprocess.run(["mount", "--move", keep + "/inner", inner], check=True)
    subprocess.run(["umount", keep], check=True)


def become_nobody() -> None:
    """For good."""
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    libc.no_new_privileges()
    libc.drop_capabilities()
    libc.check(libc.libc.prctl(4, 1, 0, 0, 0), "prctl(DUMPABLE)")  # lost with the user id; /proc/self must stay ours
    runtime_default()


def main() -> None:
    """The whole emulation."""
    open_the_way_to_python()
    become_nobody()
    assert ctypes.CDLL(None).unshare(0x10000000) == -1
    try:
        Sandbox("L3").close()
        refused = ""
    except SandboxUnavailableError as error:
        refused = str(error)
    with Sandbox() as box:
        level = box.level
    with ground("L2") as under_attack:
        problems = {attack.name: under_attack.run(attack) for attack in ATTACKS}
    print(json.dumps({"level": level, "refused": refused, "problems": {name: found for name, found in problems.items() if found}}))


if __name__ == "__main__":
    main()
