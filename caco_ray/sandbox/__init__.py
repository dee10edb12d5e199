"""Runs untrusted Python programs and reports what they left behind, fast and sealed off, without privileges.

    with Sandbox(require="L2", limits=Limits(cpu_s=5, memory_mb=512)) as box:
        result = box.run("input = {'n': 6}\\noutput = input['n'] * 7\\nprint(output)")
        result.status, result.output    # ('ok', 42)

A warm interpreter (`guest/zygote.py`), exec'ed with a clean environment, has the standard library, or numpy and sympy too, loaded and
exercised. Each program runs in a fork of it, which seals itself, runs, writes one bounded frame of JSON, and is gone. The status comes from
what the kernel says about the process; the frame is parsed strictly, nothing in it is unpickled or evaluated. Programs cannot open a file
outside the Python library, write any file, start a process, signal anybody, use a socket, or see the environment, the text or the result of
another program.

Levels, found at the start by trying small attacks (`canaries.py`) and recorded in every result:

    L3   own user, network, process, IPC and mount namespaces, the file tree reduced to the Python library, and all of L2
    L2   Landlock, a seccomp allowlist, no capabilities, rlimits, clean environment and descriptors: what a default Kubernetes pod gives
    L1   without Landlock: the allowlist has no call that opens a file, and everything importable is loaded beforehand
    L0   rlimits only, no isolation; has to be asked for with `allow_unsafe=True`

What is not covered: faults of the kernel itself (the allowlist keeps its surface small, no more than that), timing and cache channels, the
existence of files at L2 (`stat` works), the number of threads of a program, which L1 and L2 do not bound (nothing can count those of one
user id apart from its other processes: set the pod's PID limit; at L3 they are bounded, unless root starts it), and a program that forges
its own reply, which is as good as assigning `output`. Memory is bounded per process. Where hostile code is a certainty rather than a risk,
run the pod under gVisor or Kata (`runtimeClassName`), and give the namespace a NetworkPolicy without egress; nothing here depends on them.
Values that derive from `id()`, the clock or the randomness of the system (`os.urandom`, `secrets`, `uuid4`) differ between runs. Programs
have no sockets at all, so that `asyncio` fails, and no shared memory.
"""

from caco_ray.sandbox.box import Sandbox
from caco_ray.sandbox.codec import Symbolic
from caco_ray.sandbox.limits import Limits
from caco_ray.sandbox.result import ExecutionResult

__all__ = ["ExecutionResult", "Limits", "Sandbox", "Symbolic"]
