"""The public face: `Sandbox`."""

import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from caco_ray.errors import ConfigError, SandboxUnavailableError
from caco_ray.sandbox.limits import Limits
from caco_ray.sandbox.reply import ProtocolViolationError, frame_limit, read_frame
from caco_ray.sandbox.result import ExecutionResult, text_of

_ROOT = str(Path(__file__).parents[2])
_BOOT = """
import sys, resource, os
root, site, seed, cpu, mem, out, std, fd = sys.argv[1:]
sys.path += [site]; sys.path.insert(0, root)
from caco_ray.sandbox.guest.program import run_program
from caco_ray.sandbox.guest.frame import write_frame
sys.path.remove(root)
source = sys.stdin.buffer.read()
try: import numpy
except ImportError: pass
vm = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
for k, v in ((resource.RLIMIT_CPU, int(cpu)), (resource.RLIMIT_AS, vm + int(mem) * 2**20), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(k, (v, v))
write_frame(int(fd), run_program(source, seed=int(seed), output_bytes=int(out), stdout_bytes=int(std)))
os._exit(0)
"""


class Sandbox:
    """Runs programs; a context manager."""

    def __init__(self, require: str = "L2", limits: Limits | None = None, allow_unsafe: bool = False, workers: int = 1) -> None:
        if require not in ("L0", "L1", "L2", "L3"):
            raise ConfigError(f"sandbox level {require!r}: must be one of L0, L1, L2, L3")
        if require == "L0" and not allow_unsafe:
            raise ConfigError("sandbox level L0 gives no isolation: it needs allow_unsafe=True")
        self.limits = limits or Limits()
        self.level = "L0"
        self.workers = workers
        spec = find_spec("numpy")
        if spec is None or spec.origin is None:
            raise SandboxUnavailableError("numpy is not installed")
        self._site = str(Path(spec.origin).parents[1])

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends all processes."""

    def run_many(self, programs: Sequence[str], *, seed: int = 0) -> list[ExecutionResult]:
        """One result per program, in order."""
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda program: self.run(program, seed=seed), programs))

    def run(self, program: str, *, seed: int = 0) -> ExecutionResult:
        """Runs one program."""
        if not isinstance(program, str):
            return ExecutionResult("error", error=f"TypeError: a program is text, not {type(program).__name__}", level=self.level)
        limits, out, std = self.limits, self.limits.output_kb * 1024, self.limits.stdout_kb * 1024
        read_end, write_end = os.pipe()
        numbers = [str(x) for x in (seed, int(limits.cpu_s + 1.999), limits.memory_mb, out, std, write_end)]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOOT, _ROOT, self._site, *numbers], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, pass_fds=[write_end], start_new_session=True, cwd="/",
            env={"PYTHONHASHSEED": str(seed % 2), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TZ": "UTC", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        os.close(write_end)
        timed_out = False
        data = b""
        try:
            assert child.stdin is not None
            child.stdin.write(program.encode("utf-8", "surrogatepass"))
            child.stdin.close()
        except BrokenPipeError:
            pass
        with selectors.DefaultSelector() as selector:
            selector.register(read_end, selectors.EVENT_READ)
            while len(data) <= frame_limit(out, std):
                if not selector.select(max(0, started + limits.deadline_s - time.monotonic())):
                    timed_out = True
                    break
                chunk = os.read(read_end, 65536)
                if not chunk:
                    break
                data += chunk
        os.close(read_end)
        if timed_out or len(data) > frame_limit(out, std):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        wall = time.monotonic() - started
        base = {"cpu_s": cpu, "wall_s": wall, "level": self.level}
        if timed_out:
            return ExecutionResult("timeout_wall", error="wall-clock limit", **base)
        if code < 0:
            return ExecutionResult("timeout_cpu" if cpu >= limits.cpu_s else "signal", error=signal.Signals(-code).name, **base)
        if not data:
            return ExecutionResult("no_output" if code == 0 else "exited", error=f"exit code {code}", **base)
        try:
            reply = read_frame(data, out, std)
        except ProtocolViolationError as error:
            return ExecutionResult("protocol_violation", error=str(error), **base)
        status = "timeout_cpu" if cpu >= limits.cpu_s + 1 else reply["status"]
        plain = {n: reply[n]["value"] if reply[n]["state"] == "plain" else None for n in ("input", "output")}
        return ExecutionResult(
            status, input=reply["input_value"], output=reply["output_value"], input_json=plain["input"], output_json=plain["output"],
            output_text=text_of(reply["output_value"]) if plain["output"] is not None else None,
            stdout=reply["stdout"].encode("utf-8", "replace").decode(), error=reply["error"], input_state=reply["input"]["state"],
            output_state=reply["output"]["state"], input_mutated=reply["mutated"], **base,
        )  # fmt: skip
