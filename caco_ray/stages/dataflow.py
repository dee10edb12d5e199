"""What of `input` can flow into `output`, read off the syntax tree.

A graph over names: an edge `x <- y` where a value of y may reach x by an assignment, a call, a mutation or a condition around it. Names
are merged over scopes, calls of unknown functions and methods pass on and may mutate all that they are given, so the graph has too many
edges rather than too few: what it does not reach has no influence (unless the program reaches its names through `eval` and the
like: then nothing is decided). The reverse does not hold: `0 * x` counts as use of x.
"""

import ast
import builtins
from collections import defaultdict
from collections.abc import Iterable

from caco_ray.stages.calls import (
    FunctionNode,
    all_parameters,
    arguments,
    functions,
    parameters,
    root_name,
    unpacked_pairs,
    without_unpacking,
)
from caco_ray.stages.flow import BOUND_KEY, WHOLE, Flow, key_node
from caco_ray.stages.program import constant

_HUB = "<objects>"  # all arguments, fields and results of methods and of functions with ambiguous names
_OPAQUE = frozenset({"eval", "exec", "globals", "locals", "vars", "compile", "setattr", "__import__"})
_PURE_MODULES = frozenset({"math", "cmath", "np", "numpy", "sp", "sympy", "itertools", "statistics", "fractions", "decimal", "re"})
_BUILTINS = frozenset(dir(builtins))
_EXITS = (ast.Return, ast.Break, ast.Continue, ast.Raise)


def analyse(tree: ast.Module) -> Flow:
    """The flow of a whole program."""
    flow = Flow(functions=functions(tree))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    flow.ambiguous = defined - flow.functions.keys()
    flow.decided = not any(
        (isinstance(node, ast.Name) and node.id in _OPAQUE) or (isinstance(node, ast.alias) and node.name == "*") for node in ast.walk(tree)
    )
    _find_aliases(tree, flow)
    try:
        _Builder(flow).program(tree)
    except RecursionError:
        flow.decided = False
    return flow


def _find_aliases(tree: ast.Module, flow: Flow) -> None:
    """Names that stand for the dict `input`: `data = input`, and the parameter of `solve(input)`."""
    known = 0
    while known != len(flow.aliases):
        known = len(flow.aliases)
        for node in ast.walk(tree):
            match node:
                case ast.Assign(targets=[ast.Name(id=target)], value=ast.Name(id=source)) if source in flow.aliases:
                    flow.aliases.add(target)
                case ast.Call(func=ast.Name(id=name)) if name in flow.functions:
                    pairs = arguments(flow.functions[name], without_unpacking(node))
                    flow.aliases.update(p for p, e in pairs if isinstance(e, ast.Name) and e.id in flow.aliases)


