"""A program's syntax tree and the plain facts that filters and keys read off it. Nothing is run."""

import ast
import warnings
from typing import Any


def parse(code: str) -> ast.Module | None:
    """The tree, or None where the text is not valid Python, or nested too deeply for the parser."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def effective_lines(code: str, tree: ast.Module) -> int:
    """Lines that are not blank, comments, in a docstring, or starting with `import` (paper, rule-based filtering)."""
    docstring_lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstring_lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = (line.strip() for number, line in enumerate(code.splitlines(), 1) if number not in docstring_lines)
    return sum(1 for line in lines if line and not line.startswith(("#", "import ")))


def assigned_value(tree: ast.Module, name: str) -> ast.expr | None:
    """The expression of the first top-level `name = ...`, where the sandbox takes `input`."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    return None


def input_keys(tree: ast.Module) -> list[str] | None:
    """Keys of `input` where it is a dict literal or `dict(a=...)` with constant string keys, else None."""
    value = assigned_value(tree, "input")
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "dict" and not value.args:
        names = [keyword.arg for keyword in value.keywords]
        return None if None in names else [name for name in names if name is not None]
    if not isinstance(value, ast.Dict):
        return None
    keys = [constant(key) for key in value.keys]
    return [key for key in keys if isinstance(key, str)] if all(isinstance(key, str) for key in keys) else None


def used_keys(tree: ast.Module) -> set[str] | None:
    """Keys that are read one by one, as `input["a"]` or `input.get("a")`; None where `input` is used as a whole (`f(**input)`)."""
    found: set[str] = set()
    single: set[int] = set()  # ids of the names `input` that stand in such an expression
    for node in ast.walk(tree):
        owner, key, is_read = _one_key(node)
        if isinstance(owner, ast.Name) and owner.id == "input" and isinstance(key, str):
            single.add(id(owner))
            found.update([key] if is_read else [])
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "input" and isinstance(node.ctx, ast.Load))
    return None if any(id(name) not in single for name in names) else found


def _one_key(node: ast.AST) -> tuple[ast.expr | None, Any, bool]:
    """What is subscripted, with which constant, and whether it is read there."""
    if isinstance(node, ast.Subscript):
        return node.value, constant(node.slice), isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
        return node.func.value, constant(node.args[0]), True
    return None, None, False


def constant(node: ast.expr | None) -> Any:
    """The value of a literal constant, else None."""
    return node.value if isinstance(node, ast.Constant) else None
