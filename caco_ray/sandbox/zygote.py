"""The owner's hold on one warm interpreter: start it, give it a program, end it. Not thread-safe: one program at a time."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caco_ray.errors import SandboxUnavailableError
from caco_ray.sandbox.guest.frame import FAILED, READY
from caco_ray.sandbox.guest.zygote import ENDED, FINISH, KILL, LENGTH, RUN

_ROOT = str(Path(__file__).parents[2])
_BOOT = "import sys; sys.path[0] = sys.argv[1]; from caco_ray.sandbox.guest.zygote import main; main(sys.argv[1])"
_START_S = 120.0  # a cold disk under load; the usual start takes one second
_SEAL_S = 60.0  # from the request to READY
_REPLY_S = 30.0  # from the order to end a program to the report of its end
ENVIRONMENT = {
    "LC_ALL": "C.UTF-8", "TZ": "UTC", "MALLOC_ARENA_MAX": "1", "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
}  # fmt: skip


class ZygoteError(Exception):
    """The warm interpreter did not do its part; it must be replaced. Says nothing about the program."""


@dataclass(frozen=True)
class Ending:
    """How one program ended, all of it measured outside the program.

    data: what it wrote, READY excluded. timed_out: stopped at the deadline. overflow: stopped for writing more than `max_bytes`.
    killed: stopped in time for one of these, or still alive after its reply pipe had
    closed. wait_status: of wait4.
    """

    data: bytes
    timed_out: bool
    overflow: bool
    killed: bool
    wait_status: int
    cpu_s: float
    wall_s: float
    max_rss_kb: int


class Zygote:
    """One warm interpreter.

    config: what `guest/zygote.py` reads; hash_seed: for PYTHONHASHSEED.

    Raises:
        SandboxUnavailableError: it did not start; the message says what is missing.
    """

    def __init__(self, config: dict[str, Any], hash_seed: int) -> None:
        self.served = 0
        with contextlib.ExitStack() as held:
            try:
                complaints = held.enter_context(contextlib.closing(_Complaints()))
                self._control, theirs = socket.socketpair()
                held.enter_context(theirs)
                self._process = self._launch(theirs, complaints, hash_seed)
            except OSError as error:
                raise SandboxUnavailableError(f"the warm interpreter cannot be started: {error}") from error
            theirs.close()
            try:
                self._greet(json.dumps(config).encode())
            except (OSError, ValueError, ZygoteError) as error:
                self.close()
                raise SandboxUnavailableError(f"the warm interpreter did not start: {error} {complaints.text()}".strip()) from error

    def _launch(self, theirs: socket.socket, complaints: "_Complaints", hash_seed: int) -> "subprocess.Popen[bytes]":
        try:
            return subprocess.Popen(
                [sys.executable, "-S", "-s", "-c", _BOOT, _ROOT],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=complaints.write_end, close_fds=True,
                cwd="/", env=ENVIRONMENT | {"PYTHONHASHSEED": str(hash_seed)}, start_new_session=True,
            )  # fmt: skip
        except OSError:
            self._control.close()
            raise

    def _greet(self, config: bytes) -> None:
        self._control.settimeout(_START_S)
        self._control.sendall(LENGTH.pack(len(config)) + config)
        (size,) = LENGTH.unpack(self._receive(LENGTH.size))
        answer = json.loads(self._receive(size))
        if answer:
            raise ZygoteError(answer["error"])
        self._control.settimeout(_REPLY_S)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self._control.recv(size - len(data))
            if not chunk:
                raise ZygoteError("the warm interpreter ended")
            data += chunk
        return data

    @property
    def pid(self) -> int:
        """Of the process that this one started (at L3 the guardian of the zygote)."""
        return self._process.pid

    def run(self, source: bytes, seed: int, deadline_s: float, max_bytes: int) -> Ending:
        """Runs one program.

        Raises:
            ZygoteError: the machinery failed.
        """
        self.served += 1
        try:
            source_read, source_write, result_read, result_write = _two_pipes()
        except OSError as error:
            raise ZygoteError(f"no pipes for a program: {error}") from error
        try:
            try:
                socket.send_fds(self._control, [RUN.pack(seed)], [source_read, result_write])
            finally:
                os.close(source_read)
                os.close(result_write)
            exchange = _Exchange(source_write, result_read, source, max_bytes)
            source_write = -1
            exchange.run(deadline_s)
            self._control.sendall(KILL if exchange.timed_out or exchange.overflow else FINISH)
            status, killed, cpu_s, max_rss_kb = ENDED.unpack(self._receive(ENDED.size))
        except OSError as error:
            raise ZygoteError(f"the warm interpreter failed: {error}") from error
        finally:
            os.close(result_read)
            if source_write >= 0:
                os.close(source_write)
        if not exchange.ready:
            why = bytes(exchange.data).removeprefix(FAILED).decode(errors="replace") or "it ended before it was sealed"
            raise ZygoteError(f"a program could not be sealed: {why}")
        return Ending(
            bytes(exchange.data), exchange.timed_out, exchange.overflow, killed, status, cpu_s, exchange.wall_s, max_rss_kb
        )  # fmt: skip

    def close(self) -> None:
        """Ends the interpreter and whatever runs in it, at once."""
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _two_pipes() -> tuple[int, int, int, int]:
    first = os.pipe()
    try:
        return *first, *os.pipe()
    except OSError:
        for descriptor in first:
            os.close(descriptor)
        raise


class _Complaints:
    """Where the interpreter writes what goes wrong while it starts: a pipe, since there may be no folder to write to. What does not fit
    is lost, so nobody need read it."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        for end in (self._read_end, self.write_end):
            os.set_blocking(end, False)

    def text(self) -> str:
        try:
            return os.read(self._read_end, 1 << 16)[-1000:].decode(errors="replace").strip()
        except BlockingIOError:
            return ""

    def close(self) -> None:
        os.close(self._read_end)
        os.close(self.write_end)


