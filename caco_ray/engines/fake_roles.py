"""What the fake engine replies: each role of the loop, played in the world of `fake_world` with a fixed share of mistakes.

The role and its material are read from the prompt alone, by the templates of `prompts.py`; built-in problems are known by heart.
"""

import random
import re
from collections.abc import Callable
from functools import cache

from caco_ray.engines import fake_world as world
from caco_ray.engines.base import Prompt
from caco_ray.prompts import PROMPTS, ChatPrompt
from caco_ray.schema import Row
from caco_ray.seeds.builtin import builtin_seeds

# Weights of what goes wrong, in thousandths; the rest goes right.
PROGRAM_FAULTS = {
    "syntax_error": 30,
    "exception": 30,
    "infinite_loop": 5,
    "too_short": 20,
    "unused_key": 40,
    "trivial": 20,
    "random_output": 20,
    "duplicate": 50,
    "truncated": 20,
}
QUESTION_FAULTS = {"misses_values": 40, "truncated": 10}
SOLUTION_FAULTS = {"wrong": 150, "no_final_answer": 50, "truncated": 30}
JUDGE_FAULTS = {"no": 100, "unparsable": 30}

Reply = tuple[str, bool]  # text, and whether the model broke off
Player = Callable[[dict[str, str], random.Random], Reply]


def tokens_of(text: str) -> list[str]:
    """Pieces that join to the text again."""
    return re.findall(r"\s*(?:\w+|[^\w\s])|\s+$", text)


def play(prompt: Prompt, rng: random.Random) -> Reply:
    """Reply to a prompt of `prompts.py` in its role; to any other with a polite sentence."""
    for (role, family), pattern in _patterns().items():
        template = PROMPTS[role, family]
        if isinstance(template, ChatPrompt):
            is_chat = isinstance(prompt, list) and isinstance(prompt[0], dict) and prompt[0]["content"] == template.system
            shown = prompt[-1]["content"] if is_chat and isinstance(prompt[-1], dict) else None
        else:
            shown = prompt if isinstance(prompt, str) else None
        found = pattern.fullmatch(shown) if shown is not None else None
        if found:
            return PLAYERS[role](found.groupdict(), rng)
    return f"Thank you. Here is the number that you asked for: {rng.randrange(10**6)}.", False


@cache
def _patterns() -> dict[tuple[str, str], re.Pattern[str]]:
    """Each template as a pattern whose groups are its placeholders."""
    texts = {key: prompt.user if isinstance(prompt, ChatPrompt) else prompt.text for key, prompt in PROMPTS.items()}
    pieces = {key: re.split(r"\$([a-z_]+)", text) for key, text in texts.items()}
    return {
        key: re.compile("".join(f"(?P<{piece}>.*?)" if i % 2 else re.escape(piece) for i, piece in enumerate(parts)), re.DOTALL)
        for key, parts in pieces.items()
    }


@cache
def _solved() -> dict[str, Row]:
    """The built-in problems by question: what the fake model has learned by heart."""
    return {seed["question"]: seed for split in ("train", "heldout") for seed in builtin_seeds(split)}


def _mistake(faults: dict[str, int], rng: random.Random) -> str | None:
    return rng.choices([None, *faults], weights=[1000 - sum(faults.values()), *faults.values()])[0]


def _break_off(text: str, rng: random.Random) -> Reply:
    tokens = tokens_of(text)
    return "".join(tokens[: rng.randint(1, max(1, len(tokens) - 2))]), True


def sample(_: dict[str, str], rng: random.Random) -> Reply:
    fault = _mistake(PROGRAM_FAULTS, rng)
    story = world.draw(random.Random(rng.randrange(5)) if fault == "duplicate" else rng)
    code = world.to_program(story)
    if fault == "truncated":
        return _break_off(code, rng)
    return (SPOILERS[fault](code, story) if fault in SPOILERS else code), False


