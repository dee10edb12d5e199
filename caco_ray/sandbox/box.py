"""The public face: `Sandbox`."""

import contextlib
import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from caco_ray.errors import ConfigError
from caco_ray.sandbox.guest.seal import LEVELS
from caco_ray.sandbox.limits import MAX_WORKERS, Limits
from caco_ray.sandbox.probe import library_paths, strongest
from caco_ray.sandbox.result import ExecutionResult
from caco_ray.sandbox.worker import Setting, Worker


class Sandbox:
    """Runs untrusted programs; a context manager, usable from several threads.

    Args:
        require: the weakest acceptable level, L0..L3; the strongest that the machine gives, up to `at_most`, is used.
        limits: of each program.
        allow_unsafe: needed for `require="L0"`, which isolates nothing.
        workers: programs that run at once in `run_many`, one CPU each; every worker keeps its own warm interpreters
            (about 15 MB for standard-library programs, 85 MB more once a program names numpy or sympy; for each hash seed asked for).
        trap_denied: a denied system call kills the program with SIGSYS instead of giving it an error; shows calls missing from the list.
        huge_pages: let the kernel gather the interpreter's memory into 2 MiB pages.

    Raises:
        ConfigError: an argument is out of range.
        SandboxUnavailableError: the machine does not give the required level; the message names what is missing.
    """

    def __init__(
        self,
        require: str = "L2",
        limits: Limits | None = None,
        allow_unsafe: bool = False,
        workers: int = 1,
        *,
        at_most: str = "L3",
        trap_denied: bool = False,
        huge_pages: bool = True,
    ) -> None:
        _check(require, at_most, allow_unsafe, workers)
        self.limits = limits or Limits()
        readable, site = library_paths()
        at = {level: Setting(level, self.limits, readable, site, trap_denied, huge_pages) for level in LEVELS}
        self._setting = strongest(at, require, at_most)
        self._workers = [Worker(self._setting) for _ in range(workers)]
        self._locks = [threading.Lock() for _ in range(workers)]
        self._closed = False

    @property
    def level(self) -> str:
        """The isolation level in force."""
        return self._setting.level

    @property
    def workers(self) -> int:
        """Programs that `run_many` runs at once."""
        return len(self._workers)

    def run(self, program: str, *, seed: int = 0) -> ExecutionResult:
        """Runs one program. Never raises for anything that the program is or does.

        Args:
            program: Python source; it runs as `__main__`.
            seed: of `random` and `numpy.random`, 64 bits; modulo 3 that of string hashes: each of the three has
                an interpreter of its own, started when first asked for.

        Raises:
            ValueError: the sandbox is closed, or `seed` is out of range.
        """
        for i in itertools.chain(range(1, len(self._workers)), [0]):
            blocking = i == 0
            if self._locks[i].acquire(blocking):
                try:
                    return self._run(i, program, seed)
                finally:
                    self._locks[i].release()
        raise AssertionError("unreachable")

    def _run(self, worker: int, program: str, seed: int) -> ExecutionResult:
        if self._closed:
            raise ValueError("the sandbox is closed")
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"seed={seed}: must be from -2**63 to 2**63 - 1")
        if type(program) is not str:
            return ExecutionResult("error", error=f"TypeError: a program is text, not {type(program).__name__}", level=self.level)
        most = self.limits.source_bytes
        if 4 * len(program) > most and len(program.encode("utf-8", "surrogatepass")) > most:
            return ExecutionResult("error", error=f"ValueError: the program is longer than {most} bytes", level=self.level)
        return self._workers[worker].run(program, seed)

    def run_many(self, programs: Sequence[str], *, seed: int = 0) -> list[ExecutionResult]:
        """Runs all, `workers` at a time; one result per program, in the order given."""
        results: list[ExecutionResult | None] = [None] * len(programs)
        todo = iter(range(len(programs)))
        todo_lock = threading.Lock()

        def drain(worker: int) -> None:
            while True:
                with todo_lock:
                    i = next(todo, None)
                if i is None:
                    return
                with self._locks[worker]:
                    results[i] = self._run(worker, programs[i], seed)

        lanes = min(len(self._workers), len(programs))
        if lanes <= 1:
            drain(0)
        else:
            with ThreadPoolExecutor(lanes) as pool:
                started = []
                for lane in range(1, lanes):
                    with contextlib.suppress(RuntimeError):  # no thread to be had: the others do its part
                        started.append(pool.submit(drain, lane))
                drain(0)
                for lane_end in started:
                    lane_end.result()
        return [result for result in results if result is not None]

    def close(self) -> None:
        """Ends all processes; waits for programs that are running."""
        self._closed = True
        for lock, worker in zip(self._locks, self._workers, strict=True):
            with lock:
                worker.close()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _check(require: str, at_most: str, allow_unsafe: bool, workers: int) -> None:
    for name, level in (("require", require), ("at_most", at_most)):
        if level not in LEVELS:
            raise ConfigError(f"sandbox {name}={level!r}: must be one of {', '.join(LEVELS)}")
    if at_most < require:
        raise ConfigError(f"sandbox at_most={at_most!r}: must not be below require={require!r}")
    if require == "L0" and not allow_unsafe:
        raise ConfigError("sandbox require='L0' isolates nothing: it must be allowed with allow_unsafe=True")
    if type(workers) is not int or not 1 <= workers <= MAX_WORKERS:
        raise ConfigError(f"sandbox workers={workers!r}: must be an integer from 1 to {MAX_WORKERS}")
