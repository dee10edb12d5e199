"""File operations under a scheduler: every one is a point where the process may die, the power may fail, or another writer goes on.

`World` runs writers as threads, one at a time. Before each file operation a writer hands over to the scheduler, which picks who goes on.
A crash is an exception at that point, and every later operation of the same writer fails too, as that of a dead process would.
A power cut moreover takes back what was not synced: bytes of files, and names in folders.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem


class Crash(BaseException):
    """The process is gone."""


class World:
    """`schedule`: which writer takes the next step, modulo those that can; exhausted, the first that can. `crash_at`: writer -> operation
    before which it dies. `lose_reply_at`: the writer's operation that is carried out, but ends in its death before it hears of it."""

    def __init__(self, schedule: Sequence[int], crash_at: dict[int, int], half_write: bool = False) -> None:
        self._schedule, self._crash_at, self.half_write = iter(schedule), crash_at, half_write
        self._turn = threading.Condition()
        self._running: int | None = None
        self._ready: set[int] = set()
        self._writers: dict[int, int] = {}  # thread -> writer
        self._steps: dict[int, int] = {}
        self._left = 0
        self.dead: set[int] = set()
        self.undo: list[tuple[str, Callable[[], None]]] = []  # folder or file that was not synced, how to take it back

    def run(self, writers: Sequence[Callable[[], None]]) -> list[BaseException]:
        """Run them all to their ends or deaths. Errors that are not deaths are handed back."""
        errors: list[BaseException] = []
        self._left = len(writers)
        threads = [threading.Thread(target=self._live, args=(number, work, errors)) for number, work in enumerate(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "the simulation hangs"
        return errors

    def step(self) -> bool:
        """A file operation is about to happen. Raises `Crash` where the writer dies; true where it is to die in the middle."""
        writer = self._writers.get(threading.get_ident())
        if writer is None:
            return False  # the test itself looks
        self._wait_for_turn(writer)
        if writer in self.dead:
            raise Crash
        self._steps[writer] = self._steps.get(writer, 0) + 1
        if self._steps[writer] == self._crash_at.get(writer):
            self.dead.add(writer)
            if self.half_write:
                return True
            raise Crash
        return False

    def _live(self, number: int, work: Callable[[], None], errors: list[BaseException]) -> None:
        self._writers[threading.get_ident()] = number
        try:
            work()
        except Crash:
            pass
        except BaseException as error:
            errors.append(error)
        finally:
            with self._turn:
                self._left -= 1
                if self._running == number:
                    self._running = None
                self._choose()

    def _wait_for_turn(self, writer: int) -> None:
        with self._turn:
            if self._running == writer:
                self._running = None
            self._ready.add(writer)
            self._choose()
            self._turn.wait_for(lambda: self._running == writer)

    def _choose(self) -> None:
        """Pick who goes on, once all writers that live wait for it."""
        if self._running is None and self._ready and len(self._ready) == self._left:
            ready = sorted(self._ready)
            self._running = ready[next(self._schedule, 0) % len(ready)]
            self._ready.discard(self._running)
        self._turn.notify_all()


class CrashingOs:
    """The module `os` for `store.disk`. Unsynced work is remembered, to be taken back by a power cut."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._paths: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            self._world.step()
            self._forgettable(os.path.dirname(path), lambda: _unlink(path))
        descriptor = os.open(path, flags, mode)
        self._paths[descriptor] = path
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        dies = self._world.step()
        path = self._paths[descriptor]
        written = os.write(descriptor, data[: len(data) // 2] if dies else data)
        self._forgettable(path, lambda: _truncate(path))
        if dies:
            raise Crash
        return written

    def fsync(self, descriptor: int) -> None:
        self._world.step()
        path = self._paths[descriptor]
        self._world.undo = [item for item in self._world.undo if item[0] != path]

    def close(self, descriptor: int) -> None:
        self._paths.pop(descriptor, None)
        os.close(descriptor)  # the kernel does it for the dead

    def link(self, path: str, target: str) -> None:
        self._do(lambda: os.link(path, target))
        self._forgettable(os.path.dirname(target), lambda: _unlink(target))

    def replace(self, path: str, target: str) -> None:
        before = _content(target)
        self._do(lambda: os.replace(path, target))
        self._forgettable(os.path.dirname(target), lambda: _put(target, before))

    def unlink(self, path: str) -> None:
        before = _content(path)
        self._do(lambda: os.unlink(path))
        self._forgettable(os.path.dirname(path), lambda: _put(path, before))

    def mkdir(self, path: str) -> None:
        self._do(lambda: os.mkdir(path))

    def listdir(self, path: str) -> list[str]:
        self._world.step()
        return os.listdir(path)

    def _do(self, operation: Callable[[], None]) -> None:
        dies = self._world.step()
        operation()
        if dies:
            raise Crash  # carried out, but the process does not hear of it

    def _forgettable(self, synced_with: str, undo: Callable[[], None]) -> None:
        self._world.undo.append((synced_with, undo))


def power_cut(world: World, lost: Iterator[bool]) -> None:
    """Take back what was not synced, each thing or not as `lost` says, the latest first."""
    for _, undo in reversed(world.undo):
        if next(lost, False):
            undo()


class CrashingStore(MemoryFileSystem):
    """An object store: every request is carried out wholly or not at all, and its reply may be lost with the process."""

    protocol = "crashing"
    store: dict[str, Any] = {}  # noqa: RUF012 (as fsspec's own)
    pseudo_dirs = [""]  # noqa: RUF012
    world: World | None = None

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._do(lambda: MemoryFileSystem.pipe_file(self, path, value, mode=mode))

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        self._do(lambda: MemoryFileSystem.rm(self, path, recursive=recursive, maxdepth=maxdepth))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        return bytes(MemoryFileSystem.cat_file(self, path, start, end))

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        if self.world is not None:
            self.world.step()
        return list(MemoryFileSystem.ls(self, path, detail=detail))

    def _do(self, operation: Callable[[], None]) -> None:
        dies = self.world.step() if self.world is not None else False
        operation()
        if dies:
            raise Crash


def _content(path: str) -> bytes | None:
    with suppress(FileNotFoundError), open(path, "rb") as file:
        return file.read()
    return None


def _put(path: str, content: bytes | None) -> None:
    if content is None:
        _unlink(path)
    else:
        with open(path, "wb") as file:
            file.write(content)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _truncate(path: str) -> None:
    with suppress(FileNotFoundError):
        os.truncate(path, 0)
