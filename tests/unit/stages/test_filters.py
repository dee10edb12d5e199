"""Rule filters: each keeps and rejects real programs."""

import pytest

from caco_ray.config import FiltersConfig
from caco_ray.errors import ConfigError
from caco_ray.sandbox.codec import encode
from caco_ray.schema import PROGRAM, row_id, to_table
from caco_ray.seeds.builtin import builtin_seeds
from caco_ray.stages import program
from caco_ray.stages.filters import AFTER_EXECUTION, BEFORE_EXECUTION, FILTERS, after_execution, before_execution

ALL = FiltersConfig(enabled=tuple(FILTERS))
SEEDS = list(builtin_seeds("train"))

GCD = '''input = {"a": 84, "b": 60}

def solve(a, b):
    """Euclid.

    A docstring is no step.
    """
    # Step 1: take remainders.
    while b:
        a, b = b, a % b
    return a

output = solve(**input)
print(output)'''


def program_row(code, index=0, **columns):
    return {"row_id": row_id("p", "scale", index), "parent_id": "scale", "code": code, "sample_index": index, **columns}


def reasons(apply, rows, config=ALL):
    table = to_table(rows, PROGRAM)
    result = apply(table, config)
    assert result.schema == table.schema
    assert result["row_id"].equals(table["row_id"])
    return result["reject_reason"].to_pylist()


def reason_before(code, config=ALL):
    return reasons(before_execution, [program_row(code)], config)[0]


def reason_after(output, answer="x", given=None, code=GCD):
    inputs = {"a": 84, "b": 60} if given is None else given
    row = program_row(
        code, output_json=None if output is ... else encode(output, 10**6), input_json=encode(inputs, 10**6), program_answer=answer
    )
    return reasons(after_execution, [row])[0]


def test_every_builtin_program_passes_all_static_filters():
    rows = [program_row(seed["code"], n) for n, seed in enumerate(SEEDS)]
    assert set(reasons(before_execution, rows)) == {None}


def test_every_builtin_answer_passes_the_filters_on_results():
    rows = [
        program_row(seed["code"], n, input_json='{"a":1}', output_json=encode(seed["answer"], 1000), program_answer=seed["answer"])
        for n, seed in enumerate(SEEDS)
    ]
    assert set(reasons(after_execution, rows)) == {None}


@pytest.mark.parametrize("code", [GCD[:-10] + "((", "def f(:\n", "input = {", "x = 1\n  y = 2", "\x00", "x = " + "(" * 500 + ")" * 500])
def test_text_that_is_no_python_does_not_parse(code):
    assert reason_before(code) == "does_not_parse"


def test_lines_count_as_in_the_paper():
    """Blank lines, comments, docstrings and `import` lines do not count; `from` imports do."""
    assert program.effective_lines(GCD, program.parse(GCD)) == 7
    longer = "import math\nfrom math import gcd\n\n" + GCD
    assert program.effective_lines(longer, program.parse(longer)) == 8


def test_too_short():
    assert reason_before(GCD, FiltersConfig(enabled=("too_short",), min_effective_lines=7)) is None
    assert reason_before(GCD, FiltersConfig(enabled=("too_short",), min_effective_lines=8)) == "too_short"
    padded = 'input = {"a": 1}\n' + "# a comment\n" * 20 + 'output = input["a"] + 1\nprint(output)'
    assert reason_before(padded) == "too_short"


@pytest.mark.parametrize(
    "body",
    [
        "output = 42",
        "def solve(a, b):\n    x = 6\n    y = 7\n    return x * y\noutput = solve(**input)",
        'output = input["a"]',
        'a = input["a"]\nresult = a\noutput = result',
        "def solve(a, b):\n    c = a + b\n    d = c * 2\n    return b\noutput = solve(**input)",
        "def solve(a, b):\n    return int(a)\noutput = str(solve(**input))",
        "output = max(3, 4, len(input))",
    ],
)
def test_a_constant_or_copied_output_is_trivial(body):
    config = FiltersConfig(enabled=("trivial_output",))
    code = f'input = {{"a": 84, "b": 60}}\n{body}\nprint(output)'
    assert reason_before(code, config) == "trivial_output"
    assert reason_before(code.replace("output = ", "output = 1 + 2 * len(str(input)) + ", 1), config) is None


