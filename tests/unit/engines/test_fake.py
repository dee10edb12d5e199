"""The fake engine plays every role from the prompt alone, and its world holds together."""

import random
from collections import Counter

import pytest

from caco_ray.config import FakeModel, SamplingConfig
from caco_ray.engines.fake import FakeEngine
from caco_ray.engines.fake_roles import PROGRAM_FAULTS
from caco_ray.engines.fake_world import draw, from_program, from_question, to_program, to_question, to_solution
from caco_ray.prompts import PROGRAM_TURN, render
from caco_ray.sandbox import Limits, Sandbox
from caco_ray.seeds.builtin import builtin_seeds

WARM = SamplingConfig(temperature=0.9)
STORIES = [draw(random.Random(seed)) for seed in range(500)]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(FakeModel(), seed=0)


def ask(engine: FakeEngine, prompts: list, seed: int = 0) -> list[str]:
    return [reply[0].text for reply in engine.generate(prompts, WARM, seeds=range(seed, seed + len(prompts)))]


def test_stories_survive_being_told() -> None:
    for story in STORIES:
        assert from_program(to_program(story)) == story
        assert from_question(to_question(story, "Mia")) == story


def test_programs_compute_the_answers_of_their_stories() -> None:
    stories = STORIES[:60]
    with Sandbox(require="L0", limits=Limits(), allow_unsafe=True) as box:
        results = box.run_many([to_program(story) for story in stories])
    for story, result in zip(stories, results, strict=True):
        last = story.history[-1]
        assert result.output == {"number": last, "even": last % 2 == 0, "history": story.history}[story.final]


def test_solutions_end_their_reasoning_at_the_last_number() -> None:
    for story in STORIES:
        assert to_solution(story).endswith(f"= {story.history[-1]}.")


def test_programs_are_many_and_faults_are_a_few(engine: FakeEngine) -> None:
    replies = engine.generate([PROGRAM_TURN] * 2000, WARM, seeds=range(2000))
    codes = [reply[0].text for reply in replies]
    read = [from_program(code) for code in codes]
    assert len(set(codes)) > 1700
    assert Counter(codes).most_common(1)[0][1] > 3  # duplicates are there to be found
    assert sum(story is not None for story in read) / 2000 > 1 - (sum(PROGRAM_FAULTS.values()) + 60) / 1000
    assert 10 <= sum(reply[0].finish_reason == "length" for reply in replies) <= 80
    for sign in ('"spare": 7', "return 42", "random.randrange", "// (total - total)", 'input["b"]', "while total == total"):
        assert any(sign in code for code in codes), sign


def test_the_loop_closes_from_program_to_agreeing_answer(engine: FakeEngine) -> None:
    rows = [{"row_id": str(index), "code": to_program(story)} for index, story in enumerate(STORIES)]
    questions = ask(engine, [render("reverse", "trained", row) for row in rows])
    solutions = ask(engine, [render("solve", "trained", {"row_id": "0", "question": question}) for question in questions])
    right = sum(f"\\boxed{{{story.answer}}}" in solution for story, solution in zip(STORIES, solutions, strict=True))
    assert 0.6 < right / len(STORIES) < 0.9


def test_plays_the_instruct_prompts_too(engine: FakeEngine) -> None:
    story = STORIES[0]
    row = {"row_id": "0", "code": to_program(story), "program_answer": story.answer, "question": to_question(story, "Mia")}
    row |= {"solution": to_solution(story), "answer": story.answer}
    unified, reversed_, judged = ask(engine, [render(role, "instruct", row) for role in ("unify", "reverse", "judge")], seed=3)
    assert unified == f"```python\n{to_program(story)}\n```"
    assert reversed_.startswith("<problem>\n") and reversed_.endswith("\n</problem>")
    assert judged.endswith("Verdict: yes")


def test_knows_the_built_in_problems(engine: FakeEngine) -> None:
    seeds = list(builtin_seeds("heldout"))
    solutions = ask(engine, [render("solve", "alpaca", {**seed, "row_id": "0"}) for seed in seeds])
    right = sum(f"\\boxed{{{seed['answer']}}}" in solution for seed, solution in zip(seeds, solutions, strict=True))
    assert 0.5 < right / len(seeds) < 1


def test_replies_depend_on_seed_and_prompt_alone() -> None:
    one, other = FakeEngine(FakeModel(), seed=1), FakeEngine(FakeModel(), seed=2)
    other.generate([PROGRAM_TURN] * 3, WARM)
    assert ask(one, [PROGRAM_TURN] * 5) == ask(other, [PROGRAM_TURN] * 5)
    assert one.generate([PROGRAM_TURN], WARM) != other.generate([PROGRAM_TURN], WARM)
