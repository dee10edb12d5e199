"""Is the memory of our GPUs free? A process that was killed, or that is none of Ray's, may still hold it when the next model is to load.

Asked of `nvidia-smi`, which opens no device. Where that is missing or does not tell (MIG slices), vLLM's own look at the memory decides.
"""

import math
import os
import subprocess
import time
from dataclasses import dataclass

from caco_ray.errors import ClusterError, ConfigError

_LOOK_S = 1.0
_ANSWER_S = 30  # of nvidia-smi, which is slow where no process keeps the driver loaded


@dataclass(frozen=True)
class Device:
    """One GPU; bytes. `reserved`: what the driver keeps for itself."""

    uuid: str
    name: str
    free: int
    total: int
    reserved: int = 0

    def __str__(self) -> str:
        return f"{self.uuid} ({self.name}): {_gib(self.free)} of {_gib(self.total)} are free"


def wait_for_memory(fraction: float, timeout_s: float) -> None:
    """Wait until so much of each of this process's GPUs is free (what vLLM asks for when it loads a model).

    Raises:
        ConfigError: it never will be: the driver keeps too much.
        ClusterError: it is not in time; says which processes hold how much.
    """
    deadline = time.monotonic() + timeout_s
    while taken := [device for device in visible_devices() if device.free < fraction * device.total]:
        _check_driver(taken[0], fraction)
        if time.monotonic() >= deadline:
            raise ClusterError(
                f"GPU {taken[0]} after {timeout_s:g} s, gpu_memory_fraction={fraction:g} wants {_gib(fraction * taken[0].total)}; "
                f"held by {_holders(taken[0])}. End what holds it, or give a smaller gpu_memory_fraction"
            )
        time.sleep(_LOOK_S)


def visible_devices() -> list[Device]:
    """Those of `CUDA_VISIBLE_DEVICES`, in which Ray names an actor's own; all where it is not set."""
    rows = _ask("--query-gpu=uuid,name,memory.free,memory.total,memory.reserved")
    return [
        Device(uuid, name, int(free) << 20, int(total) << 20, int(reserved) << 20 if reserved.isdigit() else 0)
        for uuid, name, free, total, reserved in rows
        if free.isdigit() and total.isdigit()
    ]


def _check_driver(device: Device, fraction: float) -> None:
    most = 1 - device.reserved / device.total
    if fraction > most:
        raise ConfigError(
            f"gpu_memory_fraction={fraction:g}: the driver keeps {_gib(device.reserved)} of the {_gib(device.total)} of GPU {device.uuid} "
            f"for itself; give at most {math.floor(100 * most) / 100:g}"
        )


def _holders(device: Device) -> str:
    rows = [row for row in _ask("--query-compute-apps=gpu_uuid,pid,process_name,used_memory") if row[0] == device.uuid]
    named = [f"pid {pid} ({name}, {used} MiB)" for _, pid, name, used in rows]
    return ", ".join(named) or "processes that cannot be seen from here (another container)"


def _ask(query: str) -> list[list[str]]:
    """Rows of an answer; none where there is no driver."""
    mine = os.environ.get("CUDA_VISIBLE_DEVICES")
    if mine is not None and (not mine or "MIG" in mine):
        return []
    only = ["-i", mine] if mine else []
    try:
        said = subprocess.run(
            ["nvidia-smi", *only, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=_ANSWER_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    fields = query.count(",")
    return [[field.strip() for field in line.split(",")] for line in said.stdout.splitlines() if line.count(",") == fields]


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.1f} GiB"
