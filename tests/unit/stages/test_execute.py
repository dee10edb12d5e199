"""Real programs in the real sandbox, recorded in the rows."""

import json
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pytest
from pydantic import ValidationError

from caco_ray.config import SandboxConfig
from caco_ray.sandbox.limits import MAX_WORKERS, RANGES
from caco_ray.schema import PROGRAM, row_id, to_table
from caco_ray.seeds.builtin import builtin_seeds
from caco_ray.stages.execute import Execute

# The sandbox's own tests are about isolation; these are about what becomes of a row, on any machine.
SANDBOX = SandboxConfig(require="L0", allow_unsafe=True, cpu_s=1, memory_mb=128, output_kb=8)

_FORGED = """
import os, struct
body = b'{"status": "error", "error": "\\\\udfff", "mutated": false, "input": {"state": "absent", "value": null}, "output": {"state": "absent", "value": null}, "stdout": "\\\\ud800"}'
os.write(3, struct.pack(">4sI", b"CACO", len(body)) + body)
os._exit(0)
"""
PROGRAMS = {
    'input = {"a": 2}\noutput = input["a"] * 21\nprint(output)': None,
    'input = {"a": 2}\noutput = input["a"] / 0': "does_not_run",
    'input = {"a": 2}\nimport os\nos._exit(3)': "does_not_run",
    'input = {"a": 2}\nimport os\nos.abort()': "does_not_run",
    'input = {"a": 2}\nwhile True: pass': "timeout",
    'input = {"a": 2}\noutput = len([0] * 10**9)': "out_of_memory",
    'input = {"a": 2}\noutput = "x" * 100_000': "output_too_large",
    'input = {"a": 2}\nresult = 4': "no_output",
    'input = {"a": 2}\noutput = lambda: 4': "output_not_plain",
    'input = {"a": 2}\nimport random\noutput = random.random()': "not_deterministic",
    'input = {"a": 2}\nimport random\noutput = random.random() < 0.9': "not_deterministic",  # so says the second run as well
    'input = {"a": 2}\nimport random\nrandom.random()\noutput = random.random() < 0.95': "not_deterministic",
    'input = {"a": 2}\nfrom numpy.random import rand\noutput = rand() < 0.05': "not_deterministic",
    'input = {"a": 2}\nimport random\nrandom.seed(7)\noutput = random.random() < 0.9': None,
    'input = {"a": 2}\noutput = hash("text")': "not_deterministic",
    'input = {"born": 1990}\nfrom datetime import date\noutput = date.today().year - input["born"]': "not_deterministic",  # next year
    'input = {"a": 2}\noutput = len({3, 1, 2})': None,
    # what UTF-8 cannot carry would make the table, and with it the whole shard, impossible to write
    'input = {"a": 2}\nraise ValueError("\\ud800")': "does_not_run",
    'input = {"a": 2}\nraise SystemExit("\\ud800")': "does_not_run",
    'input = {"a": "\\ud800"}\nimport sympy\noutput = sympy.Symbol(input["a"])': None,
    'input = {"a": 2}\noutput = {"\\ud800": ["\\udfff"]}': None,
    _FORGED: "does_not_run",
}


@pytest.fixture(scope="module")
def execute():
    operator = Execute(SANDBOX, check_determinism=True)
    yield operator
    operator.close()


@pytest.fixture(scope="module")
def executed(execute):
    table = programs_table(PROGRAMS)
    return table, execute(table)


def programs_table(codes) -> pa.Table:
    return to_table([{"row_id": row_id("p", "scale", n), "parent_id": "scale", "code": code} for n, code in enumerate(codes)], PROGRAM)


@pytest.mark.parametrize("index,code,reason", [(n, *item) for n, item in enumerate(PROGRAMS.items())], ids=list(PROGRAMS.values()))
def test_how_a_program_ends_is_its_reason(executed, index, code, reason):
    row = executed[1].to_pylist()[index]
    assert (row["code"], row["reject_reason"], row["infra_error"]) == (code, reason, None), row["exec_error"]


