"""No more solutions of a problem are drawn than it takes to have one that agrees."""

from functools import partial

import pytest

from caco_ray.config import FakeModel, SamplingConfig
from caco_ray.engines import Completion
from caco_ray.schema import SOLUTION, row_id, to_table
from caco_ray.stages import generate
from caco_ray.stages.agreement import Agreement
from caco_ray.stages.generate import Generate
from caco_ray.stages.solve_in_turn import SolveInTurn

SAMPLES = 3
# What the samples of each problem would say; every answer is 12.
SAID = {"first": ("12", "9", "9"), "second": ("9", "12", "9"), "never": ("9", "8", "8"), "broken": (None, "12", "9")}


class Solver:
    """Answers each row as `SAID` has it, and counts."""

    model_id = "scripted"

    def __init__(self):
        self.asked = []
        self.closed = False

    def generate(self, prompts, sampling, *, n=1, seeds=None):
        replies = []
        for prompt in prompts:
            problem = next(name for name in SAID if name in prompt)
            said = SAID[problem][sum(name == problem for name in self.asked)]
            self.asked.append(problem)
            done = Completion(rf"so \\boxed{{{said}}}.", "stop", 5, 7)
            replies.append([Completion("", "error", 0, 0, error="lost") if said is None else done])
        return replies

    def seed_used(self, seed):
        return seed

    def close(self):
        self.closed = True

    def stats(self):
        return None


@pytest.fixture
def solver(monkeypatch):
    engine = Solver()
    monkeypatch.setattr(generate, "build_engine", lambda model, *, path, seed: engine)
    return engine


def test_draws_until_one_agrees_and_counts_what_was_drawn(solver):
    make_solver = partial(Generate, "solve", FakeModel(), None, SamplingConfig(temperature=1), 0)
    operator = SolveInTurn(make_solver, partial(Agreement, samples=SAMPLES))
    rows = [
        {"row_id": row_id(name, "solve", index), "parent_id": name, "question": f"The {name} problem?", "output_json": "12"}
        for name in SAID
        for index in range(SAMPLES)
    ]
    table = to_table(rows, SOLUTION)
    result = operator.complete(operator(table))
    operator.close()
    assert solver.closed
    assert result.schema == table.schema and result["row_id"].equals(table["row_id"])
    assert {name: solver.asked.count(name) for name in SAID} == {"first": 1, "second": 2, "never": 3, "broken": 2}
    done = result.to_pylist()
    wrong, skipped = "answer_disagrees", "solved_already"
    assert [row["reject_reason"] for row in done] == [
        None, skipped, skipped, wrong, None, skipped, wrong, wrong, wrong, None, None, skipped
    ]  # fmt: skip
    assert [row["infra_error"] is not None for row in done] == [False] * 9 + [True, False, False]
    votes = {row["parent_id"]: (row["solve_samples"], row["solve_pass_rate"], row["solve_majority"]) for row in done}
    assert votes == {"first": (1, 1.0, "12"), "second": (2, 0.5, "9"), "never": (3, 0.0, "8"), "broken": (1, 1.0, "12")}
    assert all(row["solve_tokens"] is None for row in done if row["reject_reason"] == skipped)
