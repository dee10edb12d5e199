"""Runs one program in this process and describes what it left behind. The process must already be sealed and is thrown away after."""

import ast
import builtins
import io
import random
import sys
import types
from typing import Any

from caco_ray.sandbox.codec import NotPlainError, TooLargeError, encode, type_name

_FUTURES = 0x1FF0000  # the CO_FUTURE_* bits of co_flags


class _StdoutFullError(BaseException):
    """The program printed more than it may; not an Exception, so that `except Exception` does not swallow it."""


class BoundedStdout(io.TextIOBase):
    """Keeps the first `max_bytes` of what is written, then raises at every write."""

    def __init__(self, max_bytes: int) -> None:
        self.parts: list[str] = []
        self.left = max_bytes
        self.full = False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if type(text) is not str:
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.parts.append(text[: self.left])
        self.left -= len(text)
        if self.left < 0:
            self.left = 0
            self.full = True
            raise _StdoutFullError
        return len(text)

    def text(self) -> str:
        return "".join(self.parts)


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
        return f"{type_name(error)}: {text[:400]}" if type(text) is str else type_name(error)
    except BaseException:  # a hostile __str__
        return type_name(error)


def seed_randomness(seed: int) -> None:
    """Seeds `random`, and `numpy.random` where numpy is loaded. Called after the fork."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


def run_program(source: bytes, *, seed: int, output_bytes: int, stdout_bytes: int) -> dict[str, Any]:
    """Runs `source` (UTF-8) as `__main__`; returns the reply for the owner."""
    stdout = BoundedStdout(stdout_bytes)
    sys.stdout = sys.stderr = stdout
    sys.stdin = io.StringIO()
    main = types.ModuleType("__main__")
    scope = main.__dict__
    scope["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.argv = ["<program>"]
    reply: dict[str, Any] = {"status": "ok", "error": None, "mutated": False}
    taken: dict[str, Any] | None = None
    seed_randomness(seed)
    try:
        try:
            pieces = _split(source.decode())
            exec(pieces[0], scope)
            if len(pieces) == 2:
                taken = _describe(scope, "input", output_bytes)
                exec(pieces[1], scope)
        except SystemExit as error:
            if error.code not in (None, 0):
                reply.update(status="exited", error=f"SystemExit: {error.code!r}"[:400])
        sys.settrace(None)
        sys.setprofile(None)
        reply["input"] = _describe(scope, "input", output_bytes)
        reply["output"] = _describe(scope, "output", output_bytes)
        reply["mutated"] = taken is not None and taken != reply["input"]
    except MemoryError as error:
        reply.update(status="oom", error=_message(error))
    except BaseException as error:
        sys.settrace(None)
        reply.update(status="error", error=_message(error))
    if taken is not None:
        reply["input"] = taken
    for name in ("input", "output"):
        reply.setdefault(name, {"state": "absent", "value": None})
    reply["stdout"] = stdout.text()
    return _judge(reply, stdout.full, stdout_bytes)


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
