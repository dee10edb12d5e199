"""The seccomp filter: assembled by hand into classic BPF, so that no library is needed in the image.

Shape of the program: check the architecture (and the x32 bit), then a binary search over ranges of call numbers, then, for the few
calls that depend on their arguments, a short check. The search keeps the filter cheap to install (the kernel evaluates it once per call
number when it is attached) as well as to run. https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html
"""

import ctypes
import struct
from collections.abc import Callable

from caco_ray.sandbox.guest.libc import SetupError, check, libc
from caco_ray.sandbox.guest.syscalls import AUDIT_ARCH, EACCES, ENOSYS, ENOTTY, EPERM, PATHS, PLAIN, TABLES

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand
ALLOW, ERRNO, TRAP, KILL = 0x7FFF0000, 0x00050000, 0x00030000, 0x80000000
_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH = 0, 4
_X32 = 0x40000000
_THREAD, _NAMESPACES = 0x00010000, 0x7E020080  # CLONE_THREAD; every CLONE_NEW*
_SHARED, _ANONYMOUS = 0x01, 0x20  # MAP_SHARED, also set in MAP_SHARED_VALIDATE; MAP_ANONYMOUS
_WRITING = 0o3 | 0o100 | 0o1000 | 0o2000 | 0o20000000 | 0o10000000  # access mode, CREAT, TRUNC, APPEND, TMPFILE, PATH


def _low(i: int) -> Instruction:
    return (_LOAD, 0, 0, 16 + 8 * i)


def _high(i: int) -> Instruction:
    return (_LOAD, 0, 0, 20 + 8 * i)


def _ret(action: int) -> list[Instruction]:
    return [(_RET, 0, 0, action)]


def _one_of(argument: int, values: list[int], deny: int) -> list[Instruction]:
    """Allow if the low half of the argument is one of `values`."""
    n = len(values)
    tests = [(_JEQ, n - i, 0, value) for i, value in enumerate(values)]
    return [_low(argument), *tests, *_ret(deny), *_ret(ALLOW)]


def _reading_only(flags: int, deny: int) -> list[Instruction]:
    return [_low(flags), (_JSET, 0, 1, _WRITING), *_ret(deny), *_ret(ALLOW)]


def _clone(deny: int) -> list[Instruction]:
    """Threads only: CLONE_THREAD set, no namespace flag."""
    return [_low(0), (_JSET, 0, 1, _THREAD), (_JSET, 0, 1, _NAMESPACES), *_ret(deny), *_ret(ALLOW)]


def _prlimit(deny: int) -> list[Instruction]:
    """Reading one's own limits only: pid 0 and no new value."""
    return [_low(0), (_JEQ, 0, 4, 0), _low(2), (_JEQ, 0, 2, 0), _high(2), (_JEQ, 1, 0, 0), *_ret(deny), *_ret(ALLOW)]


def _private(deny: int) -> list[Instruction]:
    """No shared anonymous memory: unmapping all but a page of it frees nothing, so that RLIMIT_AS would not bound what a program holds."""
    return [_low(3), (_JSET, 0, 2, _SHARED), (_JSET, 0, 1, _ANONYMOUS), *_ret(deny), *_ret(ALLOW)]


def rules(machine: str, files: bool, deny: int) -> dict[int, list[Instruction]]:
    """Call number -> the instructions that decide it."""
    table = TABLES[machine]
    named: dict[str, list[Instruction]] = {name: _ret(ALLOW) for name in PLAIN + (PATHS if files else ())}
    trap = deny == TRAP

    def refuse(error: int) -> int:
        return TRAP if trap else ERRNO | error

    named |= {
        "ioctl": _one_of(1, [0x5401, 0x802C542A, 0x5450, 0x5451], refuse(ENOTTY)),  # TCGETS, TCGETS2, FIO(N)CLEX
        # F_DUPFD(_CLOEXEC), F_GETFD, F_SETFD, F_GETFL. Not F_SETFL: the flags of descriptors 0 to 2 are shared with later programs. Not
        # F_SETOWN, which aims signals at others.
        "fcntl": _one_of(1, [0, 1, 2, 3, 1030], deny),
        "prctl": _one_of(0, [15, 16, 0x53564D41], deny),  # thread names, names of mappings
        "prlimit64": _prlimit(deny),
        "mmap": _private(deny),
        "clone": _clone(deny),
        "clone3": _ret(ERRNO | ENOSYS),  # its flags lie in memory that a filter cannot read; libc falls back to clone
        "openat2": _ret(refuse(ENOSYS)),
    }
    if files:
        named |= {"open": _reading_only(1, refuse(EACCES)), "openat": _reading_only(2, refuse(EACCES))}
    return {table[name]: code for name, code in named.items() if name in table}


def _search(points: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Binary search: `points` are (first number, code) of consecutive ranges."""
    if len(points) == 1:
        return points[0][1]
    middle = len(points) // 2
    left, right = _search(points[:middle]), _search(points[middle:])
    if len(left) > 255:
        raise ValueError("a jump is too long for classic BPF")
    return [(_JGE, len(left), 0, points[middle][0]), *left, *right]


def assemble(machine: str, *, files: bool = True, trap: bool = False) -> list[Instruction]:
    """The filter for `machine`.

    files: calls that take a path are allowed for reading (Landlock decides which files).
    trap: a denied call ends the program with SIGSYS instead of an error: a check of the list against known-good programs. Only clone3
        keeps its error: the C library asks for it before every thread.
    """
    deny = TRAP if trap else ERRNO | EPERM
    points: list[tuple[int, list[Instruction]]] = [(0, _ret(deny))]
    for number, code in sorted(rules(machine, files, deny).items()):
        if points[-1][0] == number:
            points.pop()
        if not points or points[-1][1] != code:
            points.append((number, code))
        points.append((number + 1, _ret(deny)))
    head: list[Instruction] = [(_LOAD, 0, 0, _ARCH), (_JEQ, 1, 0, AUDIT_ARCH[machine]), *_ret(KILL), (_LOAD, 0, 0, _NR)]
    if machine == "x86_64":
        head += [(_JGE, 0, 1, _X32), *_ret(deny)]
    return head + _search(points)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


def installer(instructions: list[Instruction]) -> Callable[[], None]:
    """A function that puts this process under the filter for good. Needs NO_NEW_PRIVS.

    Raises:
        SetupError: the kernel refused.
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions))
    program = _Program(len(instructions), ctypes.addressof(code))
    prctl, pointer = libc.prctl, ctypes.byref(program)
    if not 0 < len(instructions) <= 4096:
        raise SetupError("seccomp: filter too long")

    def install(keep: object = (code, program)) -> None:
        check(prctl(22, 2, pointer, 0, 0), "seccomp")  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER

    return install
