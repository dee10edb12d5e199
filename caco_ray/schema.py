"""Columns, row ids and the vocabulary of reasons: every record that crosses a stage boundary is declared here.

A dataset's schema is fixed for the whole plan of its stage: the source fills what it inherits from the parent rows and leaves the
rest null, each operator fills its own columns. Every row has four columns that the machinery reads:

    row_id         32 hex digits, `row_id(parent_id, stage, index)`; a retried task writes the same ids
    parent_id      `row_id` of the row of the stage before (lineage is a join on ids)
    reject_reason  null = kept, else one of `REASONS`
    infra_error    null, or what failed in the machinery: such a row is quarantined, neither kept nor rejected
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from caco_ray.errors import StageContractError

Row = dict[str, Any]

REASONS: dict[str, str] = {
    # what a model wrote
    "truncated": "the generation hit its token limit",
    "empty_generation": "the model wrote nothing",
    "prompt_too_long": "the prompt does not fit the model's context",
    "no_code": "no code block in the reply",
    "several_code_blocks": "more than one code block in the reply",
    "no_final_answer": "the solution states no final answer",
    # what the program is or does
    "does_not_parse": "not valid Python",
    "does_not_run": "raised an exception, was killed by a signal, or left before its end",
    "timeout": "ran over the CPU or wall-clock limit, or so near to the CPU limit (80 %) that a slower machine would end it",
    "out_of_memory": "ran over the memory limit",
    "no_input": "no variable `input`, or it is not a non-empty dict of plain values",
    "no_output": "no variable `output`",
    "too_short": "fewer effective lines than `filters.min_effective_lines`",
    "unused_input": "a key of `input` is never used",
    "input_without_effect": "a key of `input` has no influence on `output`",
    "output_empty": "`output` is None or empty",
    "output_too_large": "`output` or what was printed is larger than allowed",
    "output_not_plain": "`output` is not a plain value",
    "not_deterministic": "a second run gave another output, or the program reads the clock",
    "trivial_output": "`output` is a constant, or copied from `input`",
    "answer_mismatch": "the program's output is not the known answer",
    # a set of rows
    "duplicate_question": "the question and the answer of an earlier problem, up to layout; it was not solved again",
    "duplicate_solution": "the same text as an earlier solution of the problem that agreed",
    "duplicate_exact": "the same program text as an earlier row",
    "duplicate_ast": "the same program up to names, comments and layout",
    "contaminated": "shares a run of words with a question of an evaluation set, or is one",
    # the question
    "question_too_short": "fewer words than `reverse.min_words`",
    "question_too_long": "more words than `reverse.max_words`",
    "question_leaks_code": "the question shows code or speaks of a program",
    "question_leaks_answer": "the question states its answer",
    "question_misses_values": "a value of `input` is not stated in the question",
    "not_a_question": "the text asks nothing",
    # the solution
    "solved_already": "an earlier solution of the problem agreed, so this one was not drawn (`solve.stop_when_agreed`)",
    "answer_disagrees": "the language answer is not the executed answer",
    "judge_unparsable": "the judge gave no verdict",
    "judge_says_no": "the judge says that the solution does not follow the program",
    # a shipped row that was executed again by `jobs/verify.py`
    "input_differs": "the program's input is not the shipped one",
    "output_differs": "the program's output is not the shipped one",
    "answer_differs": "the shipped answer is not the program's output",
}

_IDS = [
    pa.field("row_id", pa.string(), nullable=False),
    pa.field("parent_id", pa.string(), nullable=False),
    pa.field("reject_reason", pa.string()),
    pa.field("infra_error", pa.string()),
]


def _generation(role: str) -> list[pa.Field]:
    """Columns that an LLM stage writes, prefixed by its role so that later stages can carry them along."""
    return [
        pa.field(f"{role}_model", pa.string()),  # name@fingerprint of the weights
        pa.field(f"{role}_prompt", pa.string()),  # name@version of the prompt
        pa.field(f"{role}_seed", pa.int64()),  # of this row, or of the engine (vLLM on CPU); null where none was sent
        pa.field(f"{role}_finish", pa.string()),
        pa.field(f"{role}_stop", pa.string()),  # stop string or token that ended the text; null = the model's own end, or none
        pa.field(f"{role}_prompt_tokens", pa.int32()),
        pa.field(f"{role}_tokens", pa.int32()),
        pa.field(f"{role}_cpu_s", pa.float64()),  # cores and GPUs that the engine held, times the row's share of its busy time
        pa.field(f"{role}_gpu_s", pa.float64()),
    ]


_CODE = [pa.field("code", pa.string())]
_EXECUTION = [
    pa.field("exec_status", pa.string()),
    pa.field("exec_error", pa.string()),
    pa.field("input_json", pa.string()),  # exact-type JSON of the program's `input`
    pa.field("output_json", pa.string()),  # exact-type JSON of the program's `output`
    pa.field("program_answer", pa.string()),  # `output` as a person would write it
    pa.field("cpu_s", pa.float64()),  # of all runs of the program
    pa.field("wall_s", pa.float64()),
    pa.field("sandbox_level", pa.string()),
]
_SEED_TEXT = [
    pa.field("question", pa.string()),
    pa.field("cot", pa.string()),
    *_CODE,
    pa.field("answer", pa.string()),
    pa.field("domain", pa.string()),
    pa.field("difficulty", pa.int32()),
    pa.field("split", pa.string()),  # train | heldout
    pa.field("source", pa.string()),
    pa.field("source_id", pa.string()),
]
_PROGRAM = [*_CODE, pa.field("sample_index", pa.int64()), *_generation("sample"), *_EXECUTION]
_SELECTED = [*_PROGRAM, pa.field("program_id", pa.string()), pa.field("duplicate_of", pa.string())]
_PROBLEM = [*_SELECTED, pa.field("question", pa.string()), pa.field("question_style", pa.string()), *_generation("reverse")]
_VOTE = [
    pa.field("solve_samples", pa.int32()),  # solutions of the problem that were drawn
    pa.field("solve_pass_rate", pa.float64()),  # share of them that agreed
    pa.field("solve_majority", pa.string()),  # the answer that most of them give
]
_SOLUTION = [
    *_PROBLEM,
    pa.field("problem_id", pa.string()),
    pa.field("solution", pa.string()),
    pa.field("language_answer", pa.string()),
    *_VOTE,
    *_generation("solve"),
]
_JUDGED = [*_SOLUTION, pa.field("solution_id", pa.string()), pa.field("judgement", pa.string()), *_generation("judge")]

SEED = pa.schema([*_IDS, *_SEED_TEXT])
CODE_COT = pa.schema([*_IDS, *_SEED_TEXT, *_generation("unify"), *_EXECUTION])
PROGRAM = pa.schema([*_IDS, *_PROGRAM])
SELECTED = pa.schema([*_IDS, *_SELECTED])
PROBLEM = pa.schema([*_IDS, *_PROBLEM])
SOLUTION = pa.schema([*_IDS, *_SOLUTION])
JUDGED = pa.schema([*_IDS, *_JUDGED])

# The shipped data set: the four columns of the published set (paper section on released data) first, then lineage.
SHIPPED = pa.schema(
    [
        pa.field("instruction", pa.string()),
        pa.field("output", pa.string()),
        pa.field("answer", pa.string()),
        *_CODE,
        *_IDS,
        pa.field("program_id", pa.string()),
        pa.field("problem_id", pa.string()),
        pa.field("solution_id", pa.string()),
        pa.field("sample_index", pa.int64()),
        pa.field("input_json", pa.string()),
        pa.field("output_json", pa.string()),
        pa.field("language_answer", pa.string()),
        *_VOTE,
        pa.field("question_style", pa.string()),
        *[pa.field(f"{role}_{what}", pa.string()) for role in ("sample", "reverse", "solve", "judge") for what in ("model", "prompt")],
        pa.field("sandbox_level", pa.string()),
    ]
)

# One row per held-out problem and attempt.
EVALUATED = pa.schema(
    [
        *_IDS,
        pa.field("question", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("domain", pa.string()),
        pa.field("difficulty", pa.int32()),
        pa.field("solution", pa.string()),
        pa.field("language_answer", pa.string()),
        pa.field("correct", pa.bool_()),
        *_generation("solve"),
    ]
)

# What each data stage writes: readers refuse other columns.
OF_STAGE: dict[str, pa.Schema] = {
    "seeds": SEED,
    "unify": CODE_COT,
    "scale": PROGRAM,
    "select": SELECTED,
    "reverse": PROBLEM,
    "solve": SOLUTION,
    "judge": JUDGED,
    "assemble": SHIPPED,
    "evaluate": EVALUATED,
}


def is_measured(column: str) -> bool:
    """True for seconds that were measured: the only columns in which the same config may give other values on another day."""
    return column.endswith(("cpu_s", "gpu_s", "wall_s"))


def row_id(parent_id: str, stage: str, index: int) -> str:
    """Id of the `index`-th child that `stage` makes of the row `parent_id` (16 bytes, hex)."""
    return hashlib.blake2b(f"{parent_id}\x1f{stage}\x1f{index}".encode(), digest_size=16).hexdigest()


def is_live(row: Row) -> bool:
    """True while nothing rejected or quarantined the row: operators work on live rows only and pass the others on."""
    return row["reject_reason"] is None and row["infra_error"] is None


def live(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows that are still alive, as the same objects, so that an operator can fill them in place."""
    return (row for row in rows if is_live(row))


def reject(row: Row, reason: str) -> None:
    """Mark a row as rejected. The first reason stays."""
    if reason not in REASONS:
        raise StageContractError(f"reject_reason {reason!r} is not in schema.REASONS")
    if is_live(row):
        row["reject_reason"] = reason


def to_table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """Rows as a table of exactly `schema` (missing columns become null).

    Raises:
        StageContractError: a row has a column that the schema does not know, or a value of another type.
    """
    unknown = {key for row in rows for key in row} - set(schema.names)
    if unknown:
        raise StageContractError(f"columns {sorted(unknown)} are not in the stage's schema")
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise StageContractError(f"rows do not conform to the stage's schema: {error}") from error
