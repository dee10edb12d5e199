"""What the sandbox costs. Prints one JSON line last; every ratio compares things measured in turns in one run, pinned to one core.

    python tests/benchmarks/bench_sandbox.py [--rounds 3] [--soak N]

mix_ratio, stdlib_ratio, sympy_ratio      programs per CPU-second over one process and one manager per program (the authors' approach)
stdlib_ratio_preloaded, sympy_ratio_preloaded  the same over an improved version of it whose parent has numpy and sympy loaded and warm
protection_overhead                       CPU of a trivial program at the strongest level over level L0, same interpreter, less 1
trivial_over_fork_floor                   CPU of a trivial program over a bare fork, _exit and wait of the same warm interpreter
two_core_scaling                          wall-clock throughput of two workers on two cores over twice that of one
two_core_spin_scaling                     the same of plain loops, in turns with it: below 1 the machine had other work, or shares its cores
kill_latency_ms                           longest time from a wall-clock deadline to the result in hand, over sleepers, spinners and memory hogs
"""

import argparse
import json
import multiprocessing as mp
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]
from caco_ray.sandbox import Limits, Sandbox  # noqa: E402
from tests.benchmarks.sandbox_programs import STDLIB, SYMPY, TRIVIAL, TRIVIAL_FULL  # noqa: E402

_TICK = os.sysconf("SC_CLK_TCK")


def family_cpu_s() -> float:
    """CPU seconds of this process and all below it, living or reaped."""
    total, todo = 0.0, [os.getpid()]
    while todo:
        pid = todo.pop()
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += sum(map(int, fields[11:15])) / _TICK
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            todo += map(int, task.read_text().split())
    return total


def per_cpu_s(run: Callable[[], int]) -> float:
    """Programs per CPU-second; `run` returns how many it ran."""
    before = family_cpu_s()
    return run() / (family_cpu_s() - before)


def _worker(program: str, shared: Any) -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(program, scope)
        shared["input"], shared["output"] = scope.get("input"), scope.get("output")
    except Exception as error:
        shared["error"] = str(error)


def managed(program: str, timeout_s: float = 5) -> dict[str, Any]:
    """One forked process and one manager process per program, no isolation: how the method's published script runs programs."""
    with mp.Manager() as manager:
        shared = manager.dict()
        process = mp.Process(target=_worker, args=(program, shared))
        process.start()
        process.join(timeout_s)
        if process.is_alive():
            process.terminate()
            process.join()
        return dict(shared)


def managed_rate(programs: str, preloaded: bool) -> float:
    """Programs per CPU-second of `managed`, in a process of its own: what one program leaves in the parent must not help another kind."""
    code = (
        f"import sys; sys.path[:0] = {sys.path[:2]!r}\nimport bench_sandbox as b, contextlib, io, os\n"
        + ("from caco_ray.sandbox.guest import preload; preload.load('full', False)\n" if preloaded else "")
        + f"programs = b.{programs}\nsys.stdout = open(os.devnull, 'w')\n"
        "rate = b.per_cpu_s(lambda: b.run_managed(programs))\nprint(rate, file=sys.__stdout__)"
    )
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def run_managed(programs: list[str]) -> int:
    """How many it ran."""
    assert all("output" in managed(program) for program in programs)
    return len(programs)


def run_boxed(box: Sandbox, programs: list[str], repeat: int = 1) -> int:
    for _ in range(repeat):
        assert all(result.status == "ok" for result in box.run_many(programs))
    return len(programs) * repeat


def fork_floor(n: int = 300) -> float:
    """CPU seconds of a bare fork + _exit + wait in an interpreter prepared as ours are; in a process of its own."""
    code = (
        "import os, resource, sys; from caco_ray.sandbox.guest import preload; preload.load('full', False); preload.settle()\n"
        "def cpu():\n    return sum(r.ru_utime + r.ru_stime for r in map(resource.getrusage, (0, -1)))\n"
        f"for part in ('warm', 'measured'):\n    before = cpu()\n    for _ in range({n}):\n        pid = os.fork()\n"
        f"        if pid == 0: os._exit(0)\n        os.waitpid(pid, 0)\nprint((cpu() - before) / {n})"
    )
    environment = {
        "PYTHONPATH": sys.path[0],
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }
    return float(subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True).stdout)


def kill_latency_ms() -> float:
    """Longest over several programs, of one attempt each; what the fork costs is in it."""
    hogs = [
        "import time\ntime.sleep(99)",
        "while True: pass",
        "x = bytearray(200 << 20)\nx[::4096] = b'x' * len(x[::4096])\nwhile True: pass",
    ]
    worst = 0.0
    deadline_s = 0.6
    with Sandbox(limits=Limits(cpu_s=0.6, wall_s=deadline_s)) as box:
        (worker,) = box._workers  # `box.run` would try again after a timeout
        worker.attempt(TRIVIAL, 0)
        for program in hogs * 3:
            started = time.perf_counter()
            status = worker.attempt(program, 0).status
            worst = max(worst, time.perf_counter() - started - deadline_s)
            assert status in ("timeout_wall", "timeout_cpu"), status
    return 1000 * worst


def spin(processes: int) -> float:
    """Wall-clock seconds of as many plain loops at once."""
    code = "t = 0\nfor i in range(6_000_000): t += i"
    started = time.perf_counter()
    running = [subprocess.Popen([sys.executable, "-S", "-c", code]) for _ in range(processes)]
    assert all(process.wait() == 0 for process in running)
    return time.perf_counter() - started


