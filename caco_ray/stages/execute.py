"""Run every live row's program in the sandbox, twice and more where determinism is asked for."""

import ast
from collections.abc import Callable

import pyarrow as pa

from caco_ray.config import SandboxConfig
from caco_ray.sandbox import ExecutionResult, Sandbox
from caco_ray.schema import Row, is_live, live, reject, to_table
from caco_ray.stages import program
from caco_ray.stages.chance import further_seeds
from caco_ray.stages.clock import reads_clock

_REASONS = {
    "error": "does_not_run",
    "signal": "does_not_run",
    "exited": "does_not_run",
    "protocol_violation": "does_not_run",
    "timeout_cpu": "timeout",
    "timeout_wall": "timeout",
    "oom": "out_of_memory",
    "output_too_large": "output_too_large",
    "no_output": "no_output",
}


class Execute:
    """One operator that owns a sandbox. The second run has another seed for hashes and random numbers; programs that name randomness, or
    sets that may hold strings, are run with further seeds.

    With `margin`, a program that needed over 80 % of its CPU limit in a run is a `timeout` too: a slower machine would end it. Whoever runs
    a program again (`jobs/verify.py`) gives it the whole limit.

    Raises:
        SandboxUnavailableError: this machine cannot give the isolation that `config.require` asks for.
    """

    def __init__(self, config: SandboxConfig, check_determinism: bool, margin: bool = True) -> None:
        self._check_determinism, self._margin = check_determinism, margin
        self.on_program: Callable[[str, float], None] = lambda status, wall_s: None  # told how each run ended, and in what time
        self._sandbox = Sandbox(require=config.require, limits=config.limits(), allow_unsafe=config.allow_unsafe, workers=config.workers)

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        run = list(live(rows))
        for row, result in zip(run, self._run(run, seed=0), strict=True):
            _record(row, result)
            _judge(row, result)
            self._keep_margin(row, result)
        if self._check_determinism:
            read = [(row, program.parse(row["code"])) for row in live(rows)]
            for row, tree in read:
                _refuse_clocks(row, tree)
            self._again(list(live(rows)), seed=1)
            further = [(row, further_seeds(tree)) for row, tree in read if tree is not None and is_live(row)]
            for seed in dict.fromkeys(seed for _, seeds in further for seed in seeds):
                self._again([row for row, seeds in further if seed in seeds and is_live(row)], seed)
        return to_table(rows, table.schema)

    def _again(self, rows: list[Row], seed: int) -> None:
        for row, result in zip(rows, self._run(rows, seed), strict=True):
            _compare(row, result)
            self._keep_margin(row, result)

    def close(self) -> None:
        self._sandbox.close()

    def _keep_margin(self, row: Row, result: ExecutionResult) -> None:
        if self._margin and result.near_limit and is_live(row):
            row["exec_error"] = f"used {result.cpu_s:.3g} s of CPU, over 80 % of the limit: a slower machine would end it"
            reject(row, "timeout")

    def _run(self, rows: list[Row], seed: int) -> list[ExecutionResult]:
        results = self._sandbox.run_many([row["code"] for row in rows], seed=seed) if rows else []
        for result in results:
            self.on_program(result.status, result.wall_s)
        return results


def _record(row: Row, result: ExecutionResult) -> None:
    row["exec_status"] = result.status
    row["exec_error"] = result.error
    row["input_json"] = result.input_json
    row["output_json"] = result.output_json
    row["program_answer"] = result.output_text
    row["cpu_s"] = result.cpu_s
    row["wall_s"] = result.wall_s
    row["sandbox_level"] = result.level


def _judge(row: Row, result: ExecutionResult) -> None:
    if result.status == "sandbox_error":
        row["infra_error"] = f"sandbox: {result.error or 'failed without a message'}"
    elif result.status == "no_output" and result.output_state == "not_plain":
        reject(row, "output_not_plain")
    elif result.status != "ok":
        reject(row, _REASONS[result.status])


def _compare(row: Row, second: ExecutionResult) -> None:
    """A further run that ends otherwise is the program's doing, unless it ran out of time or the sandbox failed."""
    row["cpu_s"] += second.cpu_s
    row["wall_s"] += second.wall_s
    if second.status == "sandbox_error":
        row["infra_error"] = f"sandbox, second run: {second.error or 'failed without a message'}"
    elif second.status in ("timeout_cpu", "timeout_wall"):
        reject(row, "timeout")
    elif (second.status, second.input_json, second.output_json) != ("ok", row["input_json"], row["output_json"]):
        reject(row, "not_deterministic")


def _refuse_clocks(row: Row, tree: ast.Module | None) -> None:
    """What two runs a second apart cannot show: the output follows the date."""
    if tree is not None and reads_clock(tree):
        row["exec_error"] = "reads the clock: another day gives another output"
        reject(row, "not_deterministic")
