"""Every prompt, as a named constant with a version; data sets record the `name@version:family` of each row's prompts.

    trained    raw text in ChatML roles of our own, for models that this project fine-tuned: no instruction is needed.
               Sampling after an empty `program` header is the unconditional sampling of the paper.
    instruct   chat messages for general instruct models. The paper's texts are not public: these are ours.
    alpaca     the student's form, one text in training and in evaluation (the authors' template `alpaca1`).

`solve` never shows the program: a solver that sees it copies it (paper, language CoT). Change a text, raise its version.
"""

import hashlib
from dataclasses import dataclass
from string import Template
from typing import Literal

from caco_ray.errors import ConfigError, StageContractError
from caco_ray.schema import Row

Role = Literal["unify", "sample", "reverse", "solve", "judge"]
Family = Literal["instruct", "trained", "alpaca"]
Prompt = str | list[dict[str, str]]  # raw text, or chat messages (`role`, `content`)

START = "<|im_start|>"  # opens every turn of the family "trained"
END = "<|im_end|>"  # ends every turn; the last one of a learned sequence gives way to the tokenizer's own end, see raw_text.py


@dataclass(frozen=True)
class Segment:
    """A piece of a training sequence; the loss counts where `learn` is true, and teaches `role`."""

    text: str
    learn: bool
    role: Role | None = None


@dataclass(frozen=True)
class TextPrompt:
    version: int
    text: str


@dataclass(frozen=True)
class ChatPrompt:
    version: int
    system: str
    user: str


# Family "trained": the three turns of our fine-tuned models.

PROGRAM_TURN = f"{START}program\n"
QUESTION_TURN = f"{START}question\n"
SOLUTION_TURN = f"{START}solution\n"

SAMPLE_TRAINED = TextPrompt(1, PROGRAM_TURN)
REVERSE_TRAINED = TextPrompt(1, f"{PROGRAM_TURN}$code{END}\n{QUESTION_TURN}")
SOLVE_TRAINED = TextPrompt(1, f"{QUESTION_TURN}$question{END}\n{SOLUTION_TURN}")

# Family "alpaca": no system text, nothing after the header.

SOLVE_ALPACA = TextPrompt(1, "### Instruction:\n$question\n\n### Response:\n")

# Family "instruct".

UNIFY_INSTRUCT = ChatPrompt(
    1,
    system="You turn solved problems into short, exact Python programs whose comments explain the reasoning.",
    user="""Write a Python program that solves the problem below and prints its answer.

The program has exactly this shape:
1. `input = {...}`: a dict literal that holds every value which the problem states, under descriptive names. No value
   of the problem appears anywhere else.
2. A function `solve` whose parameters are the keys of `input`. Each step of the reasoning is a comment `# Step N: ...`
   followed by the code of that step. Every parameter is used. Compute the answer; never write it down as a constant.
3. `output = solve(**input)` and then `print(output)`.

Rules: plain values only (numbers, strings, booleans, lists); exact arithmetic where the answer is exact (integers,
fractions.Fraction, sympy); the standard library, sympy and numpy may be imported; no files, no network, no randomness,
no reading from the keyboard; at least six lines of code besides comments; no rounding unless the problem asks for it.

Example
Problem: Mia buys 4 notebooks at 3 dollars each and pays with a 20 dollar note. How much change does she get?
```python
input = {"notebooks": 4, "price": 3, "paid": 20}

def solve(notebooks, price, paid):
    # Step 1: The cost of all notebooks.
    cost = notebooks * price
    # Step 2: The change is what she paid minus the cost.
    change = paid - cost
    return change

output = solve(**input)
print(output)
```

Problem: $question
Known solution: $cot
Known answer: $answer

Reply with one Python code block and nothing else.""",
)

REVERSE_INSTRUCT = ChatPrompt(
    2,
    system="You write clear, self-contained problems for a book of exercises.",
    user="""The program below solves a problem. Write that problem.

```python
$code
```
It prints: $program_answer

The problem must
- be solvable by a reader who sees your text alone, with exactly one right answer: what the program prints;
- state every value of `input`, written as it is (you may write a number with its unit, or 0.25 as 25%);
- fix everything that the program assumes: what is counted, the order, ties, whether ends are included, how the answer
  is rounded;
- ask one question, and say in which form the answer is wanted where that is not obvious (a list, yes or no, a fraction,
  a unit);
- not state, hint at or bound the answer;
- not mention a program, code, functions, variables, dictionaries, arguments or names such as `input` and `output`;
- make sense: quantities that a reader can believe, whole things counted in whole numbers.

Style: $style
Author: $persona, who takes the scene from a world that they know where the style leaves room for it, and does not speak of themselves

Reply with the problem between <problem> and </problem> and nothing else.""",
)

