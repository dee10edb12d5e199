"""The small world of the fake engine: stories of a number of things that changes step by step.

A story can be told as a Code CoT program, as a question and as a solution; programs and questions can be read back. So each role of
the loop finds in its prompt what it needs, as a model does, and nothing is ever run. `draw` makes thousands of different stories.
"""

import ast
import operator
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

THINGS = ("apples", "books", "coins", "stamps", "marbles", "tickets", "pencils", "shells", "candles", "bricks", "lamps", "seeds")
PEOPLE = ("Mia", "Omar", "Lena", "Ravi", "Sofia", "Kenji", "Amara", "Tomas", "Ines", "Bao")


@dataclass(frozen=True)
class Kind:
    """One way in which the number changes: its operator in code, its sentence in words, and the words that name its value."""

    symbol: str
    apply: Callable[[int, int], int]
    sentence: str
    words: tuple[str, ...]


KINDS: dict[str, Kind] = {
    "add": Kind("+", operator.add, "Then {value} more are {word}.", ("bought", "found", "received", "collected")),
    "subtract": Kind("-", operator.sub, "Then {value} are {word}.", ("sold", "lost", "broken", "returned")),
    "multiply": Kind("*", operator.mul, "The same is done again in each of {value} {word} in all.", ("days", "shops", "towns", "schools")),
    "divide": Kind("//", operator.floordiv, "They are shared among {value} {word}; one full share is kept.", ("friends", "teams", "clubs")),
    "remainder": Kind("%", operator.mod, "They are packed in {word} of {value}, and those left over are kept.", ("bags", "crates", "rows")),
}
FINALS: dict[str, tuple[str, str]] = {  # what is asked: the expression in code, the sentence in words
    "number": ("total", "How many {thing} are there at the end?"),
    "even": ("total % 2 == 0", "Is the number of {thing} at the end even, yes or no?"),
    "history": ("history", "What are the numbers of {thing} after each change, in order?"),
}


@dataclass(frozen=True)
class Step:
    kind: str
    word: str
    value: int


@dataclass(frozen=True)
class Story:
    thing: str
    start: int
    steps: tuple[Step, ...]
    final: str

    @property
    def history(self) -> list[int]:
        """The number after each step."""
        numbers, total = [], self.start
        for step in self.steps:
            total = KINDS[step.kind].apply(total, step.value)
            numbers.append(total)
        return numbers

    @property
    def answer(self) -> str:
        """The answer as a person would write it."""
        if self.final == "history":
            return ", ".join(map(str, self.history))
        last = self.history[-1]
        return ("Yes" if last % 2 == 0 else "No") if self.final == "even" else str(last)


def draw(rng: random.Random) -> Story:
    """A new story of two to four steps whose numbers stay positive."""
    start = total = rng.randint(20, 999)
    steps: list[Step] = []
    for kind in rng.choices(list(KINDS), weights=(6, 5, 4, 2, 1), k=rng.randint(2, 4)):
        free = [word for word in KINDS[kind].words if word not in {step.word for step in steps}]
        value = _value(kind, total, rng)
        steps.append(Step(kind, rng.choice(free or list(KINDS[kind].words)), value))
        total = KINDS[kind].apply(total, value)
        if not free or total < 1:
            steps.pop()
            break
    steps = steps or [Step("add", "found", rng.randint(2, 500))]
    return Story(rng.choice(THINGS), start, tuple(steps), rng.choices(list(FINALS), weights=(8, 1, 1))[0])


def _value(kind: str, total: int, rng: random.Random) -> int:
    if kind == "add":
        return rng.randint(2, 500)
    return rng.randint(1, max(1, total - 1)) if kind == "subtract" else rng.randint(2, 9)


