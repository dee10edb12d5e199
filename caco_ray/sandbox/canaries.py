"""Small attacks that are tried at every start. One that succeeds means that the level does not hold here, and the sandbox refuses it.

Each program ends with `output` "blocked" or "escaped"; being killed counts as blocked only where `accepted` says so. What no program can
try, since it has no socket, the interpreter of L3 tries itself when it enters its namespaces: to reach a network.
"""

from dataclasses import dataclass

_TRY = """
def attack():
{body}
try:
    output = attack() or "escaped"
except {errors} as error:
    output = "blocked"
"""


@dataclass(frozen=True)
class Bait:
    """What the canaries go for: a folder that the owner can write to, its process, numbers below which its descriptors are; and the
    environment that programs are meant to see."""

    folder: str
    owner: int
    descriptors: int
    environment: frozenset[str]


@dataclass(frozen=True)
class Canary:
    """body: the attack, `return "blocked"` where it sees itself that it failed; `{folder}`, `{owner}` and so on are filled in.
    level: the only one that promises to stop it; None for all."""

    name: str
    body: str
    errors: str = "OSError"
    accepted: tuple[tuple[str, object], ...] = ()
    level: str | None = None

    def program(self, bait: Bait) -> str:
        """The program text."""
        places = {"folder": bait.folder, "owner": bait.owner, "descriptors": bait.descriptors, "expected": set(bait.environment)}
        body = self.body.format(**places)
        return _TRY.format(body="\n".join("    " + line for line in body.strip().splitlines()), errors=self.errors)


_SYSCALL = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
CANARIES = (
    Canary("read /etc/passwd", "open('/etc/passwd').read()"),
    Canary("read a file of the owner", "import os\nopen('/proc/{owner}/environ', 'rb').read()"),
    Canary("read its own environment", "open('/proc/self/environ', 'rb').read()"),
    Canary("environment", "import os\nreturn 'blocked' if set(os.environ) <= {expected} else 'escaped'"),
    Canary("write a file", "open({folder!r} + '/canary', 'w').write('x')"),
    Canary("make a folder", "import os\nos.mkdir({folder!r} + '/canaries')"),
    Canary("TCP", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_STREAM)"),
    Canary("unix socket", "import socket\nsocket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)"),
    Canary("fork", "import os\npid = os.fork()\nif pid == 0: os._exit(0)"),
    Canary("exec", "import os\nos.execv('/bin/true', ['true'])"),
    Canary("subprocess", "import subprocess\nsubprocess.run(['/bin/true'])"),
    Canary("signal the owner", "import os\nos.kill({owner}, 0)"),
    Canary("signal the zygote", "import os\nos.kill(os.getppid(), 0)"),
    Canary("raise its limits", "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))", "(OSError, ValueError)"),
    Canary("ptrace the zygote", _SYSCALL + "return 'blocked' if libc.ptrace(16, os.getppid(), 0, 0) < 0 else 'escaped'"),
    Canary("user namespace", _SYSCALL + "return 'blocked' if libc.unshare(0x10000000) < 0 else 'escaped'"),
    Canary("memory", "block = bytearray(1 << 30)", "MemoryError"),
    Canary("shared memory", "import mmap\nmmap.mmap(-1, 4096)"),
    Canary("inherited descriptors", "import os\nfor fd in range(4, {descriptors}):\n    try: os.fstat(fd)\n    except OSError as e:\n"
           "        if e.errno != 9 and e.errno != 1: return 'escaped'\n    else: return 'escaped'\nreturn 'blocked'"),
    Canary("forge the report on the next program", "import os, struct\nfor fd in range(3, {descriptors}):\n"
           "    try: os.write(fd, struct.pack('=i?dq', 11, False, 0.0, 0) * 4)\n    except OSError: pass\nreturn 'blocked'",
           accepted=(("protocol_violation", None),)),
    Canary("be the next program", "return 'blocked'"),
    Canary("name /etc", "import os\nos.stat('/etc')", level="L3"),
    Canary("live among the owner's processes", "import os\nreturn 'blocked' if os.getppid() == 1 else 'escaped'", level="L3"),
)  # fmt: skip
# Tried with the smallest CPU limit.
BURNER = Canary("burn the CPU", "while True: pass", accepted=(("timeout_cpu", None),))