SOLVE_INSTRUCT = ChatPrompt(
    1,
    system="You solve problems carefully, in plain language.",
    user="""$question

Reason step by step in words and formulas, without writing code. Keep exact values; round only if the problem asks for
it. End with one line that gives nothing but the final answer in the form \\boxed{...}: a plain value without a unit;
a list as its items separated by commas; a yes-or-no answer as Yes or No.""",
)

JUDGE_INSTRUCT = ChatPrompt(
    1,
    system="You check exercises before they are printed. You are strict and brief.",
    user="""A problem, the program that was used to make it, and a written solution follow.

Problem:
$question

Program:
```python
$code
```
It prints: $program_answer

Solution:
$solution

Say yes only if all of these hold:
1. The problem states all that is needed, contradicts nothing, and asks for what the program computes.
2. Every step of the solution is valid, and none is a guess or jumps to a result.
3. The solution follows the same logic as the program (another valid order or method of the same calculation is fine),
   and its final answer is the value that the program prints.

Reply with exactly two lines:
Reason: <one sentence>
Verdict: <yes or no>""",
)

# How a question is told, and by whom. One of each is drawn for each row by its id, so that a retried task asks for the same.
STYLES: dict[str, str] = {
    "textbook": "a plain textbook exercise: short sentences, no story",
    "everyday": "a scene of everyday life (shopping, cooking, travel, sports) with named people",
    "workplace": "a task at work (a workshop, a farm, an office, a hospital) told by somebody who needs the result",
    "science": "a small observation or measurement in a laboratory or in nature",
    "puzzle": "a puzzle for a curious reader, playful but exact",
    "competition": "a competition problem: formal, dense, precise definitions",
    "teacher": "a teacher who asks the class, in simple words for young students",
    "history": "set in another time or place, with quantities that fit it",
    "dialogue": "two people talk; the last line of the talk asks the question",
    "data": "a brief report that lists its figures first and asks its question at the end",
}
PERSONAS: dict[str, str] = {
    "baker": "a baker",
    "carpenter": "a carpenter",
    "nurse": "a nurse on a ward",
    "farmer": "a farmer",
    "coach": "the coach of a youth team",
    "librarian": "a librarian",
    "engineer": "an engineer who plans bridges and pumps",
    "astronomer": "an astronomer",
    "shopkeeper": "the owner of a small shop",
    "sailor": "a sailor",
    "musician": "a musician",
    "gardener": "a gardener",
    "driver": "the driver of a delivery van",
    "games": "a maker of board games",
}

PROMPTS: dict[tuple[str, str], TextPrompt | ChatPrompt] = {
    ("unify", "instruct"): UNIFY_INSTRUCT,
    ("sample", "trained"): SAMPLE_TRAINED,
    ("reverse", "trained"): REVERSE_TRAINED,
    ("reverse", "instruct"): REVERSE_INSTRUCT,
    ("solve", "trained"): SOLVE_TRAINED,
    ("solve", "instruct"): SOLVE_INSTRUCT,
    ("solve", "alpaca"): SOLVE_ALPACA,
    ("judge", "instruct"): JUDGE_INSTRUCT,
}

# Text at which a raw-text family stops. A base model that has not learned to end its turn goes on with the next header.
STOPS: dict[str, tuple[str, ...]] = {"instruct": (), "trained": (END,), "alpaca": (END, "\n### Instruction:")}

_FIELDS = ("code", "question", "cot", "answer", "program_answer", "solution")


def shown(role: Role, family: Family) -> frozenset[str]:
    """Columns whose values the prompt shows.

    Raises:
        ConfigError: there is no such prompt.
    """
    prompt = _find(role, family)
    text = prompt.text if isinstance(prompt, TextPrompt) else prompt.user
    return frozenset(Template(text).get_identifiers()).intersection(_FIELDS)


