"""What an attack is, and the helpers that the lists of attacks share."""

from dataclasses import dataclass

BLOCKED = "blocked"
ESCAPED = "ESCAPED"


@dataclass(frozen=True)
class Attack:
    """program: hostile text; `{folder}`, `{secret}`, `{port}`, `{owner}`, `{abstract}` stand for the bait.

    expect: the statuses that are right. output: what `output` must be where the status is `ok`; None for anything but `ESCAPED`.
    slow: runs until its CPU limit. waits: runs until its wall-clock limit. repeats: a second run must give the same row.
    """

    name: str
    program: str
    expect: tuple[str, ...] = ("ok",)
    output: object = BLOCKED
    slow: bool = False
    waits: bool = False
    repeats: bool = False


def attempt(name: str, body: str, *, slow: bool = False) -> Attack:
    """An attack whose `body` raises where it is blocked; reaching its end is the escape."""
    indented = "\n".join("    " + line for line in body.strip().splitlines())
    return Attack(name, f"try:\n{indented}\n    output = 'ESCAPED'\nexcept Exception:\n    output = 'blocked'\n", slow=slow)


SYSCALL = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == 'x86_64'
def call(x86, arm, *args):
    number = x86 if X86 else arm
    if number is None: return -1
    return libc.syscall(number, *args)
def refused(*results):
    if any(r != -1 for r in results): raise SystemExit(77)
"""


def syscalls(name: str, body: str) -> Attack:
    """An attack with raw system calls; `refused(...)` demands that each gave an error."""
    return Attack(name, SYSCALL + body + "\noutput = 'blocked'\n")
