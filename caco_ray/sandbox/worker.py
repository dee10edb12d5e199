"""One lane of a sandbox: its warm interpreters, replaced on any surprise, and the rules for trying a program again."""

import contextlib
import re
from dataclasses import dataclass, replace

from caco_ray.errors import SandboxUnavailableError
from caco_ray.sandbox.guest.frame import READY
from caco_ray.sandbox.limits import Limits
from caco_ray.sandbox.reply import frame_limit
from caco_ray.sandbox.result import ExecutionResult, clean
from caco_ray.sandbox.verdict import judge
from caco_ray.sandbox.zygote import Zygote, ZygoteError

_RECYCLE_AFTER = 20_000  # programs per interpreter
_HASH_SEEDS = 3
_SCIENCE = re.compile(r"numpy|sympy|scipy|mpmath|pandas|networkx")


@dataclass(frozen=True)
class Setting:
    """What all interpreters of a sandbox share. readable: files and folders that programs may read; site: where packages are."""

    level: str
    limits: Limits
    readable: tuple[str, ...]
    site: tuple[str, ...]
    trap: bool = False
    huge_pages: bool = True

    def config(self, profile: str) -> dict[str, object]:
        """For the zygote."""
        limits = self.limits
        return {
            "level": self.level, "profile": profile, "readable": self.readable, "site": self.site, "trap": self.trap,
            "huge_pages": self.huge_pages, "memory_mb": limits.memory_mb, "cpu_s": limits.cpu_s,
            "output_bytes": limits.output_kb * 1024, "stdout_bytes": limits.stdout_kb * 1024,
        }  # fmt: skip


def profile_of(program: str) -> str:
    """`full` where the text names a scientific package, else `light`: its fork costs a quarter. A wrong guess is slower, never wrong,
    except where nothing can be imported (L1)."""
    return "full" if _SCIENCE.search(program) else "light"


class Worker:
    """Runs one program at a time."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._zygotes: dict[tuple[str, int], Zygote] = {}

    def zygote(self, profile: str, hash_seed: int) -> Zygote:
        """The warm interpreter of this kind, started if need be.

        Raises:
            SandboxUnavailableError: it does not start.
        """
        key = (profile, hash_seed)
        held = self._zygotes.get(key)
        if held is not None and held.served >= _RECYCLE_AFTER:
            self._discard(key)
        if key not in self._zygotes:
            self._zygotes[key] = Zygote(self.setting.config(profile), hash_seed)
        return self._zygotes[key]

    def _discard(self, key: tuple[str, int]) -> None:
        self._zygotes.pop(key).close()

    def run(self, program: str, seed: int) -> ExecutionResult:
        """Runs it; a wall-clock timeout and a failure of the machinery are tried once more."""
        result = self.attempt(program, seed)
        if result.status in ("timeout_wall", "sandbox_error"):
            result = replace(self.attempt(program, seed), attempts=2)
        return result

    def attempt(self, program: str, seed: int) -> ExecutionResult:
        """Runs it once."""
        setting, limits = self.setting, self.setting.limits
        key = (profile_of(program), seed % _HASH_SEEDS)
        most = frame_limit(limits.output_kb * 1024, limits.stdout_kb * 1024) + len(READY)
        try:
            ending = self.zygote(*key).run(program.encode("utf-8", "surrogatepass"), seed, limits.deadline_s, most)
        except (ZygoteError, SandboxUnavailableError) as error:
            if key in self._zygotes:
                self._discard(key)
            return ExecutionResult("sandbox_error", error=clean(str(error)), level=setting.level)
        except BaseException:  # interrupted half-way: the conversation with the interpreter is out of step
            if key in self._zygotes:
                self._discard(key)
            raise
        return judge(ending, limits, setting.level)

    def close(self) -> None:
        """Ends the interpreters."""
        for key in list(self._zygotes):
            with contextlib.suppress(OSError):
                self._discard(key)
