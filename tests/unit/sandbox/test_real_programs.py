"""Programs that people and models wrote, with known results: all right, and not one system call denied (a denied call would kill with SIGSYS)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caco_ray.sandbox import Limits, Sandbox


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(limits=Limits(cpu_s=20), workers=2, trap_denied=True) as made:
        yield made


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / name
    if not path.exists():
        pytest.skip(f"{path.name} is not among the shared data sets")
    return [json.loads(line) for line in path.read_text().splitlines()]


def failures(box: Sandbox, programs: list[str], expected: list[Any]) -> list[str]:
    results = box.run_many(programs)
    found = []
    for i, (result, value) in enumerate(zip(results, expected, strict=True)):
        if result.status != "ok" or result.output != value:
            found.append(f"{i}: {result.status} {result.error} {result.output!r}, expected {value!r}")
    return found


def test_cruxeval(box: Sandbox, shared_data: Path) -> None:
    data = rows(shared_data, "cruxeval/cruxeval_first400.jsonl")
    programs = [f"{row['code']}\noutput = f({row['input']}) == ({row['output']})" for row in data]
    assert len(programs) == 400
    assert failures(box, programs, [True] * len(programs)) == []


def test_mbpp(box: Sandbox, shared_data: Path) -> None:
    data = rows(shared_data, "mbpp/mbpp.jsonl")
    programs = ["\n".join([row["code"], row["test_setup_code"], *row["test_list"], "output = True"]) for row in data]
    assert failures(box, programs, [True] * len(programs)) == []


def test_humaneval(box: Sandbox, shared_data: Path) -> None:
    data = rows(shared_data, "humaneval/HumanEval.jsonl")
    programs = [f"{r['prompt']}{r['canonical_solution']}\n{r['test']}\ncheck({r['entry_point']})\noutput = True" for r in data]
    assert len(programs) == 164
    assert failures(box, programs, [True] * len(programs)) == []


def test_svamp_programs_give_the_recorded_values(box: Sandbox, shared_data: Path) -> None:
    data = [row for row in rows(shared_data, "pot_svamp/svamp_fewshot_outputs.jsonl") if row["executed"] is not None]
    assert len(data) == 998
    results = box.run_many([f"{row['generated'][0]}\noutput = ans" for row in data])
    found = [
        f"{i}: {result.status} {result.error} {result.output!r}, expected {row['executed']!r}"
        for i, (row, result) in enumerate(zip(data, results, strict=True))
        if result.status != "ok" or abs(abs(float(result.output)) - float(row["executed"])) > 1e-6  # recorded without its sign
    ]
    assert found == []