def scaling(rounds: int) -> tuple[float, float]:
    """Two workers on two cores against one worker on one; and what plain loops get out of the two cores meanwhile."""
    if len(os.sched_getaffinity(0)) < 2:
        return float("nan"), float("nan")
    programs = (STDLIB + SYMPY) * 4
    found, plain = [], []
    for _ in range(rounds):
        rates = []
        for used in (1, 2):
            with Sandbox(workers=used) as box:
                run_boxed(box, programs[: 60 * used])
                started = time.perf_counter()
                run_boxed(box, programs)
                rates.append(len(programs) / (time.perf_counter() - started))
        found.append(rates[1] / rates[0] / 2)
        plain.append(spin(1) / spin(2))
    return statistics.median(found), statistics.median(plain)


def rates(rounds: int) -> dict[str, float]:
    """Medians over rounds, everything in turns, on one core."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with Sandbox() as box, Sandbox("L0", allow_unsafe=True, at_most="L0") as bare:
        print(f"level {box.level}", file=sys.stderr)
        for one in (box, bare):
            run_boxed(one, [*STDLIB, *SYMPY, TRIVIAL, TRIVIAL_FULL])
        for _ in range(rounds):
            note("stdlib", per_cpu_s(lambda: run_boxed(box, STDLIB, 10)))
            note("stdlib_managed", managed_rate("STDLIB", False))
            note("sympy", per_cpu_s(lambda: run_boxed(box, SYMPY, 3)))
            note("sympy_managed", managed_rate("SYMPY", False))
            note("stdlib_preloaded", managed_rate("STDLIB", True))
            note("sympy_preloaded", managed_rate("SYMPY", True))
            for _ in range(3):
                note("trivial", per_cpu_s(lambda: run_boxed(box, [TRIVIAL] * 400)))
                note("trivial_full", per_cpu_s(lambda: run_boxed(box, [TRIVIAL_FULL] * 400)))
                note("trivial_bare", per_cpu_s(lambda: run_boxed(bare, [TRIVIAL] * 400)))
                note("trivial_full_bare", per_cpu_s(lambda: run_boxed(bare, [TRIVIAL_FULL] * 400)))
                note("fork_floor", 1 / fork_floor())
    return {name: statistics.median(values) for name, values in found.items()}


def bench(rounds: int) -> dict[str, object]:
    """All figures."""
    cores = os.sched_getaffinity(0)
    r = rates(rounds)
    os.sched_setaffinity(0, cores)
    boxed, plain = scaling(rounds)

    def mix(kind: str) -> float:
        return 2 / (1 / r["stdlib" + kind] + 1 / r["sympy" + kind])

    return {
        "mix_ratio": round(mix("") / mix("_managed"), 2),
        "stdlib_ratio": round(r["stdlib"] / r["stdlib_managed"], 2),
        "sympy_ratio": round(r["sympy"] / r["sympy_managed"], 2),
        "stdlib_ratio_preloaded": round(r["stdlib"] / r["stdlib_preloaded"], 2),
        "sympy_ratio_preloaded": round(r["sympy"] / r["sympy_preloaded"], 2),
        "protection_overhead": round(r["trivial_full_bare"] / r["trivial_full"] - 1, 3),
        "protection_overhead_light": round(r["trivial_bare"] / r["trivial"] - 1, 3),
        "trivial_over_fork_floor": round(r["fork_floor"] / r["trivial_full"], 2),
        "two_core_scaling": round(boxed, 3),
        "two_core_spin_scaling": round(plain, 3),
        "kill_latency_ms": round(kill_latency_ms(), 1),
        "programs_per_cpu_s": {name: round(value, 1) for name, value in r.items()},
    }


def soak(n: int) -> dict[str, object]:
    """Runs `n` programs, hostile ones among them; nothing may pile up. Exits with 1 where something does."""
    bad = [
        "import os\nos._exit(3)",
        "1/0",
        "import os\nos.closerange(3, 9)\nos._exit(1)",
        "print('x' * 10**6)",
        "x = bytearray(1 << 40)",
        "import os\nos.fork()",
    ]
    batch = (STDLIB * 5 + bad) * 4
    right = dict.fromkeys(batch)
    with Sandbox(workers=len(os.sched_getaffinity(0)), limits=Limits(cpu_s=10)) as box:
        for program in right:
            right[program] = box.run(program).output_json
        box.run_many(batch)
        descriptors, rss, done, wrong = len(os.listdir("/proc/self/fd")), _rss_kb(), 0, 0
        while done < n:
            results = box.run_many(batch)
            done += len(results)
            wrong += sum(result.output_json != right[program] for program, result in zip(batch, results, strict=True))
        grown = _rss_kb() / rss - 1
        report: dict[str, object] = {
            "programs": done,
            "wrong": wrong,
            "descriptors_grown": len(os.listdir("/proc/self/fd")) - descriptors,
            "rss_grown": round(grown, 4),
            "zombies": _zombies(),
        }
    if report["wrong"] or report["descriptors_grown"] or report["zombies"] or grown >= 0.05:
        print(json.dumps(report))
        sys.exit(1)
    return report


def _rss_kb() -> int:
    """Resident memory of this process and all below it."""
    total, todo = 0, [os.getpid()]
    while todo:
        pid = todo.pop()
        total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() // 1024
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            todo += map(int, task.read_text().split())
    return total


def _zombies() -> int:
    return sum(" Z " in stat.read_text() for stat in Path("/proc").glob("[0-9]*/stat") if stat.exists())


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description="Measure the sandbox.")
    parser.add_argument("--rounds", type=int, default=3, help="repeats of every measurement (default %(default)s)")
    parser.add_argument("--soak", type=int, metavar="N", help="run N programs instead, and check that nothing piles up")
    args = parser.parse_args()
    print(json.dumps(soak(args.soak) if args.soak else bench(args.rounds)))


if __name__ == "__main__":
    main()