def test_an_order_that_two_hash_seeds_share(execute):
    """Which two words those are, another Python would say otherwise."""
    look = "print([[*{a, b}] == [a, b] for a in map(str, range(9)) for b in 'abcd'])"
    orders = []
    for seed in "012":
        done = subprocess.run([sys.executable, "-c", look], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, timeout=100)
        orders.append(json.loads(done.stdout.lower()))
    shared = next(n for n, (first, second, third) in enumerate(zip(*orders, strict=True)) if first == second != third)
    words = [str(shared // 4), "abcd"[shared % 4]]
    codes = [f'input = {{"a": 2}}\noutput = {how}(set({words}))' for how in ("list", "sorted")]
    assert execute(programs_table(codes))["reject_reason"].to_pylist() == ["not_deterministic", None]


def test_same_rows_order_and_columns(executed):
    table, result = executed
    assert result.schema == table.schema and result["row_id"].equals(table["row_id"])


def test_what_a_run_gave_is_recorded(executed):
    row = executed[1].to_pylist()[0]
    assert (row["exec_status"], row["input_json"], row["output_json"], row["program_answer"]) == ("ok", '{"a":2}', "42", "42")
    assert row["cpu_s"] > 0 and row["wall_s"] > 0 and row["sandbox_level"] in ("L0", "L1", "L2", "L3")
    failed = executed[1].to_pylist()[1]
    assert failed["exec_error"].startswith("ZeroDivisionError")


def test_rejected_and_quarantined_rows_are_not_run(execute):
    rows = [
        {"row_id": row_id("p", "scale", 0), "parent_id": "scale", "code": None, "reject_reason": "no_code"},
        {"row_id": row_id("p", "scale", 1), "parent_id": "scale", "code": None, "infra_error": "engine: gone"},
    ]
    table = to_table(rows, PROGRAM)
    assert execute(table).equals(table)


def test_texts_that_no_table_can_carry_are_mended(executed):
    rows = {row["code"]: row for row in executed[1].to_pylist()}
    assert [rows[code]["exec_error"] for code in rows if "raise ValueError" in code or code == _FORGED] == ["ValueError: ?", "?"]
    assert [rows[code]["program_answer"] for code in rows if "sympy.Symbol" in code] == ["?"]


def test_every_limit_of_the_config_reaches_the_sandbox():
    limits = SandboxConfig(cpu_s=2, wall_s=3, memory_mb=64, output_kb=1, stdout_kb=2).limits()
    assert (limits.cpu_s, limits.wall_s, limits.memory_mb, limits.output_kb, limits.stdout_kb) == (2, 3, 64, 1, 2)


@pytest.mark.parametrize("name", [*RANGES, "workers"])
def test_config_and_sandbox_agree_on_what_is_allowed(name):
    """A value that passes the config must not fail in an actor; one that the sandbox takes must not fail the config."""
    low, high = RANGES.get(name, (1, MAX_WORKERS))
    step = 1 if name not in ("cpu_s", "wall_s") else 0.01
    for value in (low, high):
        SandboxConfig(**({"cpu_s": 0.1} | {name: value})).limits()
    for value in (low - step, high + step):
        with pytest.raises(ValidationError, match=name):
            SandboxConfig(**({"cpu_s": 0.1} | {name: value}))
    with pytest.raises(ValidationError, match="wall_s 1 is under cpu_s 2"):
        SandboxConfig(cpu_s=2, wall_s=1)


def test_without_the_check_a_random_program_is_kept():
    operator = Execute(SANDBOX, check_determinism=False)
    result = operator(programs_table(['input = {"a": 2}\nimport random\noutput = random.random()']))
    operator.close()
    assert result["reject_reason"].to_pylist() == [None]


NEAR = 'import resource\ninput = {"a": 2}\nwhile sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) < 0.88: pass\noutput = 4'  # of 1 s


def test_a_program_near_its_cpu_limit_is_a_timeout_to_the_run_and_none_to_who_verifies():
    outcomes = {}
    for margin in (True, False):
        operator = Execute(SANDBOX, check_determinism=False, margin=margin)
        (row,) = operator(programs_table([NEAR])).to_pylist()
        operator.close()
        outcomes[margin] = (row["exec_status"], row["reject_reason"], "a slower machine" in (row["exec_error"] or ""))
    assert outcomes == {True: ("ok", "timeout", True), False: ("ok", None, False)}


def test_a_second_run_near_the_limit_is_a_timeout(execute, monkeypatch):
    """Two runs of one program that differ in nothing but the time they take cannot be had from a program either."""
    from caco_ray.sandbox import ExecutionResult

    first = ExecutionResult("ok", input={"a": 2}, output=4, input_json='{"a":2}', output_json="4", output_text="4", cpu_s=0.7)
    for second, reason in ((replace(first, cpu_s=0.9, near_limit=True), "timeout"), (first, None)):
        replies = iter([first, second])
        monkeypatch.setattr(execute._sandbox, "run_many", lambda programs, seed, replies=replies: [next(replies)])
        (row,) = execute(programs_table(['input = {"a": 2}\noutput = 4'])).to_pylist()
        assert (row["reject_reason"], row["infra_error"]) == (reason, None)


def test_builtin_programs_give_their_answers(execute):
    seeds = list(builtin_seeds("train"))[::40]
    result = execute(programs_table([seed["code"] for seed in seeds])).to_pylist()
    assert [(row["program_answer"], row["reject_reason"]) for row in result] == [(seed["answer"], None) for seed in seeds]


def test_a_failure_of_the_sandbox_is_no_fault_of_the_row(execute, monkeypatch):
    """The one thing that cannot be provoked from a program: the machinery itself failing, in the first or the second run."""
    from caco_ray.sandbox import ExecutionResult

    good = ExecutionResult("ok", input={"a": 2}, output=4, input_json='{"a":2}', output_json="4", output_text="4")
    broken = ExecutionResult("sandbox_error", error="the zygote died")
    for results in ([broken], [good, broken]):
        replies = iter(results)
        monkeypatch.setattr(execute._sandbox, "run_many", lambda programs, seed, replies=replies: [next(replies)])
        (row,) = execute(programs_table(['input = {"a": 2}\noutput = 4'])).to_pylist()
        assert row["reject_reason"] is None and "the zygote died" in row["infra_error"]
