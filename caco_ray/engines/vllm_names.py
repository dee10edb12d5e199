"""Names that the installed vLLM knows, read from its sources: importing it takes 10 s. Nothing is known where it is not installed."""

import ast
import difflib
import importlib.util
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from caco_ray.errors import ConfigError


def check_known(key: str, names: Iterable[str], known: Collection[str], what: str) -> None:
    """Raises ConfigError where one of the names under `key` is not among `known`."""
    for name in names:
        if name not in known or name.startswith("_"):
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(f"{key}{name}: vLLM has no such {what}" + (f"; did you mean {near[0]}?" if near else ""))


def engine_arguments() -> frozenset[str]:
    """Fields of `AsyncEngineArgs`."""
    return frozenset(_fields("engine/arg_utils.py", "EngineArgs") | _fields("engine/arg_utils.py", "AsyncEngineArgs"))


def sampling_fields() -> frozenset[str]:
    """Fields of `SamplingParams`."""
    return frozenset(_fields("sampling_params.py", "SamplingParams"))


def sampling_type(name: str) -> Any:
    """Type of a field of `SamplingParams` that Python's own types make up; None for others."""
    try:
        return eval(_fields("sampling_params.py", "SamplingParams")[name], {"Any": Any})
    except (KeyError, NameError):
        return None


def quantization_methods() -> frozenset[str]:
    """Those of vLLM itself; a plug-in may add others."""
    for node in ast.walk(_source("model_executor/layers/quantization/__init__.py")):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "QuantizationMethods":
            return frozenset(each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant) and isinstance(each.value, str))
    return frozenset()


@cache
def _fields(file: str, name: str) -> dict[str, str]:
    """Annotated fields of a class, with the text of their types."""
    for node in ast.walk(_source(file)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and "ClassVar" not in ast.unparse(each.annotation)]
            return {each.target.id: ast.unparse(each.annotation) for each in fields if isinstance(each.target, ast.Name)}
    return {}


@cache
def _source(file: str) -> ast.Module:
    """Empty where there is none: of no vLLM, or of one that keeps it elsewhere."""
    spec = importlib.util.find_spec("vllm")
    path = Path(spec.origin).parent / file if spec is not None and spec.origin else None
    return ast.parse(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else ast.Module([], [])