@pytest.mark.parametrize(
    "body",
    [
        "def solve(a, b):\n    while b:\n        a, b = b, a % b\n    return a\noutput = solve(**input)",
        'output = input["a"] if input["a"] > input["b"] else input["b"]',
        "output = max(input.values())",
        "def solve(a, b):\n    for n in (a, b):\n        if n % 7 == 0:\n            return n\noutput = solve(**input)",
        'xs = [input["b"], input["a"]]\nxs.sort()\noutput = xs[0]',
    ],
)
def test_choosing_between_values_is_computation(body):
    assert reason_before(f'input = {{"a": 84, "b": 60}}\n{body}\nprint(output)', FiltersConfig(enabled=("trivial_output",))) is None


BY_KEY = 'input = {"a": 84, "b": 60}\nx = input["a"]\ny = input.get("b")\noutput = x - y'
BY_NAME = 'input = {"a": 84, "b": 60}\ndef solve(a, b):\n    return a - b\noutput = solve(**input)'


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (BY_KEY, None),
        (BY_NAME, None),
        (BY_KEY.replace("x - y", "x + 1"), None),  # read, though for nothing
        (BY_NAME.replace("a - b", "a + 1"), None),  # `**input` uses every key
        (BY_KEY.replace('y = input.get("b")', "y = 3"), "unused_input"),
        (BY_KEY.replace('y = input.get("b")', 'input["b"] = 3\ny = 3'), "unused_input"),
        (BY_KEY.replace('y = input.get("b")', "y = sum(input.values())"), None),
        (BY_KEY.replace('y = input.get("b")', 'y = [input[key] for key in ("b",)][0]'), None),
    ],
)
def test_unused_input_counts_both_ways_of_reading(code, reason):
    assert reason_before(code, FiltersConfig(enabled=("unused_input",))) == reason


def test_input_without_effect_follows_what_was_read():
    config = FiltersConfig(enabled=("input_without_effect",))
    for code, never in ((BY_KEY, BY_KEY.replace("x - y", "x + 1")), (BY_NAME, BY_NAME.replace("a - b", "a + 1"))):
        assert reason_before(code, config) is None
        assert reason_before(never, config) == "input_without_effect"


def test_unused_input_of_a_computed_dict_is_found_after_the_run():
    code = 'input = {k: 2 for k in ("a", "b")}\noutput = input["a"] + 1'
    assert reason_before(code, FiltersConfig(enabled=("unused_input",))) is None
    assert reason_after(3, "3", {"a": 2, "b": 2}, code) == "unused_input"
    assert reason_after(3, "3", {"a": 2}, code) is None


@pytest.mark.parametrize(
    "output,answer,reason",
    [
        (12, "12", None),
        (0, "0", None),
        (False, "False", None),
        ([1, [2.5, "x"]], "[1, [2.5, 'x']]", None),
        (..., None, "no_output"),
        (None, "None", "output_empty"),
        ("  ", "  ", "output_empty"),
        ([], "[]", "output_empty"),
        ({}, "{}", "output_empty"),
        ("y" * 201, "y" * 201, "output_too_large"),
        (float("nan"), "nan", "output_not_plain"),
        ([1, float("inf")], "[1, inf]", "output_not_plain"),
        (b"12", "b'12'", "output_not_plain"),
    ],
)
def test_filters_on_the_output(output, answer, reason):
    assert reason_after(output, answer) == reason


def test_a_number_too_long_to_write_is_too_large():
    assert reason_after(10**4000, None) == "output_too_large"


@pytest.mark.parametrize("given", [{}, [1, 2], 7, "text"])
def test_an_input_that_is_no_dict_with_values_is_no_input(given):
    assert reason_after(12, "12", given) == "no_input"


def test_a_disabled_filter_does_nothing_and_rejected_rows_stay_as_they_are():
    only = FiltersConfig(enabled=("output_empty",))
    rows = [program_row("((", 0), program_row("((", 1, reject_reason="truncated"), program_row("((", 2, infra_error="engine: gone")]
    assert reasons(before_execution, rows, only) == [None, "truncated", None]
    assert reasons(before_execution, rows) == ["does_not_parse", "truncated", None]


def test_an_unknown_filter_is_a_config_error_that_lists_the_known():
    with pytest.raises(ConfigError, match=r"filters.enabled=unused_inputs: no such filter .*unused_input"):
        reasons(before_execution, [], FiltersConfig(enabled=("unused_inputs",)))


def test_every_filter_is_named_by_its_reason_and_has_its_place():
    assert BEFORE_EXECUTION.keys() | AFTER_EXECUTION.keys() == FILTERS.keys()