def render(role: Role, family: Family, row: Row) -> Prompt:
    """The prompt of one row: raw text, or chat messages for the family "instruct".

    Raises:
        ConfigError: there is no such prompt.
        StageContractError: the row lacks a value that the prompt shows.
    """
    prompt = _find(role, family)
    values = {name: _plain(row[name]) for name in _FIELDS if row.get(name)}
    values.setdefault("cot", "(none)")  # the only one that a seed may lack
    if family == "instruct":
        style, persona = question_style(family, row).split("/")
        values |= {"style": STYLES[style], "persona": PERSONAS[persona]}
    try:
        if isinstance(prompt, TextPrompt):
            return Template(prompt.text).substitute(values)
        user = Template(prompt.user).substitute(values)
    except KeyError as error:
        raise StageContractError(f"row {row['row_id']}: the prompt of {role} needs the column {error}") from None
    return [{"role": "system", "content": prompt.system}, {"role": "user", "content": user}]


def prompt_name(role: Role, family: Family) -> str:
    """What data sets record, for example `reverse@1:instruct`.

    Raises:
        ConfigError: there is no such prompt.
    """
    return f"{role}@{_find(role, family).version}:{family}"


def question_style(family: Family, row: Row) -> str:
    """`style/persona`: the keys of `STYLES` and `PERSONAS` that the row's id draws; a trained model has one style, its own."""
    if family != "instruct":
        return family
    return f"{_draw('style', STYLES, row)}/{_draw('persona', PERSONAS, row)}"


def _draw(name: str, of: dict[str, str], row: Row) -> str:
    digest = hashlib.blake2b(f"{name}\x1f{row['row_id']}".encode(), digest_size=8).digest()
    return list(of)[int.from_bytes(digest, "big") % len(of)]


# Columns that a row needs to teach a role; those of a shipped row stand in for the ones that it lacks.
TAUGHT_BY: dict[str, tuple[str, ...]] = {"sample": ("code",), "reverse": ("code", "question"), "solve": ("question", "cot")}
_SHIPPED_AS = {"question": "instruction", "cot": "output"}


def as_solved(row: Row) -> Row:
    """A row with `question` and `cot`: a shipped one has them as `instruction` and `output`."""
    missing = {name: row[shipped] for name, shipped in _SHIPPED_AS.items() if not row.get(name) and row.get(shipped)}
    return {**row, **missing} if missing else row


def training_examples(row: Row, roles: tuple[str, ...]) -> list[tuple[Segment, ...]]:
    """Training sequences of one solved row (`question`, `cot`, `code`, `answer`) for the roles of a trained model.

    Sample and reverse share a sequence, since the prompt of the second is the prompt and response of the first. What
    the row lacks gives no sequence. The program never stands before a solution.
    """
    row = as_solved(row)
    code, question = row.get("code"), row.get("question")
    program: tuple[Segment, ...] = ()
    if code and ("sample" in roles or ("reverse" in roles and question)):
        program = _turn(PROGRAM_TURN, code, "sample", learn="sample" in roles)
        if question and "reverse" in roles:
            program = (*program, *_turn(f"\n{QUESTION_TURN}", question, "reverse", learn=True))
    solution: tuple[Segment, ...] = ()
    if question and row.get("cot") and "solve" in roles:
        header = Template(SOLVE_TRAINED.text).substitute(question=_plain(question))
        solution = (Segment(header, False), Segment(_plain(solution_text(row)) + END, True, "solve"))
    return [sequence for sequence in (program, solution) if sequence]


def student_example(row: Row) -> tuple[Segment, ...]:
    """Training sequence of one shipped row (`instruction`, `output`): the text of `SOLVE_ALPACA`, then the response."""
    header = Template(SOLVE_ALPACA.text).substitute(question=_plain(row["instruction"]))
    return Segment(header, False), Segment(_plain(row["output"]) + END, True, "solve")


def solution_text(row: Row) -> str:
    """The language CoT with its final answer in the form that the solver is taught and the grader reads."""
    cot: str = row["cot"].rstrip()
    if "\\boxed" in cot or not row.get("answer"):
        return cot
    return f"{cot} The answer is \\boxed{{{row['answer']}}}."


def _turn(header: str, text: str, role: Role, *, learn: bool) -> tuple[Segment, ...]:
    return Segment(header, False), Segment(_plain(text) + END, learn, role if learn else None)


def _plain(text: str) -> str:
    """Break up turn markers: text of a row must not open or close a turn."""
    return text.replace(START, "<im_start>").replace(END, "<im_end>").strip()


def _find(role: str, family: str) -> TextPrompt | ChatPrompt:
    try:
        return PROMPTS[role, family]
    except KeyError:
        known = ", ".join(known_family for known_role, known_family in PROMPTS if known_role == role) or "none"
        raise ConfigError(f"prompts={family}: the role {role} has no prompt of this family (it has: {known})") from None