class _Builder:
    """Walks the statements once. `_place` is the function being read; its node `<exits f>` collects the conditions of early exits."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._place = ""
        self._controls: frozenset[str] = frozenset()
        self._origins: dict[str, set[str]] = defaultdict(set)  # names whose object, or a part of it, a name may stand for
        self._changed: set[str] = set()  # names whose object is mutated

    def program(self, tree: ast.Module) -> None:
        self.block(tree.body, frozenset())
        self._spread_changes()

    def _spread_changes(self) -> None:
        """A change through one name shows in every name that shares the object: `for row in grid: row.sort()` changes `grid`."""
        todo = list(self._changed)
        while todo:
            name = todo.pop()
            self._flow.bindings[name].append(None)
            for origin in self._origins[name]:
                self._flow.edges[origin].add(name)
                if origin not in self._changed:
                    self._changed.add(origin)
                    todo.append(origin)

    # Statements.

    def block(self, statements: Iterable[ast.stmt], controls: frozenset[str]) -> None:
        outer, self._controls = self._controls, controls
        for statement in statements:
            self._statement(statement)
        self._controls = outer

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._bind(target, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._bind(target, value)
            case ast.AugAssign(target=target, value=value):
                self._write(target, self._reads(value) | self._reads(target))
                self._changed.update({root_name(target) or ""} - {""})  # `+=` mutates a list
            case ast.Return(value=value):
                self._add(self._place, self._reads(value))
            case ast.If(test=test, body=body, orelse=orelse) | ast.While(test=test, body=body, orelse=orelse):
                self._guarded(node, self._reads(test), [*body, *orelse])
            case (
                ast.For(target=target, iter=items, body=body, orelse=orelse)
                | ast.AsyncFor(target=target, iter=items, body=body, orelse=orelse)
            ):
                self._write(target, self._reads(items))
                self._guarded(node, self._reads(items), [*body, *orelse])
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                for item in items:
                    sources = self._reads(item.context_expr)
                    if item.optional_vars:
                        self._write(item.optional_vars, sources)
                self.block(body, self._controls)
            case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=finalbody):
                self._try(body, [s for handler in handlers for s in handler.body], [*orelse, *finalbody])
            case ast.Match(subject=subject, cases=cases):
                self._match(node, subject, cases)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(node)
            case ast.ClassDef(body=body):
                self.block(body, self._controls)
            case ast.Delete(targets=targets):
                for target in targets:
                    self._write(target, set())
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self._reads(child)

    def _guarded(self, node: ast.stmt, tests: set[str], body: list[ast.stmt]) -> None:
        if any(isinstance(child, _EXITS) for child in ast.walk(node)):
            self._add(f"<exits {self._place}>", tests)
        self.block(body, self._controls | tests)

    def _try(self, body: list[ast.stmt], handlers: list[ast.stmt], after: list[ast.stmt]) -> None:
        names = {node.id for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name)}
        read = {WHOLE if name in self._flow.aliases else name for name in names}
        self._add(f"<exits {self._place}>", read)
        self.block(body, self._controls)
        self.block(handlers, self._controls | read)
        self.block(after, self._controls)

    def _match(self, node: ast.stmt, subject: ast.expr, cases: list[ast.match_case]) -> None:
        sources = self._reads(subject)
        for case in cases:
            for pattern in ast.walk(case.pattern):
                name = getattr(pattern, "name", None) or getattr(pattern, "rest", None)
                if isinstance(name, str):
                    self._write(ast.Name(name), sources)
        guards = {name for case in cases if case.guard for name in self._reads(case.guard)}
        self._guarded(node, sources | guards, [statement for case in cases for statement in case.body])

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        names = parameters(node)
        for name, default in (
            *zip(reversed(names), reversed(node.args.defaults), strict=False),
            *((p.arg, d) for p, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d),
        ):
            self._bind(ast.Name(name), default)
        for decorator in node.decorator_list:
            self._add(node.name, self._reads(decorator))
        if self._flow.functions.get(node.name) is not node:
            for name in all_parameters(node):
                self._add(name, {_HUB})
                self._add(_HUB, {name})
            self._add(_HUB, {node.name})
        outer, self._place = self._place, node.name
        self.block(node.body, frozenset())
        self._place = outer

    # Writes.

    def _add(self, target: str, sources: set[str]) -> None:
        """Edges into `target` from here, with the conditions that decide whether this place is reached."""
        self._flow.edges[target] |= sources | self._controls | {f"<exits {self._place}>"}

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        pairs = unpacked_pairs(target, value)
        if pairs:
            for one, item in pairs:
                self._bind(one, item)
        elif isinstance(target, ast.Name) and target.id in self._flow.aliases and (target.id == "input" or self._is_alias(value)):
            self._reads(value)
        else:
            self._write(target, self._reads(value), None if self._controls else value)

    def _is_alias(self, value: ast.expr) -> bool:
        return isinstance(value, ast.Name) and value.id in self._flow.aliases

    def _write(self, target: ast.expr, sources: set[str], value: ast.expr | None = None) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for element in target.elts:
                self._write(element, sources)
            return
        name = root_name(target)
        if name is None:
            self._reads(target)
        elif name in self._flow.aliases and not isinstance(target, ast.Name):
            self._write_input(target, sources)
        else:
            if isinstance(target, ast.Subscript):
                sources = sources | self._reads(target.slice)
            self._add(name, sources)
            if isinstance(target, ast.Name):
                self._flow.bindings[name].append(value)
                self._origins[name] |= sources
            else:
                self._changed.add(name)

    def _write_input(self, target: ast.expr, sources: set[str]) -> None:
        """`input["k"] = ...`: the key holds what was written; a key that is not known leaves the program undecided."""
        key = self._flow.key_of(target)
        if key is None:
            self._flow.decided = False
        else:
            self._add(key_node(key), sources)

    # Expressions: what their value may depend on.

    def _reads(self, node: ast.AST | None) -> set[str]:
        match node:
            case None | ast.Constant():
                return set()
            case ast.Name(id=name):
                return {WHOLE, name} if name in self._flow.aliases else {name}
            case ast.Subscript(value=ast.Name(id=name)) if self._flow.key_of(node) is not None:
                return {key_node(constant(node.slice)), *({name} - {"input"})}
            case ast.Compare(left=ast.Constant(), ops=[ast.In() | ast.NotIn()], comparators=[right]) if self._is_alias(right):
                return set()  # `"k" in input` looks at no value
            case ast.NamedExpr(target=target, value=value):
                self._write(target, self._reads(value))
                return self._reads(value) | {target.id}
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                for generator in node.generators:
                    self._write(generator.target, self._reads(generator.iter))
                return self._children(node)
            case ast.Yield(value=value) | ast.YieldFrom(value=value):
                self._add(self._place, self._reads(value))
                return self._reads(value)
            case ast.Call():
                return self._call(node)
        return self._children(node)

    def _children(self, node: ast.AST) -> set[str]:
        return {name for child in ast.iter_child_nodes(node) for name in self._reads(child)}

    def _call(self, node: ast.Call) -> set[str]:
        key = self._flow.key_of(node)
        if key is not None:
            return {key_node(key)}.union(*(self._reads(argument) for argument in node.args[1:]))
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name == "len" and len(node.args) == 1 and self._is_alias(node.args[0]):
            return set()
        if name in self._flow.functions:
            return self._call_known(name, node)
        return self._call_unknown(node)

    def _call_known(self, name: str, node: ast.Call) -> set[str]:
        function = self._flow.functions[name]
        self._add(f"<exits {name}>", set())
        unpacked = [keyword for keyword in node.keywords if keyword.arg is None and self._is_alias(keyword.value)]
        for parameter in all_parameters(function) if unpacked else ():
            source = WHOLE if self._takes_rest(function, parameter) else key_node(parameter)
            self._write(ast.Name(parameter), {source}, BOUND_KEY)
        for parameter, value in arguments(function, without_unpacking(node) if unpacked else node):
            self._bind(ast.Name(parameter), value)
        return {name}

    @staticmethod
    def _takes_rest(function: FunctionNode, parameter: str) -> bool:
        return function.args.kwarg is not None and function.args.kwarg.arg == parameter

    def _call_unknown(self, node: ast.Call) -> set[str]:
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        given = {name for value in values for name in self._reads(value)} | self._reads(node.func)
        for value in values:
            if isinstance(value, ast.Name) and value.id in self._flow.functions:
                for parameter in all_parameters(self._flow.functions[value.id]):
                    self._flow.bindings[parameter].append(None)
                    self._add(parameter, given)
        for name in self._may_change(node, values):
            self._changed.add(name)
            self._add(name, given)
        return given | self._hub(node.func, given)

    def _hub(self, function: ast.expr, given: set[str]) -> set[str]:
        """A call that may reach a method or an ambiguous function hands it what it was given, and gets what those return."""
        if isinstance(function, ast.Name) and function.id in _BUILTINS and function.id not in self._flow.ambiguous:
            return set()
        if isinstance(function, ast.Attribute) and function.attr not in self._flow.ambiguous:
            return set()
        self._add(_HUB, given)
        return {_HUB}

    def _may_change(self, node: ast.Call, values: list[ast.expr]) -> set[str]:
        """Names whose object the call may mutate: the receiver of a method, and arguments of functions not known to be pure."""
        root = root_name(node.func)
        if isinstance(node.func, ast.Name):
            roots = set() if root in _BUILTINS else {root_name(value) for value in values}
        elif root in _PURE_MODULES:
            roots = set()
        else:
            roots = {root, *(root_name(value) for value in values)}
        return {name for name in roots if name is not None and name not in self._flow.aliases}
