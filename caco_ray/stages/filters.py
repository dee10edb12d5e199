"""Rule filters on programs: each is a function `(row, config) -> reason | None`, named by the reason it gives.

Those before execution read the syntax tree alone, so that nothing is run in vain; those after read what the sandbox recorded. The paper's
rules are `too_short`, `unused_input` and the run itself; `input["a"]` and `f(**input)` both count as use here.
"""

import ast
import math
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from caco_ray.config import FiltersConfig
from caco_ray.errors import ConfigError
from caco_ray.sandbox.codec import decode
from caco_ray.schema import Row, live, reject, to_table
from caco_ray.stages import program
from caco_ray.stages.dataflow import analyse
from caco_ray.stages.flow import WHOLE, key_node

Filter = Callable[[Row, FiltersConfig], str | None]


def does_not_parse(row: Row, config: FiltersConfig) -> str | None:
    return "does_not_parse" if program.parse(row["code"]) is None else None


def too_short(row: Row, config: FiltersConfig) -> str | None:
    tree = program.parse(row["code"])
    if tree is None or program.effective_lines(row["code"], tree) >= config.min_effective_lines:
        return None
    return "too_short"


def trivial_output(row: Row, config: FiltersConfig) -> str | None:
    """Nothing of `input` can reach `output`, or `output` is a value of `input` as it stands there."""
    tree = program.parse(row["code"])
    if tree is None or program.assigned_value(tree, "input") is None:
        return None
    flow = analyse(tree)
    if not flow.decided or not flow.edges["output"]:
        return None
    depends = any(source.startswith("input[") for source in flow.sources("output"))
    return None if depends and not flow.is_copied("output") else "trivial_output"


def unused_input(row: Row, config: FiltersConfig) -> str | None:
    """A key of `input` is never used. `input["a"]` and `input.get("a")` use one; `f(**input)` and `input` anywhere else use all."""
    tree = program.parse(row["code"])
    keys = _keys(row, tree)
    if tree is None or not keys:
        return None
    used = program.used_keys(tree)
    return None if used is None or used.issuperset(keys) else "unused_input"


def input_without_effect(row: Row, config: FiltersConfig) -> str | None:
    """Some key of `input` can have no influence on `output`: what was read goes nowhere. Stricter than the paper's `unused_input`."""
    tree = program.parse(row["code"])
    keys = _keys(row, tree)
    if tree is None or not keys:
        return None
    flow = analyse(tree)
    sources = flow.sources("output")
    if not flow.decided or WHOLE in sources or not flow.edges["output"]:
        return None
    return None if all(key_node(key) in sources for key in keys) else "input_without_effect"


def no_input(row: Row, config: FiltersConfig) -> str | None:
    value = _decoded(row["input_json"])
    return None if isinstance(value, dict) and value else "no_input"


def no_output(row: Row, config: FiltersConfig) -> str | None:
    return "no_output" if row["output_json"] is None else None


def output_empty(row: Row, config: FiltersConfig) -> str | None:
    """None, an empty text or an empty collection; 0 and False are answers."""
    if row["output_json"] is None:
        return None
    value = _decoded(row["output_json"])
    blank = value is None or (isinstance(value, str) and not value.strip())
    return "output_empty" if blank or (hasattr(value, "__len__") and len(value) == 0) else None


def output_too_large(row: Row, config: FiltersConfig) -> str | None:
    """The answer as text is longer than `max_answer_chars`; the sandbox gives no text at all for what is far larger."""
    if row["output_json"] is None:
        return None
    answer = row["program_answer"]
    return "output_too_large" if answer is None or len(answer) > config.max_answer_chars else None


def output_not_plain(row: Row, config: FiltersConfig) -> str | None:
    """Not a number, infinite, or bytes: nothing that a solution could end with."""
    if row["output_json"] is None:
        return None
    return "output_not_plain" if any(_is_no_answer(value) for value in _leaves(_decoded(row["output_json"]))) else None


BEFORE_EXECUTION: dict[str, Filter] = {
    "does_not_parse": does_not_parse,
    "too_short": too_short,
    "trivial_output": trivial_output,
    "unused_input": unused_input,
    "input_without_effect": input_without_effect,
}
AFTER_EXECUTION: dict[str, Filter] = {
    "no_input": no_input,
    "no_output": no_output,
    "output_empty": output_empty,
    "output_not_plain": output_not_plain,
    "output_too_large": output_too_large,
    # again, for an `input` that is not a literal: its keys are known now
    "unused_input": unused_input,
    "input_without_effect": input_without_effect,
}
FILTERS: dict[str, Filter] = BEFORE_EXECUTION | AFTER_EXECUTION


def before_execution(table: pa.Table, config: FiltersConfig) -> pa.Table:
    """Apply the enabled filters that need no run.

    Raises:
        ConfigError: `filters.enabled` names a filter that does not exist.
    """
    return _apply(table, config, BEFORE_EXECUTION)


def after_execution(table: pa.Table, config: FiltersConfig) -> pa.Table:
    """Apply the enabled filters that read what the run gave.

    Raises:
        ConfigError: `filters.enabled` names a filter that does not exist.
    """
    return _apply(table, config, AFTER_EXECUTION)


def check_names(enabled: Iterable[str]) -> None:
    """Raise a ConfigError for the first name that is no filter."""
    for name in enabled:
        if name not in FILTERS:
            raise ConfigError(f"filters.enabled={name}: no such filter (there are: {', '.join(FILTERS)})")


def _apply(table: pa.Table, config: FiltersConfig, filters: dict[str, Filter]) -> pa.Table:
    check_names(config.enabled)
    rows = table.to_pylist()
    for row in live(rows):
        reason = next(filter(None, (rule(row, config) for name, rule in filters.items() if name in config.enabled)), None)
        if reason:
            reject(row, reason)
    return to_table(rows, table.schema)


def _keys(row: Row, tree: ast.Module | None) -> list[str] | None:
    """Keys of `input`: of the literal, else what the sandbox saw."""
    keys = program.input_keys(tree) if tree else None
    if keys is None and row.get("input_json"):
        value = _decoded(row["input_json"])
        keys = [key for key in value if isinstance(key, str)] if isinstance(value, dict) else None
    return keys


def _decoded(encoding: str | None) -> Any:
    return decode(encoding) if encoding is not None else None


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _is_no_answer(value: Any) -> bool:
    if isinstance(value, complex):
        return not (math.isfinite(value.real) and math.isfinite(value.imag))
    return isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value))
