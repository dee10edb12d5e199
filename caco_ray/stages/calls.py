"""Functions of a syntax tree and how they are called: facts that can be read off one piece of it."""

import ast
from collections.abc import Iterator

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def functions(tree: ast.AST) -> dict[str, FunctionNode]:
    """Functions by the name that calls them: `def`s outside classes, and lambdas that are bound to a name.

    A name that is bound twice is left out: which function it calls is not known.
    """
    found: dict[str, FunctionNode] = {}
    twice: set[str] = set()
    methods = {id(node) for outer in ast.walk(tree) if isinstance(outer, ast.ClassDef) for node in outer.body}
    for node in ast.walk(tree):
        name, function = _named_function(node)
        if name and function and id(node) not in methods:
            twice.update({name} & found.keys())
            found[name] = function
    return {name: function for name, function in found.items() if name not in twice}


def _named_function(node: ast.AST) -> tuple[str | None, FunctionNode | None]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name, node
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    return None, None


def parameters(function: FunctionNode) -> list[str]:
    return [p.arg for p in (*function.args.posonlyargs, *function.args.args)]


def all_parameters(function: FunctionNode) -> list[str]:
    rest = [p.arg for p in (function.args.vararg, function.args.kwarg) if p]
    return [*parameters(function), *(p.arg for p in function.args.kwonlyargs), *rest]


def arguments(function: FunctionNode, call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """Pairs (parameter, expression) of a call whose arguments are all written out; others go to every parameter."""
    names = parameters(function)
    everything = all_parameters(function)
    starred = False
    for place, argument in enumerate(call.args):
        starred = starred or isinstance(argument, ast.Starred)
        if place < len(names) and not starred:
            yield names[place], argument
        else:
            yield from ((name, argument) for name in everything)
    for keyword in call.keywords:
        if keyword.arg in everything:
            yield keyword.arg or "", keyword.value
        else:
            yield from ((name, keyword.value) for name in everything)


def without_unpacking(call: ast.Call) -> ast.Call:
    return ast.Call(call.func, call.args, [keyword for keyword in call.keywords if keyword.arg])


def only_return(function: FunctionNode) -> ast.expr | None:
    """The value of a function whose one `return` stands at the top level of its body."""
    if isinstance(function, ast.Lambda):
        return function.body
    returns = [node for node in ast.walk(function) if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom)]
    return returns[0].value if len(returns) == 1 and returns[0] in function.body else None


def root_name(expr: ast.expr) -> str | None:
    """The x of `x`, `x.y`, `x[0].y`, `x.get(0).y`."""
    while isinstance(expr, ast.Attribute | ast.Subscript | ast.Starred | ast.Call):
        expr = expr.func if isinstance(expr, ast.Call) else expr.value
    return expr.id if isinstance(expr, ast.Name) else None


def unpacked_pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """Pairs of `a, b = x, y`; empty for anything else."""
    if not (isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List)):
        return []
    if len(target.elts) != len(value.elts) or any(isinstance(e, ast.Starred) for e in (*target.elts, *value.elts)):
        return []
    return list(zip(target.elts, value.elts, strict=True))
