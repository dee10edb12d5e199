"""The machinery itself fails: the program is tried again, then the row says `sandbox_error`. Nothing else is ever raised or recorded."""

import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hostile.ground import children

from caco_ray.errors import SandboxUnavailableError
from caco_ray.sandbox import Limits, Sandbox
from caco_ray.sandbox.guest.console import Console
from caco_ray.sandbox.guest.reserve import Reserve
from caco_ray.sandbox.guest.zygote import Outfit, _run_in_fork, _runs_on
from caco_ray.sandbox.verdict import judge
from caco_ray.sandbox.zygote import Ending, _Exchange, _two_pipes


@contextmanager
def no_descriptor_to_be_had() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_out_of_descriptors() -> None:
    with Sandbox() as box:
        assert box.run("output = 1").output == 1
        with no_descriptor_to_be_had():
            results = [box.run("output = 2"), *box.run_many(["output = 3"] * 2)]
        assert {(result.status, result.attempts) for result in results} == {("sandbox_error", 2)}
        assert "Too many open files" in str(results[0].error)
        assert box.run("output = 4").output == 4
    with no_descriptor_to_be_had(), pytest.raises(SandboxUnavailableError, match="Too many open files"):
        Sandbox()


def test_no_process_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: for root, under whom tests run as well, the kernel does not limit processes."""

    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with Sandbox() as box:
        opened = len(os.listdir("/proc/self/fd"))
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", refused)
            for _ in range(10):
                result = box.run("output = 1")
                assert (result.status, result.attempts) == ("sandbox_error", 2) and "temporarily unavailable" in str(result.error)
            with pytest.raises(SandboxUnavailableError, match="temporarily unavailable"):
                Sandbox()
        assert len(os.listdir("/proc/self/fd")) < opened + 10, "each refusal leaves a descriptor"
        assert box.run("output = 2").output == 2


def test_programs_are_the_first_to_go_where_memory_runs_out() -> None:
    own = "output = int(open('/proc/self/oom_score_adj').read())"
    with Sandbox("L0", allow_unsafe=True, at_most="L0") as unsafe:
        assert unsafe.run(own).output == 1000
    with Sandbox("L2", at_most="L2") as box:
        assert box.run("output = 1").output == 1
        assert Path(f"/proc/{box._workers[0].zygote('light', 0).pid}/oom_score_adj").read_text() == "1000\n"
    assert Path("/proc/self/oom_score_adj").read_text() != "1000\n"


def test_a_process_that_is_about_to_end_does_not_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ending later than the grace is simulated by none: a process of much memory on a starved machine cannot be had at will."""
    monkeypatch.setattr("caco_ray.sandbox.guest.zygote._GRACE_S", 0.0)
    alive = subprocess.Popen(["sleep", "300"])
    assert _runs_on(alive.pid)
    alive.kill()
    assert not _runs_on(alive.pid)
    assert alive.wait() == -signal.SIGKILL
    gone = subprocess.Popen(["true"])
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    assert not _runs_on(gone.pid)
    assert gone.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGKILL])
def test_a_program_ended_from_outside_is_run_again(number: signal.Signals) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("this process and its children ignore the signal (nohup does so)")
    with Sandbox() as box, ThreadPoolExecutor(1) as pool:
        box.run("output = 1")
        interpreters = children()
        running = pool.submit(box.run, "import time\ntime.sleep(1)\noutput = 2")
        while not (program := set(children()) - set(interpreters)):
            time.sleep(0.01)
        time.sleep(0.2)  # until it is sealed
        os.kill(int(program.pop()), number)
        result = running.result()
    assert (result.status, result.output, result.attempts) == ("ok", 2, 2)


@pytest.mark.parametrize(("level", "status"), [("L0", "signal"), ("L1", "sandbox_error"), ("L2", "sandbox_error"), ("L3", "sandbox_error")])
def test_only_at_level_0_can_a_program_end_itself(level: str, status: str) -> None:
    assert judge(Ending(b"", False, False, False, signal.SIGTERM, 0.1, 0.1, 1000), Limits(), level).status == status
    assert judge(Ending(b"", False, False, False, signal.SIGSEGV, 0.1, 0.1, 1000), Limits(), level).status == "signal"


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, for the same reason."""

    def refused(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with Sandbox(workers=2) as box:
        monkeypatch.setattr("threading.Thread.start", refused)
        assert [result.output for result in box.run_many(["output = 1", "output = 2", "output = 3"])] == [1, 2, 3]


@pytest.mark.parametrize("error", [RuntimeError("no seal"), OSError("+ no seal"), MemoryError()])
def test_a_failure_to_seal_is_not_taken_for_a_sealed_program(error: Exception) -> None:
    def seal() -> None:
        raise error

    source_read, source_write, result_read, result_write = _two_pipes()
    me = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(source_write)
        _run_in_fork(Outfit(1000, Console(1000), Reserve(0, 0), seal), me, 0, [source_read, result_write])
    os.close(source_read)
    os.close(result_write)
    exchange = _Exchange(source_write, result_read, b"output = 1", 1000)
    exchange.run(60)
    os.close(result_read)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert not exchange.ready and type(error).__name__.encode() in exchange.data


def test_the_longest_program() -> None:
    limits = Limits(memory_mb=32)
    with Sandbox(limits=limits) as box:
        longest = "output = 1 #"
        longest += "x" * (limits.source_bytes - len(longest))
        assert box.run(longest).output == 1
        for longer in (longest + "x", longest[:-1] + "ü", "x" * (200 << 20)):
            result = box.run(longer)
            assert (result.status, result.error) == ("error", f"ValueError: the program is longer than {4 << 20} bytes")
        assert box.run("#" + "\U0001f600" * ((4 << 20) // 4 - 1)).status in ("no_output", "oom")
        assert box.run("output = 2").output == 2
