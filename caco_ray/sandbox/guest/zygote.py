"""The warm interpreter: waits for a program, forks, lets the fork run it, reports how it ended. One program at a time, one thread.

It never sees a program or a result: the fork reads the source from one pipe and writes the reply to another, both held by the owner, so no
program finds another's text in the memory that it inherits. The control socket is handed over as standard
input, so that its number does not depend on what the owner has open. The protocol (all of fixed size):

    owner -> zygote   configuration (length, JSON), once          zygote -> owner   ready (length, JSON: {} or {"error"}), once
    owner -> zygote   RUN (seed) with two descriptors             ...
    owner -> zygote   FINISH (it should have ended) or KILL       zygote -> owner   ENDED (wait status, killed, CPU s, maximum RSS)
"""

import gc
import json
import os
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from caco_ray.sandbox.guest import libc, namespaces, preload, seal
from caco_ray.sandbox.guest.console import Console, add_exits
from caco_ray.sandbox.guest.frame import FAILED, MAX_ERROR, OUT_OF_MEMORY, READY, build_frame, write_all
from caco_ray.sandbox.guest.program import run_program
from caco_ray.sandbox.guest.reserve import Reserve

RUN = struct.Struct("=q")
ENDED = struct.Struct("=i?dq")
LENGTH = struct.Struct("=I")
FINISH, KILL = b"F", b"K"
_FD = 3  # the control socket; in a fork, the reply pipe in its place
_GRACE_S = 1.0  # between the end of the reply and the end of its process
_STOP_S = 10.0  # for a process to obey SIGSTOP: a starved machine takes its time


def _receive(control: socket.socket, size: int, owner: int) -> bytes:
    """Exactly `size` bytes; leaves for good when the owner is gone (its socket may live on in a fork of its own)."""
    data = b""
    while len(data) < size:
        try:
            chunk = control.recv(size - len(data))
        except TimeoutError:
            if os.getppid() != owner:
                os._exit(0)
            continue
        if not chunk:
            os._exit(0)
        data += chunk
    return data


def _receive_run(control: socket.socket, owner: int) -> tuple[int, list[int]]:
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(control, RUN.size, 2)
        except TimeoutError:
            if os.getppid() != owner:
                os._exit(0)
            continue
        if len(data) != RUN.size or len(descriptors) != 2:
            os._exit(0)
        return RUN.unpack(data)[0], descriptors


def _read_all(fd: int) -> bytes:
    chunks = []
    while chunk := os.read(fd, 1 << 16):
        chunks.append(chunk)
    return b"".join(chunks)


@dataclass(frozen=True)
class Outfit:
    """What each fork finds prepared; `seal` closes it off."""

    output_bytes: int
    console: Console
    reserve: Reserve
    seal: Callable[[], None]


def _run_in_fork(outfit: Outfit, zygote: int, seed: int, fds: list[int]) -> NoReturn:
    """The fork: ends here, whatever happens. A failure before READY is the machinery's, and is told in place of READY."""
    try:
        try:
            libc.die_with_parent()
            if os.getppid() != zygote:
                os._exit(1)
            source = _read_all(fds[0])
            outfit.seal()
        except BaseException as error:
            write_all(fds[1], FAILED + f"{type(error).__name__}: {error}"[:MAX_ERROR].encode(errors="replace"))
            os._exit(1)
        os.dup2(fds[1], _FD, inheritable=False)
        os.closerange(_FD + 1, seal.MAX_DESCRIPTORS)  # all there can be: the zygote began with none above _FD
        write_all(_FD, READY)
        write_all(_FD, _reply(outfit, seed, source))
        os._exit(0)
    finally:
        os._exit(1)


def _reply(outfit: Outfit, seed: int, source: bytes) -> bytes:
    console, release = outfit.console, outfit.reserve.release
    try:
        return build_frame(run_program(source, seed=seed, output_bytes=outfit.output_bytes, console=console, before_reply=release))
    except MemoryError:
        return OUT_OF_MEMORY


def _seen(pid: int, options: int, seconds: float) -> int:
    """Waits for a change of the process that `options` names: its CLD_ code, 0 where none comes in time. Leaves it to be waited for."""
    deadline = time.monotonic() + seconds
    while (found := os.waitid(os.P_PID, pid, options | os.WNOHANG | os.WNOWAIT)) is None:
        if time.monotonic() > deadline:
            return 0
        time.sleep(0.0001)
    return found.si_code


def _runs_on(pid: int) -> bool:
    """True for a process that goes on after its reply pipe has closed. One that is about to end may need long for it (much memory to give
    back, no CPU to be had); it can no longer be stopped, which tells it from one that is alive."""
    if _seen(pid, os.WEXITED, _GRACE_S):
        return False
    os.kill(pid, signal.SIGSTOP)
    return _seen(pid, os.WEXITED | os.WSTOPPED, _STOP_S) == os.CLD_STOPPED


def _sweep() -> None:
    """Kills what the program left running; only L0 lets it start anything."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            with open(f"/proc/self/task/{os.getpid()}/children") as children:
                for child in children.read().split():
                    os.kill(int(child), signal.SIGKILL)


def _serve(control: socket.socket, outfit: Outfit, level: str, owner: int) -> None:
    me = os.getpid()
    while True:
        seed, descriptors = _receive_run(control, owner)
        pid = libc.fork()
        if pid < 0:
            os._exit(1)  # no process to be had: the owner sees the end of this one, and tries again
        if pid == 0:
            _run_in_fork(outfit, me, seed, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        order = _receive(control, 1, owner)
        killed = order == KILL or _runs_on(pid)
        os.kill(pid, signal.SIGKILL)  # no effect on one that has ended
        _, status, usage = os.wait4(pid, 0)
        if level == "L0":
            _sweep()
        control.sendall(ENDED.pack(status, killed, usage.ru_utime + usage.ru_stime, usage.ru_maxrss))


def _prepare(config: dict[str, Any]) -> Outfit:
    level = config["level"]
    sys.path += config["site"]
    libc.first_to_go()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    add_exits()
    preload.load(config["profile"], wide=level == "L1")
    console, reserve = Console(config["stdout_bytes"]), Reserve(config["output_bytes"], config["stdout_bytes"])
    seal.limit_resources(preload.address_space(), config["memory_mb"])
    if level == "L3":
        seal.limit_threads()
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    preload.settle(config["huge_pages"])
    seal.seal_interpreter(level, config["readable"])
    return Outfit(config["output_bytes"], console, reserve, seal.program_seal(level, config["cpu_s"], config["trap"]))


def main(root: str) -> None:
    """The whole life of the zygote; `root` is where this package was imported from, and is forgotten."""
    sys.path.remove(root)
    os.dup2(0, _FD, inheritable=False)
    libc.close_from(_FD + 1)
    control = socket.socket(fileno=_FD)
    control.settimeout(2)
    owner = os.getppid()
    (size,) = LENGTH.unpack(_receive(control, LENGTH.size, owner))
    config = json.loads(_receive(control, size, owner))
    try:
        if config["level"] == "L3":
            namespaces.enter(owner)
            owner = 0  # the parent is in another process namespace
        if sys.platform == "linux" and config["level"] == "L0":
            libc.adopt_orphans()
        outfit = _prepare(config)
    except BaseException as error:
        answer = json.dumps({"error": f"{type(error).__name__}: {error}"[:500], "trace": traceback.format_exc()[-2000:]}).encode()
        control.sendall(LENGTH.pack(len(answer)) + answer)
        return
    control.sendall(LENGTH.pack(2) + b"{}")
    gc.freeze()
    _serve(control, outfit, config["level"], owner)
