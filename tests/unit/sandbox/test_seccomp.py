"""The filters of both architectures, evaluated by a simulator; the one of this machine is also tried for real by tests/hostile."""

import ctypes
import ctypes.util

import pytest
from unit.sandbox.bpf import simulate

from caco_ray.sandbox.guest.seccomp import ALLOW, ERRNO, KILL, TRAP, assemble
from caco_ray.sandbox.guest.syscalls import AUDIT_ARCH, PATHS, PLAIN, TABLES

MACHINES = ["x86_64", "aarch64"]
EPERM, EACCES, ENOTTY, ENOSYS = ERRNO | 1, ERRNO | 13, ERRNO | 25, ERRNO | 38


def act(machine: str, name: str, *args: int, files: bool = True, trap: bool = False) -> int:
    return simulate(assemble(machine, files=files, trap=trap), TABLES[machine][name], AUDIT_ARCH[machine], args)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("files", [True, False])
def test_every_number_is_decided_as_listed(machine: str, files: bool) -> None:
    program = assemble(machine, files=files)
    table = TABLES[machine]
    plain = {table[name] for name in PLAIN + (PATHS if files else ()) if name in table}
    checked = {
        table[n] for n in ("mmap", "clone", "clone3", "openat2", "ioctl", "fcntl", "prctl", "prlimit64", "open", "openat") if n in table
    }
    for number in [*range(1024), 0x7FFFFFFF, 0xFFFFFFFF]:
        action = simulate(program, number, AUDIT_ARCH[machine])
        if number in plain:
            assert action == ALLOW, number
        elif number not in checked:
            assert action == EPERM, number


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architecture_is_killed(machine: str) -> None:
    program = assemble(machine)
    for arch in {*AUDIT_ARCH.values(), 0x40000003, 0xC0000028, 0} - {AUDIT_ARCH[machine]}:
        assert simulate(program, 0, arch) == KILL


def test_x32_numbers_are_refused() -> None:
    program = assemble("x86_64")
    for number in range(0x40000000, 0x40000000 + 600):
        assert simulate(program, number, AUDIT_ARCH["x86_64"]) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_clone_makes_threads_only(machine: str) -> None:
    glibc_thread = 0x3D0F00
    assert act(machine, "clone", glibc_thread) == ALLOW
    assert act(machine, "clone", 17) == EPERM
    assert act(machine, "clone", 0x4000 | 17) == EPERM
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
        assert act(machine, "clone", glibc_thread | namespace) == EPERM
    assert act(machine, "clone3", 0) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_anonymous_memory_is_private(machine: str) -> None:
    shared, private, validated, fixed, anonymous = 0x01, 0x02, 0x03, 0x10, 0x20
    for flags in (shared | anonymous, validated | anonymous, shared | anonymous | fixed, shared | anonymous | 0x40000):
        assert act(machine, "mmap", 0, 4096, 3, flags, 2**64 - 1, 0) == EPERM
        assert act(machine, "mmap", 0, 4096, 3, flags, 2**64 - 1, 0, trap=True) == TRAP
    for flags in (private | anonymous, private | anonymous | fixed, shared, validated, private, private | 0x800):
        assert act(machine, "mmap", 0, 4096, 3, flags, 2**64 - 1, 0) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_files_are_opened_for_reading_only(machine: str) -> None:
    cloexec = 0o2000000
    for call, before in [("openat", (2**64 - 100, 1))] + ([("open", (1,))] if "open" in TABLES[machine] else []):
        assert act(machine, call, *before, cloexec) == ALLOW
        for flag in (1, 2, 3, 0o100, 0o1000, 0o2000, 0o20000000, 0o10000000):
            assert act(machine, call, *before, cloexec | flag) == EACCES
            assert act(machine, call, *before, cloexec, files=False) == EPERM
    assert act(machine, "openat2") == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_decide(machine: str) -> None:
    assert act(machine, "fcntl", 3, 1) == ALLOW
    for command in (4, 8, 10, 15, 1024, 1026, 1031, 1033):  # SETFL, SETOWN, SETSIG, SETOWN_EX, SETLEASE, NOTIFY, SETPIPE_SZ, ADD_SEALS
        assert act(machine, "fcntl", 3, command) == EPERM
    assert act(machine, "ioctl", 1, 0x5401) == ALLOW
    assert act(machine, "ioctl", 1, 0x5412) == ENOTTY  # TIOCSTI
    assert act(machine, "prctl", 15) == ALLOW
    for option in (1, 4, 22, 23, 24, 28, 36, 38, 47):
        assert act(machine, "prctl", option) == EPERM
    assert act(machine, "prlimit64", 0, 7, 0, 1 << 40) == ALLOW
    for args in ((1, 7, 0, 1), (0, 7, 1, 0), (0, 7, 1 << 32, 0), (1 << 31, 7, 0, 0)):
        assert act(machine, "prlimit64", *args) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_trap_replaces_denial(machine: str) -> None:
    assert act(machine, "socket", trap=True) == TRAP
    assert act(machine, "openat", 0, 0, 1, trap=True) == TRAP
    assert act(machine, "read", trap=True) == ALLOW
    assert act(machine, "clone3", trap=True) == ENOSYS  # libc expects this one
    assert act(machine, "openat2", trap=True) == act(machine, "ioctl", 1, 0x5412, trap=True) == TRAP
    assert act(machine, "ioctl", 1, 0x5401, trap=True) == ALLOW
    if machine == "x86_64":
        assert simulate(assemble(machine, trap=True), 0x40000000, AUDIT_ARCH[machine]) == TRAP


@pytest.mark.parametrize("machine", MACHINES)
def test_search_is_short(machine: str) -> None:
    assert len(assemble(machine)) < 400


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_agree_with_libseccomp(machine: str) -> None:
    found = ctypes.util.find_library("seccomp")
    if found is None:
        pytest.skip("libseccomp is not installed; it would confirm the tables")
    library = ctypes.CDLL(found)
    for name, number in TABLES[machine].items():
        assert library.seccomp_syscall_resolve_name_arch(AUDIT_ARCH[machine], name.encode()) == number, name
