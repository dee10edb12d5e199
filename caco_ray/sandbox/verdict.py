"""Decides the status of one run. What the kernel reports about the process goes before anything that the process says about itself."""

import os
import signal
from dataclasses import replace

from caco_ray.sandbox.limits import Limits
from caco_ray.sandbox.reply import ProtocolViolationError, read_frame
from caco_ray.sandbox.result import ExecutionResult, Status, clean, text_of, writable
from caco_ray.sandbox.zygote import Ending

_NEAR = 0.8
_FROM_OUTSIDE = {signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2}
_KILLED_AT = 0.9


def judge(ending: Ending, limits: Limits, level: str) -> ExecutionResult:
    """The result of one run.

    A SIGKILL that nobody here sent and that no limit explains is the kernel's out-of-memory killer (a sealed program can signal nobody,
    itself included): `sandbox_error`, since another program may have used the memory. So is a signal that only a person or a supervisor
    sends.
    """
    base = ExecutionResult(
        "ok", cpu_s=ending.cpu_s, wall_s=ending.wall_s, level=level, max_rss_mb=ending.max_rss_kb / 1024,
        near_limit=ending.cpu_s > _NEAR * limits.cpu_s,
    )  # fmt: skip

    def failed(status: Status, error: str) -> ExecutionResult:
        return replace(base, status=status, error=error)

    by_signal = os.WIFSIGNALED(ending.wait_status) and not ending.killed
    signalled = os.WTERMSIG(ending.wait_status) if by_signal else 0
    # The timer counts ticks where rusage counts nanoseconds: a program killed by it may show a little less than the limit.
    if ending.cpu_s >= limits.cpu_s or (signalled == signal.SIGKILL and ending.cpu_s > _KILLED_AT * limits.cpu_s):
        return failed("timeout_cpu", f"used more than {limits.cpu_s:g} s of CPU")
    if ending.timed_out:
        return failed("timeout_wall", f"still running after {limits.deadline_s:g} s")
    if ending.overflow:
        return failed("protocol_violation", "the reply is larger than any honest reply")
    if signalled == signal.SIGKILL and level != "L0":
        return failed("sandbox_error", "killed from outside, probably for the memory limit of the machine or container")
    if signalled in _FROM_OUTSIDE and level != "L0":
        return failed("sandbox_error", f"ended from outside by {signal.Signals(signalled).name}")
    if signalled:
        return failed("signal", signal.Signals(signalled).name)
    return _by_reply(ending, limits, base)


def _by_reply(ending: Ending, limits: Limits, base: ExecutionResult) -> ExecutionResult:
    code = 0 if ending.killed else os.WEXITSTATUS(ending.wait_status)
    if ending.killed and not ending.data:
        return replace(base, status="protocol_violation", error="closed its reply pipe and ran on")
    if not ending.data or code != 0:
        silent = replace(base, status="exited", error=f"left with exit code {code}")
        return silent if code else replace(silent, status="no_output", error="left before its end with exit code 0")
    try:
        reply = read_frame(ending.data, limits.output_kb * 1024, limits.stdout_kb * 1024)
        plain = {name: reply[name]["value"] if reply[name]["state"] == "plain" else None for name in ("input", "output")}
        text = None if plain["output"] is None else text_of(reply["output_value"])
    except (ProtocolViolationError, ValueError, OverflowError, RecursionError) as error:  # of `text_of` too: its value is the forger's
        return replace(base, status="protocol_violation", error=clean(str(error)))
    return replace(
        base, status=reply["status"], error=None if reply["error"] is None else clean(reply["error"]),
        input=reply["input_value"], output=reply["output_value"],
        input_json=plain["input"], output_json=plain["output"], input_state=reply["input"]["state"],
        output_state=reply["output"]["state"], input_mutated=reply["mutated"],
        output_text=text,
        stdout=writable(reply["stdout"]),
    )  # fmt: skip
