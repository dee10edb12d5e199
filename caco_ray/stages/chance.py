"""Which further seeds show that a program depends on chance? Two runs miss half of what has two outcomes. Nothing is run.

Read off the syntax tree. Limits: a module behind `__import__` or `eval` is not seen; an outcome rarer than one in thirty
may still pass, and so may a set of two strings: its order depends on the hash seed, and is the same under three of them once in four.
"""

import ast

# The first number that `random` and `numpy.random` draw of these is over 0.97, under 0.03, and in the others the second is.
_CHANCE = (5473, 3820, 3475, 1060)
_HASHES = (2,)  # the third hash seed, see `sandbox/worker.py`
_MODULES = {"random", "secrets", "uuid"}
_DRAWS = {"shuffle", "urandom", "getrandom", "default_rng", "RandomState"}
_SETS = {"set", "frozenset", "hash"}
_ORDERLESS = {"len", "sorted", "min", "max", "sum"}


def further_seeds(tree: ast.AST) -> tuple[int, ...]:
    """Seeds to run the program with besides 0 and 1: for a program that names randomness, and for one whose sets may hold strings."""
    nodes = list(ast.walk(tree))
    return (_CHANCE if any(map(_draws, nodes)) else ()) + (_HASHES if _has_sets(nodes) else ())


def _draws(node: ast.AST) -> bool:
    match node:
        case ast.Import(names=names):
            return any(part in _MODULES for alias in names for part in alias.name.split("."))
        case ast.ImportFrom(module=module, names=names):
            parts = {part for name in (module or "", *(alias.name for alias in names)) for part in name.split(".")}
            return not parts.isdisjoint(_MODULES | _DRAWS)
        case ast.Attribute(attr=name):
            return name in _MODULES | _DRAWS
    return False


def _has_sets(nodes: list[ast.AST]) -> bool:
    """A set that may hold strings and whose order may be seen: given to `len`, `sorted` and the like, or after `in`, it is not."""
    unseen: set[int] = set()
    for node in nodes:
        match node:
            case ast.Call(func=ast.Name(id=name), args=args) if name in _ORDERLESS:
                unseen.update(map(id, args))
            case ast.Compare(ops=ops, comparators=right):
                unseen.update(id(side) for op, side in zip(ops, right, strict=True) if isinstance(op, ast.In | ast.NotIn))
    return any(id(node) not in unseen and _may_hold_strings(node) for node in nodes)


def _may_hold_strings(node: ast.AST) -> bool:
    match node:
        case ast.Set(elts=items):
            return not all(isinstance(item, ast.Constant) and not isinstance(item.value, str | bytes) for item in items)
        case ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id=name), args=args):
            return name in _SETS and bool(args)
    return False