def _spoil_return(code: str, statement: str) -> str:
    return re.sub(r"return .*", statement, code, count=1)


def _before_return(code: str, lines: str) -> str:
    return code.replace("    return ", f"{lines}\n    return ", 1)


def _too_short(_: str, story: world.Story) -> str:
    return f'input = {{"a": {story.start}, "b": {story.steps[0].value}}}\noutput = input["a"] + input["b"]\nprint(output)'


def _unused_key(code: str, _: world.Story) -> str:
    return code.replace("}\n", ', "spare": 7}\n', 1).replace("):\n", ", spare):\n", 1)


def _infinite_loop(code: str, story: world.Story) -> str:
    return _before_return(code, f"    while total == total:\n        total = total + {story.thing}")


SPOILERS: dict[str | None, Callable[[str, world.Story], str]] = {
    "syntax_error": lambda code, _: code.replace("):\n", ":\n", 1),
    "exception": lambda code, _: _before_return(code, "    total = total // (total - total)"),
    "infinite_loop": _infinite_loop,
    "too_short": _too_short,
    "unused_key": _unused_key,
    "trivial": lambda code, _: _spoil_return(code, "return 42"),
    "random_output": lambda code, _: "import random\n\n" + _spoil_return(code, "return total + random.randrange(10**9)"),
}


def unify(shown: dict[str, str], rng: random.Random) -> Reply:
    seed, story = _solved().get(shown["question"]), world.from_question(shown["question"])
    if seed is None and story is None:
        return "I do not know how to solve this problem.", False
    code = seed["code"] if seed else world.to_program(story) if story else ""
    return f"```python\n{code}\n```", False


def reverse(shown: dict[str, str], rng: random.Random) -> Reply:
    story, fault = world.from_program(shown["code"]), _mistake(QUESTION_FAULTS, rng)
    question = world.to_question(story, rng.choice(world.PEOPLE)) if story else _any_question(shown["code"])
    if fault == "truncated":
        return _break_off(question, rng)
    if fault == "misses_values":
        question = re.sub(r"\d+", "some", question)
    return (f"<problem>\n{question}\n</problem>" if "program_answer" in shown else question), False


def _any_question(code: str) -> str:
    values = world.input_of(code) or {}
    given = "; ".join(f"the {key.replace('_', ' ')} is {value}" for key, value in values.items()) or "nothing else is known"
    return f"In a small exercise {given}. What is the result that follows from this?"


def solve(shown: dict[str, str], rng: random.Random) -> Reply:
    seed, story = _solved().get(shown["question"]), world.from_question(shown["question"])
    fault = _mistake(SOLUTION_FAULTS, rng)
    if seed is None and story is None:
        return "The problem does not say enough to be solved.", False
    reasoning = world.to_solution(story) if story else str(seed["cot"] if seed else "").split(" The answer is ")[0]
    if fault == "truncated":
        return _break_off(reasoning, rng)
    if fault == "no_final_answer":
        return reasoning, False
    answer = story.answer if story else str(seed["answer"] if seed else "")
    return f"{reasoning} The answer is \\boxed{{{_spoil_answer(answer) if fault == 'wrong' else answer}}}.", False


def _spoil_answer(answer: str) -> str:
    swapped = {"Yes": "No", "No": "Yes"}.get(answer)
    return swapped or (re.sub(r"\d+$", lambda found: str(int(found[0]) + 1), answer) if answer[-1].isdigit() else f"not {answer}")


def judge(shown: dict[str, str], rng: random.Random) -> Reply:
    fault = _mistake(JUDGE_FAULTS, rng)
    if fault == "unparsable":
        return "That is hard to say.", False
    verdict = "no" if fault == "no" else "yes"
    return f"Reason: The steps {'do not ' if verdict == 'no' else ''}follow the program.\nVerdict: {verdict}", False


PLAYERS: dict[str, Player] = {"sample": sample, "unify": unify, "reverse": reverse, "solve": solve, "judge": judge}
