"""The ground that attacks are run on: bait to go for, neighbours to disturb, and a look at the machine before and after."""

import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hostile.attack import ESCAPED, Attack
from hostile.attacks_process import ATTACKS as PROCESS
from hostile.attacks_reach import ATTACKS as REACH
from hostile.attacks_value import ATTACKS as VALUE

from caco_ray.sandbox import ExecutionResult, Limits, Sandbox

ATTACKS: list[Attack] = PROCESS + REACH + VALUE
NEIGHBOURS = [
    ("import math\ninput = {'r': 2}\noutput = round(math.pi * input['r'] ** 2, 3)", "12.566"),
    ("import sympy\nx = sympy.Symbol('x')\noutput = sum(sympy.solve(x**2 - 5*x + 6, x)) + sympy.Integer(1)", '{"$sympy":["Integer",6]}'),
    (
        "import random, json, decimal\noutput = [round(random.random(), 6), json.dumps([1]), str(decimal.Decimal(1) / 3)]",
        '[0.844422,"[1]","0.3333333333333333333333333333"]',
    ),
    ("import ctypes\noutput = [ctypes.CDLL(None).fcntl(fd, 3) & 0o6000 for fd in (0, 1, 2)]", "[0,0,0]"),
    ("import time\noutput = [time.tzname[0], sorted({'b', 'a'}), print('seen')]", '["UTC",["a","b"],null]'),
]


@dataclass
class Ground:
    """One sandbox pair under attack: `box` for programs that burn, `brief` for programs that wait."""

    box: Sandbox
    brief: Sandbox
    folder: Path
    secret: str
    server: socket.socket
    abstract: socket.socket

    def text(self, attack: Attack) -> str:
        """The attack with the bait filled in."""
        text = attack.program
        places = {"folder": self.folder, "secret": self.secret, "port": self.server.getsockname()[1], "owner": os.getpid()}
        for name, value in places.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text.replace("{abstract}", self.abstract.getsockname()[1:].decode())

    def run(self, attack: Attack) -> list[str]:
        """Runs the attack and its neighbours; returns what went wrong, as sentences."""
        before = look(self.folder)
        box = self.brief if attack.waits else self.box
        result = box.run(self.text(attack))
        problems = self._judge(attack, result)
        if attack.repeats:
            again = box.run(self.text(attack))
            if (again.status, again.output_json, again.stdout) != (result.status, result.output_json, result.stdout):
                problems.append(f"a second run differs: {result.output_json} then {again.output_json}")
        return problems + self.aftermath(box, before)

    def aftermath(self, box: Sandbox, before: dict[str, object]) -> list[str]:
        """What an attack on `box` changed, since `before`: for its neighbours, and on the machine."""
        problems = []
        for program, expected in NEIGHBOURS:
            neighbour = box.run(program)
            if neighbour.status != "ok" or neighbour.output_json != expected:
                problems.append(f"neighbour changed: {neighbour.status} {neighbour.output_json} {neighbour.error}")
        after = look(self.folder)
        problems += [f"{name} changed: {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
        for listener in (self.server, self.abstract):
            try:
                listener.accept()[0].close()
                problems.append("something connected to the owner's socket")
            except BlockingIOError:
                pass
        return problems

    def _judge(self, attack: Attack, result: ExecutionResult) -> list[str]:
        problems = []
        if result.status not in attack.expect:
            problems.append(f"status {result.status} ({result.error}), expected one of {attack.expect}")
        if result.output == ESCAPED or self.secret in repr(result):
            problems.append(f"escaped: {result.output!r} {result.error}")
        # repr tells 1 from 1.0, and finds nan like nan
        if result.status == "ok" and attack.output is not None and repr(result.output) != repr(attack.output):
            problems.append(f"output {result.output!r}, expected {attack.output!r}")
        if result.level != self.box.level:
            problems.append(f"level {result.level}")
        return problems


def children() -> list[str]:
    """Descendants of this process, by kernel lists: zombies and strays included."""
    found, todo = [], [str(os.getpid())]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            try:
                kids = task.read_text().split()
            except OSError:
                continue
            found += kids
            todo += kids
    return sorted(found)


def _tree(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(p), p.lstat().st_size) for p in folder.rglob("*") if not p.is_socket())


def look(folder: Path) -> dict[str, object]:
    """What an attack could leave behind."""
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "children": children(),
        "files": _tree(folder),
        "strays": [p for p in ("/tmp/caco_hostile", "/dev/shm/caco_hostile", "/caco_hostile", "caco_hostile") if os.path.lexists(p)],
        "shared memory": Path("/proc/sysvipc/shm").read_text().count("\n") if os.path.exists("/proc/sysvipc/shm") else 0,
    }


@contextmanager
def ground(level: str) -> Iterator[Ground]:
    """A fresh ground at exactly this level.

    Raises:
        SandboxUnavailableError: this machine does not give it.
    """
    secret = "caco-secret-" + secrets.token_hex(8)
    os.environ["CACO_TEST_SECRET"] = secret
    burning = Limits(cpu_s=0.5, wall_s=20, memory_mb=128)
    waiting = Limits(cpu_s=0.3, wall_s=0.4, memory_mb=128)
    server, abstract = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    try:
        abstract.bind("\0" + secret[::-1])
        abstract.listen()
        server.setblocking(False)
        abstract.setblocking(False)
        with (
            tempfile.TemporaryDirectory() as folder,
            Sandbox(level, burning, at_most=level) as box,
            Sandbox(level, waiting, at_most=level) as brief,
        ):
            os.chmod(folder, 0o777)
            (Path(folder) / "secret.txt").write_text(secret)
            the_ground = Ground(box, brief, Path(folder), secret, server, abstract)
            for warm in (box, brief):
                for program, _ in NEIGHBOURS:
                    warm.run(program)
            yield the_ground
    finally:
        server.close()
        abstract.close()
        del os.environ["CACO_TEST_SECRET"]
