"""The sandbox as the pipeline runs it: an actor of a real local Ray, killed in the middle of a program."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from caco_ray.config import SandboxConfig
from caco_ray.operators import executor, task
from caco_ray.sandbox import Sandbox
from caco_ray.schema import PROGRAM, to_table
from caco_ray.source import SampleRange
from caco_ray.stage import Stage, run_stage
from caco_ray.store import Dataset, Folder, StageInfo


def slow_programs(table: pa.Table) -> pa.Table:
    """All are quick but one."""
    code = 'input = {{"n": {n}}}\nimport time\ntime.sleep({wait})\noutput = input["n"] * 2'
    rows = table.to_pylist()
    for row in rows:
        row["code"] = code.format(n=row["sample_index"], wait=2 if row["sample_index"] == 2 else 0)
    return to_table(rows, table.schema)


def interpreters() -> dict[int, int]:
    """Pid of each warm interpreter below this process -> pid of its owner."""
    found = {}
    todo = [os.getpid()]
    while todo:
        parent = todo.pop()
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                kids = [int(kid) for kid in children.read_text().split()]
            except OSError:
                continue
            todo += kids
            found |= {kid: parent for kid in kids if is_interpreter(kid)}
    return found


def is_interpreter(pid: int) -> bool:
    try:
        return b"sandbox.guest.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def until(condition: Callable[[], object], what: str) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"never happened: {what}")


def depth(pid: int, owners: dict[int, int]) -> int:
    """How many interpreters there are from the actor's child to this one."""
    return 1 + depth(owners[pid], owners) if owners.get(pid) in owners else 1


def test_the_operator_says_what_it_takes() -> None:
    operator = executor(SandboxConfig(workers=3, actors=2, memory_mb=300), check_determinism=True)
    assert (operator.cpus, operator.actors, operator.gpus) == (3, 2, 0)
    one = executor(SandboxConfig(memory_mb=300), check_determinism=True)
    assert operator.memory_mb == 3 * one.memory_mb and one.cpus == 1


def test_the_declared_memory_is_enough() -> None:
    """Of the interpreters, both kinds with both hash seeds, by what the kernel counts for each; and of a program that uses all it may."""
    config = SandboxConfig(memory_mb=64)
    before = set(interpreters())
    with Sandbox(limits=config.limits()) as box:
        for program in ("output = 1", "output = 1  # sympy"):
            for seed in (0, 1):
                assert box.run(program, seed=seed).status == "ok"
        try:
            maps = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in set(interpreters()) - before]
        except OSError:
            pytest.skip("this user may not look at the memory of sealed processes")
        used_mb = sum(int(line.split()[1]) for text in maps for line in text.splitlines() if line.startswith("Pss:")) / 1024
    assert len(maps) >= 4
    assert used_mb + config.memory_mb < executor(config, check_determinism=True).memory_mb


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_actor_leaves_no_orphan_and_loses_no_row(tmp_path: Path) -> None:
    with Sandbox() as box:
        program_depth = 3 if box.level == "L3" else 2  # there the interpreter has a guardian
    source = SampleRange("scale", 10, 5, PROGRAM)
    operators = (task("programs", slow_programs), executor(SandboxConfig(memory_mb=128), check_determinism=False))
    stage = Stage(StageInfo("scale", "f", {}, source.shards), Folder(str(tmp_path / "programs")), source, operators, PROGRAM)
    before = set(interpreters())
    orphaned: dict[int, int] = {}
    failure: list[BaseException] = []

    def programs() -> set[int]:
        owners = {pid: owner for pid, owner in interpreters().items() if pid not in before}
        return {pid for pid in owners if depth(pid, owners) == program_depth}

    def slow_one() -> bool:
        seen = programs()
        time.sleep(0.5)
        return bool(seen & programs())

    def kill_the_actor() -> None:
        try:
            until(slow_one, "the slow program runs in the actor")
            orphaned.update({pid: owner for pid, owner in interpreters().items() if pid not in before})
            (actor,) = set(orphaned.values()) - set(orphaned)
            os.kill(actor, signal.SIGKILL)
        except BaseException as error:
            failure.append(error)

    killer = threading.Thread(target=kill_the_actor)
    killer.start()
    totals = run_stage(stage, lambda entry: None)
    killer.join()
    assert failure == [] and len(orphaned) >= program_depth
    rows = sorted(Dataset(stage.folder).rows(kept_only=False), key=lambda row: row["sample_index"])
    assert (totals.rows_in, totals.kept, totals.rejected) == (10, 10, {})
    assert [(row["sample_index"], row["program_answer"], row["infra_error"]) for row in rows] == [(n, str(2 * n), None) for n in range(10)]
    until(lambda: not any(is_interpreter(pid) for pid in orphaned), "the interpreters end with their actor")
    until(lambda: not set(interpreters()) - before, "those of the second actor end with the stage")
