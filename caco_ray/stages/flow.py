"""What may flow into what in a program: a graph over its names, and the questions that filters ask of it."""

import ast
from collections import defaultdict
from dataclasses import dataclass, field

from caco_ray.stages.calls import FunctionNode, only_return

WHOLE = "input[*]"  # the dict itself, with all keys
BOUND_KEY = ast.Constant(value="<a key of input, bound by **>")
_COPIES = frozenset({"int", "float", "str", "list", "tuple"})


@dataclass
class Flow:
    """`edges[x]`: what may flow into x. `bindings[x]`: each expression that is bound to x as it is; None = computed or conditional."""

    edges: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    bindings: dict[str, list[ast.expr | None]] = field(default_factory=lambda: defaultdict(list))
    functions: dict[str, FunctionNode] = field(default_factory=dict)
    ambiguous: set[str] = field(default_factory=set)  # names of methods, and of functions that are defined twice
    aliases: set[str] = field(default_factory=lambda: {"input"})
    decided: bool = True

    def sources(self, name: str) -> set[str]:
        """Everything that may flow into `name`."""
        seen, todo = {name}, [name]
        while todo:
            for source in self.edges.get(todo.pop(), ()):
                if source not in seen:
                    seen.add(source)
                    todo.append(source)
        return seen

    def is_copied(self, name: str) -> bool:
        """True where `name` is a value of `input` as it stands there: bound, passed, returned or indexed, never computed with."""
        return self._copies(ast.Name(name), frozenset())

    def _copies(self, expr: ast.expr | None, seen: frozenset[str]) -> bool:
        match expr:
            case None:
                return False
            case _ if expr is BOUND_KEY or self.key_of(expr) is not None:
                return True
            case ast.Name(id=name):
                bound = self.bindings.get(name, [])
                return name not in seen and len(bound) == 1 and self._copies(bound[0], seen | {name})
            case ast.Subscript(value=value, slice=ast.Constant()):
                return self._copies(value, seen)
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _COPIES - self.functions.keys():
                return self._copies(argument, seen)
            case ast.Call(func=ast.Name(id=name)) if name in self.functions and name not in seen:
                return self._copies(only_return(self.functions[name]), seen | {name})
        return False

    def key_of(self, expr: ast.expr) -> str | None:
        """The k of `input["k"]`, `input.get("k")` and the like."""
        match expr:
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(key))) if name in self.aliases:
                return key
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=name), attr="get" | "pop" | "setdefault"), args=[ast.Constant(value=str(key)), *_]
            ) if name in self.aliases:
                return key
        return None


def key_node(key: str) -> str:
    return f"input[{key!r}]"