class _Exchange:
    """Feeds the source into one pipe and collects the reply from the other, up to a deadline and a size."""

    def __init__(self, source_fd: int, result_fd: int, source: bytes, max_bytes: int) -> None:
        self.source_fd, self.result_fd = source_fd, result_fd
        self.left = memoryview(source)
        self.max_bytes = max_bytes
        self.data = bytearray()
        self.ready = self.timed_out = self.overflow = False
        self.wall_s = 0.0
        self.poll = select.poll()
        os.set_blocking(source_fd, False)
        self.feed()
        if self.source_fd >= 0:
            self.poll.register(self.source_fd, select.POLLOUT)
        self.poll.register(result_fd, select.POLLIN)

    def feed(self) -> None:
        try:
            while self.left:
                self.left = self.left[os.write(self.source_fd, self.left) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.left = self.left[:0]
        os.close(self.source_fd)
        self.source_fd = -1

    def run(self, deadline_s: float) -> None:
        started = time.monotonic()
        deadline = started + _SEAL_S
        try:
            while True:
                left = deadline - time.monotonic()
                events = self.poll.poll(max(0.0, left * 1000))
                if not events and left <= 0:
                    self.timed_out = True
                    return
                for descriptor, _ in events:
                    if descriptor == self.result_fd:
                        chunk = os.read(self.result_fd, 1 << 16)
                        if not chunk:
                            return
                        if not self.ready and not self.data and chunk[:1] == READY:
                            self.ready, chunk = True, chunk[1:]
                            started = time.monotonic()
                            deadline = started + deadline_s
                        self.data += chunk
                        if len(self.data) > self.max_bytes:
                            self.overflow = True
                            return
                    elif self.source_fd >= 0:
                        self.poll.unregister(descriptor)
                        self.feed()
                        if self.source_fd >= 0:
                            self.poll.register(self.source_fd, select.POLLOUT)
        finally:
            self.wall_s = time.monotonic() - started
            if self.source_fd >= 0:
                os.close(self.source_fd)
