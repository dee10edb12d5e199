"""One driver at a time in a run directory. The second is refused and told who the first is; a dead first is taken over.

    <run>/driver/000007.json   the 7th driver: who it is, and a count that it raises every `BEAT_S` seconds

The driver with the highest number holds the directory. To take over is to create the next number, which only one can do (`Folder.create`),
on a disk as on an object store; nothing depends on a lock of the file system or on two clocks that agree: who waits measures by its own
clock whether the count stands still. A process of this machine is looked up instead, which is at once.

Limit: a driver that was stopped (not killed) for longer than `STALE_S` may be taken over by another machine. It notices at its next beat
and ends; what it commits until then is harmless, because the first commit of a shard wins.
"""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from caco_ray.errors import RunDirError, StorageError
from caco_ray.store.folder import Folder

BEAT_S = 10.0
STALE_S = 60.0
_DRIVERS = "driver"
_NUMBERED = re.compile(r"(\d{6,})\.json")
_PROCESS = Path("/proc")


@dataclass(frozen=True)
class Holder:
    """Who holds a run directory. `boot`, `space` and `born` say whether `pid` means the same process to us; empty where unknown."""

    token: str
    host: str
    pid: int
    since: str
    boot: str = ""
    space: str = ""
    born: str = ""
    beats: int = 0
    released: bool = False

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}, since {self.since}"


class Lease:
    """The right to write into a run directory. Use as a context manager.

    Raises:
        RunDirError: another driver is at work there, or (at the end) has taken over meanwhile.
        StorageError: the storage refuses, or cannot make the first writer win.
    """

    def __init__(self, run: Folder, say: Callable[[str], None], *, beat_s: float = BEAT_S, stale_s: float = STALE_S) -> None:
        self._folder, self._say, self._beat_s, self._stale_s = run / _DRIVERS, say, beat_s, stale_s
        self._me = _this_process()
        self._number = 0
        self._lost = ""  # why the directory is not ours any more
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lease")

    def __enter__(self) -> "Lease":
        while not self._number:
            latest = _latest(self._folder)
            number, holder = latest or (0, None)
            if holder is not None and not holder.released:
                self._wait_until_dead(number, holder)
            self._take(number + 1)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if self._lost:
            raise RunDirError(self._lost)
        with suppress(StorageError):  # we end anyway: the next driver finds us dead
            self._write(released=True)

    def _take(self, number: int) -> None:
        if not self._folder.create(_name(number), _to_json(self._me)):
            return  # somebody was faster: look again
        other = replace(self._me, token="", beats=-1)
        if self._folder.create(_name(number), _to_json(other)):
            raise StorageError(f"{self._folder}: this storage lets two writers create one name; use a disk or a store that refuses it")
        latest = _latest(self._folder)
        if latest is not None and latest[0] > number:  # others came and went since we looked, and one of them swept this number away
            self._folder.delete(_name(number))
            return
        self._number = number
        for name in self._folder.names():
            if (match := _NUMBERED.fullmatch(name)) and int(match[1]) < number:
                self._folder.delete(name)

    def _wait_until_dead(self, number: int, holder: Holder) -> None:
        """Return once the holder is known to be dead or gone.

        Raises:
            RunDirError: it lives.
        """
        refusal = RunDirError(
            f"{self._folder.url.removesuffix('/' + _DRIVERS)}: another driver is at work there ({holder}); wait for it, or stop it first"
        )
        alive = _is_alive(holder, self._me)
        if alive:
            raise refusal
        if alive is None:
            self._say(f"the last driver ({holder}) is on another machine: waiting {self._stale_s:.0f} s to see whether it is alive")
            deadline = time.monotonic() + self._stale_s
            while time.monotonic() < deadline:
                time.sleep(min(self._beat_s / 2, max(deadline - time.monotonic(), 0)))
                if _latest(self._folder) != (number, holder):
                    if self._released_since(number):
                        return
                    raise refusal
        self._say(f"the last driver ({holder}) is dead: taking over")

    def _released_since(self, number: int) -> bool:
        latest = _latest(self._folder)
        return latest is None or (latest[0] == number and latest[1].released)

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_s):
            try:
                latest = _latest(self._folder)
                if latest is None or latest[0] <= self._number:
                    self._write(released=False)
                    continue
                self._lost = f"{self._folder}: taken over by another driver ({latest[1]}) while this one stood still; it goes on there"
            except StorageError:  # a store that is away for a while: commits will say so if it stays away
                continue
            except RunDirError as error:  # without a beat we would be taken for dead, and worked against
                self._lost = f"{error}; this driver cannot show any more that it is alive, and ends"
            self._end_process()
            return

    def _end_process(self) -> None:
        """As Ctrl-C: it wakes what waits. A shell's background job ignores that, and is ended without more."""
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            self._say(self._lost)
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGTERM)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _write(self, released: bool) -> None:
        self._me = replace(self._me, beats=self._me.beats + 1, released=released)
        self._folder.write(_name(self._number), _to_json(self._me))


def _name(number: int) -> str:
    return f"{number:06d}.json"


def _to_json(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), sort_keys=True).encode()


def _latest(folder: Folder) -> tuple[int, Holder] | None:
    """The driver with the highest number.

    Raises:
        RunDirError: its file is damaged.
    """
    numbers = [int(match[1]) for name in folder.names() if (match := _NUMBERED.fullmatch(name))]
    if not numbers:
        return None
    name = _name(max(numbers))
    try:
        return max(numbers), Holder(**json.loads(folder.read(name)))
    except FileNotFoundError:
        return _latest(folder)  # deleted by one with a higher number
    except (ValueError, TypeError) as error:
        raise RunDirError(f"{folder}/{name}: damaged ({error}); delete it if no driver is at work there") from error


def _this_process() -> Holder:
    pid = os.getpid()
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")  # for people: never compared
    return Holder(
        uuid.uuid4().hex, socket.gethostname(), pid, since, _read(_PROCESS / "sys/kernel/random/boot_id"), _pid_space(), _born(pid)
    )


def _is_alive(holder: Holder, me: Holder) -> bool | None:
    """None where it cannot be looked up: another machine, another container."""
    if not holder.born or (holder.boot, holder.space) != (me.boot, me.space):
        return None
    return _born(holder.pid) == holder.born


def _born(pid: int) -> str:
    """When the process with this id was started, in ticks since the boot; empty for none, and for one that waits to be reaped."""
    fields = _read(_PROCESS / str(pid) / "stat").rpartition(")")[2].split()  # the name in parentheses may hold anything
    return "" if not fields or fields[0] in "ZX" else fields[19]


def _pid_space() -> str:
    with suppress(OSError):
        return os.readlink(_PROCESS / "self/ns/pid")
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
