"""Generate: what is asked, what is recorded, and what becomes of every way a completion can end."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from caco_ray.config import FakeModel, SamplingConfig
from caco_ray.engines import Completion
from caco_ray.errors import ConfigError, EngineError
from caco_ray.prompts import END, render
from caco_ray.schema import CODE_COT, PROBLEM, PROGRAM, SOLUTION, is_measured, row_id, to_table
from caco_ray.seeds.builtin import builtin_seeds
from caco_ray.stages import generate
from caco_ray.stages.generate import Generate, row_seed

SAMPLING = SamplingConfig(temperature=0.8, max_tokens=400, stop=("###",))
SEED = next(builtin_seeds("train"))


class ScriptedEngine:
    """Gives the completions it was made with, in order, and keeps what it was asked."""

    model_id = "scripted"

    def __init__(self, *completions):
        self.completions, self.asked, self.closed = completions, [], False

    def generate(self, prompts, sampling, *, n=1, seeds=None):
        self.asked.append((list(prompts), sampling, n, list(seeds)))
        return [[completion] for completion in self.completions[: len(prompts)]]

    def seed_used(self, seed):
        return seed

    def close(self):
        self.closed = True


def scripted(monkeypatch, role, prompts, *completions):
    engine = ScriptedEngine(*completions)
    monkeypatch.setattr(generate, "build_engine", lambda model, *, path, seed: engine)
    return engine, Generate(role, FakeModel(prompts=prompts), "unused", SAMPLING, seed=7)


def program_rows(count, **columns):
    return [{"row_id": row_id("scale", "scale", n), "parent_id": "scale", "sample_index": n, **columns} for n in range(count)]


def without_times(row):
    return {name: value for name, value in row.items() if not is_measured(name)}


def done(text):
    return Completion(text, "stop", 5, 20)


def test_each_end_of_a_completion_has_its_consequence(monkeypatch):
    completions = [
        done(SEED["code"]),
        Completion(SEED["code"][:40], "length", 5, 400),
        Completion("", "prompt_too_long", 9000, 0),
        Completion("", "error", 0, 0, error="connection refused"),
        done(" \n"),
        done("I would rather not."),
    ]
    _, operator = scripted(monkeypatch, "sample", "trained", *completions)
    table = to_table(program_rows(6), PROGRAM)
    result = operator(table)
    assert result.schema == table.schema and result["row_id"].equals(table["row_id"])
    assert result["reject_reason"].to_pylist() == [None, "truncated", "prompt_too_long", None, "empty_generation", "no_code"]
    assert result["infra_error"].to_pylist() == [None, None, None, "sample: connection refused", None, None]
    assert result["sample_finish"].to_pylist() == ["stop", "length", "prompt_too_long", "error", "stop", "stop"]
    first = result.to_pylist()[0]
    assert first["code"] == SEED["code"]
    assert (first["sample_model"], first["sample_prompt"]) == ("scripted", "sample@1:trained")
    assert (first["sample_prompt_tokens"], first["sample_tokens"]) == (5, 20)


def test_only_live_rows_without_a_result_are_asked_about(monkeypatch):
    """A seed that brings its program is not converted; a rejected one is not asked about."""
    ask = {"question": "Ann has 3 hats and loses 2. How many are left?", "answer": "1"}
    rows = program_rows(4)
    for row in rows:
        del row["sample_index"]
        row.update(ask)
    rows[0]["code"] = "kept as it is"
    rows[1]["reject_reason"] = "no_code"
    rows[2]["infra_error"] = "engine: gone"
    engine, operator = scripted(monkeypatch, "unify", "instruct", done(f"```python\n{SEED['code']}\n```"))
    result = operator(to_table(rows, CODE_COT)).to_pylist()
    assert [row["code"] for row in result] == ["kept as it is", None, None, SEED["code"]]
    ((prompts, _, _, _),) = engine.asked
    assert prompts == [render("unify", "instruct", result[3])]


def test_a_row_without_the_answer_that_its_prompt_shows_is_rejected(monkeypatch):
    """Where the filters that look at answers are off. The trained family shows none."""
    answers = ["4", "", " \n", None, "4"]
    rows = [{**row, "code": SEED["code"], "program_answer": answer} for row, answer in zip(program_rows(5), answers, strict=True)]
    replies = [done("What is 2 + 2, said as a number?")] * 5
    for family, reasons in (
        ("instruct", [None, "output_empty", "output_empty", "output_too_large", None]),
        ("trained", [None] * 5),
    ):
        engine, operator = scripted(monkeypatch, "reverse", family, *replies)
        result = operator(to_table(rows, PROBLEM))
        assert result["reject_reason"].to_pylist() == reasons
        assert len(engine.asked[0][0]) == reasons.count(None)
        assert [tokens is not None for tokens in result["reverse_tokens"].to_pylist()] == [reason is None for reason in reasons]
    engine, operator = scripted(monkeypatch, "reverse", "instruct")
    operator(to_table(rows[1:4], PROBLEM))
    assert engine.asked == []


def test_a_shard_with_nothing_to_ask_does_not_call_the_engine(monkeypatch):
    engine, operator = scripted(monkeypatch, "sample", "trained")
    table = to_table(program_rows(2, reject_reason="no_code"), PROGRAM)
    assert operator(table).equals(table)
    assert engine.asked == []


def test_seeds_are_of_the_row_the_role_and_the_run(monkeypatch):
    engine, operator = scripted(monkeypatch, "sample", "trained", done("x"), done("y"))
    operator(to_table(program_rows(2), PROGRAM))
    operator(to_table(program_rows(2), PROGRAM))
    (_, sampling, n, first), (_, _, _, second) = engine.asked
    assert first == second and len(set(first)) == 2 and n == 1
    assert all(0 <= seed < 2**31 for seed in first)
    assert first[0] == row_seed(7, "sample", row_id("scale", "scale", 0))
    assert row_seed(8, "sample", "a") != row_seed(7, "sample", "a") != row_seed(7, "solve", "a")
    assert sampling.stop == ("###", END)


def test_the_seed_of_an_engine_that_has_one_for_all_rows_is_recorded(monkeypatch):
    engine, operator = scripted(monkeypatch, "sample", "trained", done("x"), done("y"))
    monkeypatch.setattr(engine, "seed_used", lambda seed: 4711)
    assert operator(to_table(program_rows(2), PROGRAM))["sample_seed"].to_pylist() == [4711, 4711]


def test_an_engine_failure_reaches_the_caller(monkeypatch):
    """The rows it held are not at fault: nothing is recorded, the task is tried again."""
    engine, operator = scripted(monkeypatch, "sample", "trained")
    monkeypatch.setattr(engine, "generate", lambda *a, **k: (_ for _ in ()).throw(EngineError("out of device memory")))
    with pytest.raises(EngineError):
        operator(to_table(program_rows(1), PROGRAM))
    operator.close()
    assert engine.closed


def test_a_role_without_a_prompt_is_refused_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(generate, "build_engine", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(ConfigError, match="judge"):
        Generate("judge", FakeModel(prompts="trained"), "unused", SAMPLING, seed=0)


def test_the_roles_pass_their_columns_on_with_the_fake_engine():
    """sample -> reverse -> solve, each from the columns that the one before wrote; several threads share an operator."""
    model = FakeModel()
    sampler = Generate("sample", model, "fake", SAMPLING, seed=0)
    shards = [to_table(program_rows(40)[n::4], PROGRAM) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        programs = [row for table in pool.map(sampler, shards) for row in table.to_pylist()]
    again = [row for table in map(sampler, shards) for row in table.to_pylist()]
    assert [without_times(row) for row in programs] == [without_times(row) for row in again]
    assert all(row["sample_seed"] is not None and row["sample_cpu_s"] >= 0 and row["sample_gpu_s"] == 0 for row in programs)
    good = [row for row in programs if row["reject_reason"] is None]
    assert len(good) >= 20

    problems = Generate("reverse", model, "fake", SAMPLING, seed=0)(to_table(good, PROBLEM)).to_pylist()
    asked = [row for row in problems if row["reject_reason"] is None]
    assert asked and all(row["question"] and row["question_style"] == "trained" for row in asked)

    solved = Generate("solve", model, "fake", SAMPLING, seed=0)(to_table(asked, SOLUTION)).to_pylist()
    assert any(row["solution"] and "boxed" in row["solution"] for row in solved)
    assert {row["solve_prompt"] for row in solved} == {"solve@1:trained"}
    assert {row["sample_prompt"] for row in solved} == {"sample@1:trained"}


def test_what_the_engine_held_is_charged_to_the_rows_by_their_tokens(monkeypatch):
    engine = ScriptedEngine(Completion(SEED["code"], "stop", 10, 89), Completion(SEED["code"], "stop", 10, 189))
    monkeypatch.setattr(generate, "build_engine", lambda model, *, path, seed: engine)
    operator = Generate("sample", FakeModel(gpus=2, cpus=3), "unused", SAMPLING, seed=7)
    short, long = operator(to_table(program_rows(2), PROGRAM)).to_pylist()
    assert long["sample_gpu_s"] == pytest.approx(2 * short["sample_gpu_s"])
    assert long["sample_cpu_s"] == pytest.approx(1.5 * long["sample_gpu_s"])
    assert [short["sample_seed"], long["sample_seed"]] == [row_seed(7, "sample", row["row_id"]) for row in (short, long)]
