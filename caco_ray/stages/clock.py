"""Does a program read the clock? Two runs a second apart agree on today's date, and next year's run does not. Nothing is run.

Read off the syntax tree: whether what was read reaches `output` is not asked. Limits: a clock behind `getattr`, `eval` or a name that was
given to a function (`f = datetime.now`) is not seen, nor the words `now` and `today` that numpy reads as dates other than in `datetime64`.
"""

import ast
from collections.abc import Iterator

_METHODS = {"today", "now", "utcnow"}  # of date, datetime and what is like them
_TIME = {"time", "monotonic", "perf_counter", "process_time", "thread_time"}
_ALWAYS = _TIME | {f"{name}_ns" for name in _TIME} | {"clock_gettime", "clock_gettime_ns"}
_SYSTEM = {"times"}  # of the module `os`
_WORDS = {"now", "today"}  # to numpy.datetime64
_WITHOUT_ARGUMENT = {"localtime": 0, "gmtime": 0, "ctime": 0, "asctime": 0, "strftime": 1}  # take the clock for a time that is not given


def reads_clock(tree: ast.AST) -> bool:
    """True for `date.today()`, `datetime.now()`, `datetime64("now")`, and the clocks of the modules `time` and `os` under whatever name."""
    nodes = list(ast.walk(tree))
    modules, functions = _imported(nodes, "time")
    systems, system_functions = _imported(nodes, "os")
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    given = {id(node.func): len(node.args) + len(node.keywords) for node in nodes if isinstance(node, ast.Call)}

    def is_clock(name: str, node: ast.expr) -> bool:
        return name in _ALWAYS or (name in _WITHOUT_ARGUMENT and given.get(id(node), 0) <= _WITHOUT_ARGUMENT[name])

    for node in nodes:
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in modules and is_clock(name, node):
                return True
            case ast.Call(func=ast.Attribute(attr=name)) if name in _METHODS - own:
                return True
            case ast.Call(func=ast.Attribute(attr="datetime64") | ast.Name(id="datetime64"), args=[ast.Constant(value=str(word)), *_]):
                if word.strip().lower() in _WORDS:
                    return True
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in systems and name in _SYSTEM:
                return True
            case ast.Name(id=local, ctx=ast.Load()) if system_functions.get(local) in _SYSTEM:
                return True
            case ast.Name(id=local, ctx=ast.Load()) if local in functions and is_clock(functions[local], node):
                return True
    return False


def _imported(nodes: list[ast.AST], module: str) -> tuple[set[str], dict[str, str]]:
    """Local names of the module, and of what was imported from it."""
    imports = [alias for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    members = [alias for node in nodes if isinstance(node, ast.ImportFrom) and node.module == module for alias in node.names]
    modules = {alias.asname or alias.name for alias in imports if alias.name == module}
    return modules, {local: name for alias in members for local, name in _names(alias)}


def _names(alias: ast.alias) -> Iterator[tuple[str, str]]:
    if alias.name == "*":
        yield from ((name, name) for name in (*_ALWAYS, *_WITHOUT_ARGUMENT, *_SYSTEM))
    else:
        yield alias.asname or alias.name, alias.name