def to_program(story: Story) -> str:
    """The story as a Code CoT program: dict `input`, commented steps, `output`, print."""
    values = {story.thing: story.start, **{step.word: step.value for step in story.steps}}
    keep_history = story.final == "history"
    lines = [
        f"input = {values!r}".replace("'", '"'),
        "",
        f"def solve({', '.join(values)}):",
        f"    # Step 1: Start with the number of {story.thing}.",
        f"    total = {story.thing}",
        *(["    history = []"] if keep_history else []),
    ]
    for number, step in enumerate(story.steps, 2):
        lines.append(f"    # Step {number}: Take the {step.word} into account ({step.kind}).")
        lines.append(f"    total = total {KINDS[step.kind].symbol} {step.word}")
        lines += ["    history.append(total)"] if keep_history else []
    return "\n".join([*lines, f"    return {FINALS[story.final][0]}", "", "output = solve(**input)", "print(output)"])


def from_program(code: str) -> Story | None:
    """The story of a program that this world wrote, faulty ones included as far as their steps can be read."""
    values = input_of(code)
    start = re.search(r"^    total = ([a-z]+)$", code, re.MULTILINE)
    final = re.search(r"^    return (.+)$", code, re.MULTILINE)
    kinds = {kind.symbol: name for name, kind in KINDS.items()}
    found = re.findall(r"^    total = total (\S+) ([a-z]+)$", code, re.MULTILINE)
    if not values or not start or not final or not found:
        return None
    try:
        steps = tuple(Step(kinds[symbol], word, values[word]) for symbol, word in found)
        asked = {expression: name for name, (expression, _) in FINALS.items()}[final.group(1)]
        return Story(start.group(1), values[start.group(1)], steps, asked)
    except KeyError:
        return None


def input_of(code: str) -> dict[str, Any] | None:
    """The literal dict that the first line `input = {...}` assigns."""
    line = re.search(r"^input = (\{.*\})$", code, re.MULTILINE)
    try:
        value = ast.literal_eval(line.group(1)) if line else None
    except (ValueError, SyntaxError):
        return None
    return value if isinstance(value, dict) else None


def to_question(story: Story, person: str) -> str:
    """The story as a question that states every value."""
    sentences = [f"{person} looks after {story.start} {story.thing}."]
    sentences += [KINDS[step.kind].sentence.format(value=step.value, word=step.word) for step in story.steps]
    return " ".join([*sentences, FINALS[story.final][1].format(thing=story.thing)])


def from_question(question: str) -> Story | None:
    """The story of a question that this world wrote."""
    opening = re.match(r"\w+ looks after (\d+) (\w+)\. ", question)
    if not opening:
        return None
    thing = opening.group(2)
    asked = {sentence.format(thing=thing): name for name, (_, sentence) in FINALS.items()}
    body = next((question[opening.end() : -len(sentence)] for sentence in asked if question.endswith(sentence)), None)
    steps = tuple(_read_step(sentence) for sentence in re.findall(r"[^.]+\.", body or ""))
    if not steps or None in steps:
        return None
    final = next(name for sentence, name in asked.items() if question.endswith(sentence))
    return Story(thing, int(opening.group(1)), tuple(step for step in steps if step), final)


def _read_step(sentence: str) -> Step | None:
    for name, kind in KINDS.items():
        pattern = re.escape(kind.sentence).replace(r"\{value\}", r"(?P<value>\d+)").replace(r"\{word\}", r"(?P<word>\w+)")
        if found := re.fullmatch(pattern, sentence.strip()):
            return Step(name, found["word"], int(found["value"]))
    return None


def to_solution(story: Story) -> str:
    """The story solved in words, without the final sentence."""
    total, sentences = story.start, [f"We start with {story.start} {story.thing}."]
    for step, after in zip(story.steps, story.history, strict=True):
        symbol = {"//": "divided by", "%": "modulo"}.get(KINDS[step.kind].symbol, KINDS[step.kind].symbol)
        sentences.append(f"After the step with {step.value} {step.word} there are {total} {symbol} {step.value} = {after}.")
        total = after
    return " ".join(sentences)
