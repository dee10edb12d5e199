"""Interpreters die, owners die: rows survive, nothing is left running, nothing leaks."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from caco_ray.sandbox import Limits, Sandbox
from caco_ray.sandbox import worker as worker_module

ROOT = Path(__file__).resolve().parents[3]


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for something that must come, however slow the machine."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"never happened: {what}")


@pytest.fixture
def own() -> Callable[[], set[int]]:
    """What this process has started since the test began."""
    before = descendants(os.getpid())
    return lambda: descendants(os.getpid()) - before


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    todo = [pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            try:
                kids = {int(kid) for kid in task.read_text().split()}
            except OSError:
                continue
            todo += kids - found
            found |= kids
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("level", ["L1", "L2", "L3"])
def test_killed_interpreter_costs_nobody_a_row(own: Callable[[], set[int]], level: str) -> None:
    try:
        made = Sandbox(level, Limits(cpu_s=10), at_most=level)
    except Exception as error:
        pytest.skip(str(error))
    with made as box:
        assert box.run("output = 1").output == 1
        before = own()
        results = []
        runner = threading.Thread(target=lambda: results.append(box.run("import time\ntime.sleep(1.5)\noutput = 2")))
        runner.start()
        until(lambda: len(own()) > len(before), "the program starts")
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        runner.join()
        assert (results[0].status, results[0].output, results[0].attempts) == ("ok", 2, 2)
        until(lambda: not any(alive(pid) for pid in before), "the old interpreter is gone")
        assert box.run("output = 3").output == 3
    assert own() == set()


def test_killed_between_programs(own: Callable[[], set[int]]) -> None:
    with Sandbox() as box:
        box.run("output = 1")
        for pid in own():
            os.kill(pid, signal.SIGKILL)
        results = box.run_many(["output = 5"] * 5)
        assert [(r.status, r.output) for r in results] == [("ok", 5)] * 5


def test_stopped_interpreter_is_replaced(own: Callable[[], set[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caco_ray.sandbox.zygote._SEAL_S", 0.5)
    monkeypatch.setattr("caco_ray.sandbox.zygote._REPLY_S", 0.5)
    with Sandbox() as box:
        box.run("output = 1")
        for pid in own():
            os.kill(pid, signal.SIGSTOP)
        result = box.run("output = 2")
        assert (result.status, result.output, result.attempts) == ("ok", 2, 2)
    assert own() == set()


def test_an_interpreter_that_cannot_be_replaced_gives_sandbox_error(own: Callable[[], set[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox() as box:
        box.run("output = 1")
        monkeypatch.setattr("caco_ray.sandbox.zygote._BOOT", "raise SystemExit('gone')")
        for pid in own():
            os.kill(pid, signal.SIGKILL)
        result = box.run("output = 2")
        assert result.status == "sandbox_error" and result.attempts == 2 and "gone" in str(result.error)


def test_interpreters_are_recycled(own: Callable[[], set[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_RECYCLE_AFTER", 10)
    with Sandbox() as box:
        generations = set()
        for i in range(35):
            assert box.run(f"output = {i}").output == i
            generations |= own()
        assert len(generations) >= 4
        assert len(own()) <= 2


@pytest.mark.parametrize("level", ["L2", "L3"])
def test_no_orphan_after_the_owner_is_killed(level: str) -> None:
    owner_code = (
        "import sys, os, subprocess\nfrom caco_ray.sandbox import *\n"
        f"box = Sandbox({level!r}, Limits(cpu_s=50), at_most={level!r})\n"
        "box.run('output = 1'); print('up', flush=True); box.run('while True: pass')"
    )
    owner = subprocess.Popen([sys.executable, "-c", owner_code], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert owner.stdout is not None
    if owner.stdout.readline() != "up\n":
        pytest.skip(f"{level} is not offered here")
    until(lambda: len(descendants(owner.pid)) >= (3 if level == "L3" else 2), "the program runs")
    family = descendants(owner.pid)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    until(lambda: not any(alive(pid) for pid in family), "everything ends with its owner")


def test_no_orphan_even_if_the_control_socket_lives_on() -> None:
    """A fork of the owner, as multiprocessing makes them, holds the socket open; the owner alone counts."""
    owner_code = (
        "import os, time\nfrom caco_ray.sandbox import *\nbox = Sandbox()\nbox.run('output = 1')\n"
        "pid = os.fork()\nif pid == 0: time.sleep(600)\nprint(pid, flush=True)\ntime.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", owner_code], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert owner.stdout is not None
    fork = int(owner.stdout.readline())
    try:
        family = descendants(owner.pid) - {fork}
        assert family
        owner.kill()
        owner.wait()
        until(lambda: not any(alive(pid) for pid in family), "the interpreter ends with its owner")
    finally:
        os.kill(fork, signal.SIGKILL)
        owner.stdout.close()


_COUNT = """
import os
from caco_ray.sandbox import Sandbox
from tests.unit.sandbox.test_lifetime import descendants

hostile = ["import os\\nos._exit(3)", "1/0", "import os\\nos.closerange(0, 99)", "output = 1", "print('x' * 10**6)", "x = bytearray(1 << 40)"]
with Sandbox() as box:
    box.run_many(hostile)
    opened, family = len(os.listdir("/proc/self/fd")), descendants(os.getpid())
    box.run_many(hostile * 30)
    assert len(os.listdir("/proc/self/fd")) == opened, "descriptors"
    assert descendants(os.getpid()) == family, "children"
assert descendants(os.getpid()) == set(), "left running"
"""


def test_descriptors_and_children_stay_constant() -> None:
    """In a process of its own: what other tests have left in this one opens descriptors when it likes."""
    ended = subprocess.run([sys.executable, "-c", _COUNT], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
