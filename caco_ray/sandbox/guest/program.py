"""Runs one program in this process and describes what it left behind. The process must already be sealed and is thrown away after."""

import _thread
import ast
import builtins
import random
import sys
import types
from collections.abc import Callable
from typing import Any

from caco_ray.sandbox.codec import NotPlainError, TooLargeError, encode, type_name
from caco_ray.sandbox.guest.console import Console
from caco_ray.sandbox.guest.frame import MAX_ERROR

_FUTURES = 0x1FF0000  # the CO_FUTURE_* bits of co_flags


def _split(source: str) -> list[types.CodeType]:
    """The program in one piece, or in two where its first top-level `input = ...` ends the first: `input` is read between the two."""
    if "input" not in source:
        return [compile(source, "<program>", "exec", dont_inherit=True)]
    tree = ast.parse(source, "<program>")
    for i, node in enumerate(tree.body[:-1]):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == "input" for target in targets):
            first = compile(ast.Module(tree.body[: i + 1], []), "<program>", "exec", dont_inherit=True)
            rest = ast.Module(tree.body[i + 1 :], [])
            return [first, compile(rest, "<program>", "exec", flags=first.co_flags & _FUTURES, dont_inherit=True)]
    return [compile(tree, "<program>", "exec", dont_inherit=True)]


def _describe(scope: dict[str, Any], name: str, max_bytes: int) -> dict[str, Any]:
    if name not in scope:
        return {"state": "absent", "value": None}
    try:
        return {"state": "plain", "value": encode(scope[name], max_bytes)}
    except NotPlainError as error:
        return {"state": "not_plain", "value": f"{name} is not a plain value: {error}"}
    except TooLargeError as error:
        return {"state": "too_large", "value": f"{name} is {error}"}


def _message(error: BaseException) -> str:
    try:
        text = str(error)
        return f"{type_name(error)}: {text[:MAX_ERROR]}"[:MAX_ERROR] if type(text) is str else type_name(error)
    except BaseException:  # a hostile __str__
        return type_name(error)


def seed_randomness(seed: int) -> None:
    """Seeds `random`, and `numpy.random` and `sympy.core.random` where they are loaded. Called after the fork."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
    sympy_random = sys.modules.get("sympy.core.random")
    if sympy_random is not None:
        sympy_random.seed(seed)


def run_program(
    source: bytes, *, seed: int, output_bytes: int, console: Console, before_reply: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Runs `source` (UTF-8) as `__main__`; returns the reply for the owner. `before_reply` is called as soon as the program has ended.

    Raises:
        MemoryError: even so there is no memory to describe it.
    """
    console.attach()
    reply: dict[str, Any] = {"status": "ok", "error": None, "mutated": False}
    scope = _main_module()
    seed_randomness(seed)
    try:
        try:
            try:
                _to_its_end(source.decode(), scope, reply, output_bytes)
            finally:
                before_reply()
        except SystemExit as error:
            if error.code not in (None, 0):
                reply.update(status="exited", error=f"SystemExit: {error.code!r}"[:MAX_ERROR])
        sys.settrace(None)
        sys.setprofile(None)
        reply["output"] = _describe(scope, "output", output_bytes)
        at_end = _describe(scope, "input", output_bytes)
        reply["mutated"] = reply.setdefault("input", at_end) != at_end
    except MemoryError as error:
        reply.update(status="oom", error=_message(error))
    except BaseException as error:
        sys.settrace(None)
        reply.update(status="error", error=_message(error))
    for name in ("input", "output"):
        reply.setdefault(name, {"state": "absent", "value": None})
    reply["stdout"] = console.text()
    return _judge(reply, console.full, console.max_bytes)


def _main_module() -> dict[str, Any]:
    """The namespace of a fresh `__main__`."""
    main = types.ModuleType("__main__")
    scope = main.__dict__
    scope["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.argv = ["<program>"]
    return scope


def _to_its_end(source: str, scope: dict[str, Any], reply: dict[str, Any], output_bytes: int) -> None:
    """Runs it, and waits as Python does for the threads that it started and that are no daemons."""
    try:
        _execute(source, scope, reply, output_bytes)
    except SystemExit:
        _join_threads()
        raise
    _join_threads()


def _join_threads() -> None:
    """By `threading` itself: the workers of `concurrent.futures` end only when told to."""
    threading = sys.modules.get("threading")
    if threading is not None and _thread._count():
        threading._shutdown()


def _execute(source: str, scope: dict[str, Any], reply: dict[str, Any], output_bytes: int) -> None:
    pieces = _split(source)
    exec(pieces[0], scope)
    if len(pieces) == 2:
        reply["input"] = _describe(scope, "input", output_bytes)
        exec(pieces[1], scope)


def _judge(reply: dict[str, Any], full: bool, stdout_bytes: int) -> dict[str, Any]:
    output = reply["output"]
    if full:
        reply.update(status="output_too_large", error=f"stdout is larger than {stdout_bytes} bytes")
    elif reply["status"] == "ok" and output["state"] == "absent":
        reply.update(status="no_output", error="the program assigns no variable `output`")
    elif reply["status"] == "ok" and output["state"] == "not_plain":
        reply.update(status="no_output", error=output["value"])
    elif reply["status"] == "ok" and output["state"] == "too_large":
        reply.update(status="output_too_large", error=output["value"])
    return reply
