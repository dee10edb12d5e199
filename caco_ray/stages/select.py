"""Keys of duplicates and of contamination. Pure: the global shuffle over them is not here."""

import ast
import hashlib
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from caco_ray.stages import plain_text, program

_PREFIX = re.compile(r"^#+|^[rbfu]*[\"']+|[\"']+$", re.IGNORECASE)
_MIN_WORDS = 6  # shorter evaluation questions ("Factor x^2 - 1.") would mark half the field if looked for inside texts


def exact_key(code: str) -> int:
    """64 bits of the program text, without the blanks at the ends of lines and of the text."""
    return _hash("\n".join(line.rstrip() for line in code.strip().splitlines()))


def ast_key(code: str) -> int:
    """64 bits of the program up to the names it chose, comments, docstrings, annotations and layout.

    Renamed are variables, functions, parameters, and the keys of `input`, in order of appearance; `input` and `output` keep their names.
    Literals stay: the same calculation on other values is another program. Text that does not parse has its exact key.
    """
    tree = program.parse(code)
    if tree is None:
        return exact_key(code)
    try:
        return _hash(ast.dump(_Canonical(tree).visit(tree)))
    except RecursionError:
        return exact_key(code)


def program_keys(code: str) -> tuple[int, int]:
    """`exact_key` and `ast_key`."""
    return exact_key(code), ast_key(code)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class _Canonical(ast.NodeTransformer):
    """Renames what the program named itself, drops what has no effect."""

    def __init__(self, tree: ast.Module) -> None:
        self._own = _own_names(tree)
        self._methods = {node.name for outer in ast.walk(tree) if isinstance(outer, ast.ClassDef) for node in _defs(outer)}
        self._keys = set(program.input_keys(tree) or ())
        self._modules: dict[str, str] = {}  # local name of an import -> what it stands for
        self._names: dict[str, str] = {}

    def _rename(self, name: str) -> str:
        if name in self._modules:
            return self._modules[name]
        if name not in self._own and name not in self._keys:
            return name
        return self._names.setdefault(name, f"v{len(self._names)}")

    def visit_Import(self, node: ast.Import) -> ast.AST:
        for alias in node.names:
            if alias.asname:
                self._modules[alias.asname] = alias.name
                alias.asname = None
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        for alias in node.names:
            if alias.asname:
                self._modules[alias.asname] = alias.name
                alias.asname = None
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._rename(node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(self._rename(node.arg))

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr in self._methods:
            node.attr = self._rename(node.attr)
        return node

    def visit_Global(self, node: ast.Global) -> ast.AST:
        return ast.Global([self._rename(name) for name in node.names])

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.AST:
        return ast.Nonlocal([self._rename(name) for name in node.names])

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        if node.name:
            node.name = self._rename(node.name)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name, node.returns = self._rename(node.name), None
        return self._block(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self._rename(node.name)
        return self._block(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self._block(node)

    def _block(self, node: ast.FunctionDef | ast.ClassDef | ast.Module) -> ast.AST:
        node.body = [statement for statement in node.body if not _is_text(statement)] or [ast.Pass()]
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None or not isinstance(node.target, ast.Name):
            return self.generic_visit(node)
        return self.generic_visit(ast.Assign([node.target], node.value))

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if isinstance(node.value, ast.Dict) and any(isinstance(target, ast.Name) and target.id == "input" for target in node.targets):
            node.value.keys = [self._key(key) for key in node.value.keys]
        return self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        node.slice = self._key(node.slice) or node.slice
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop") and node.args:
            node.args[0] = self._key(node.args[0]) or node.args[0]
        if isinstance(node.func, ast.Name) and node.func.id in self._own:  # names of parameters, not those of a library
            for keyword in node.keywords:
                keyword.arg = self._rename(keyword.arg) if keyword.arg else None
        return self.generic_visit(node)

    def _key(self, node: ast.expr | None) -> ast.expr | None:
        value = program.constant(node)
        return ast.Constant(self._rename(value)) if isinstance(value, str) and value in self._keys else node


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(program.constant(statement.value), str)


def _defs(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    return (child for child in node.body if isinstance(child, ast.FunctionDef) and not child.name.startswith("__"))


def _own_names(tree: ast.Module) -> set[str]:
    """Names that the program binds, less `input`, `output` and what it imports."""
    own: set[str] = set()
    imported: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                own.add(name)
            case ast.ExceptHandler(name=str(name)):
                own.add(name)
            case ast.alias(name=name, asname=local):
                imported.add(local or name)
    dunders = {name for name in own if name.startswith("__")}
    return own - imported - dunders - {"input", "output"}


# Contamination.


def words(text: str) -> list[str]:
    """Lower-case words without punctuation, as 13-gram decontamination compares them (GPT-3, arXiv 2005.14165, appendix C)."""
    return plain_text.words(plain_text.plain(text))


def ngrams(text: str, n: int) -> set[str]:
    """All runs of `n` words; a shorter text has none."""
    return set(_runs(words(text), n))


def _runs(tokens: list[str], n: int) -> Iterator[str]:
    return (" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def program_prose(code: str) -> list[str]:
    """Comments and string literals of a program in their order: where a question hides that the code between them breaks up."""
    pieces: list[str] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING):
                pieces.append(_said(token.string))
    except (tokenize.TokenError, SyntaxError, ValueError):  # what was read until then counts
        pass
    return pieces


def _said(token: str) -> str:
    """What a comment says; the value of a string, and what stands between the quotes of an f-string."""
    tree = None if token.startswith("#") else program.parse(token)
    value = program.constant(tree.body[0].value) if tree and isinstance(tree.body[0], ast.Expr) else None
    return value if isinstance(value, str) else _PREFIX.sub("", token)


@dataclass(frozen=True)
class EvaluationIndex:
    """Runs of words of protected questions, and `whole`: every question of two terms or more, in `plain_text.terms`.

    `runs`: all of them; `lengths`: of those that begin with the same `head` words.
    """

    head: int
    lengths: dict[str, tuple[int, ...]]
    runs: frozenset[str]
    whole: frozenset[str]


def evaluation_index(questions: Iterable[str], n: int) -> EvaluationIndex:
    """Index the protected questions. One of fewer than `n` words is found inside a text if it has at least 6; a shorter one only where
    it is the whole text.

    Each is read twice, with punctuation deleted (where `x_1` is `x1`) and parted by it (where `5-foot` is `5 foot`). Parted runs are longer
    by half: a formula has many parts that say little ("in the form m/n where m and n are").
    """
    head, lengths, runs, whole = min(n, _MIN_WORDS), dict[str, set[int]](), set[str](), set[str]()
    for question in questions:
        plain = plain_text.plain(question)
        whole.add(plain_text.terms(plain))
        deleted = plain_text.words(plain)
        for tokens, longest in ((deleted, n), (plain_text.split_words(plain), n * 3 // 2)):
            length = min(longest, len(tokens))
            if head <= min(length, len(deleted)):
                for run in _runs(tokens, length):
                    runs.add(run)
                    lengths.setdefault(" ".join(run.split(" ", head)[:head]), set()).add(length)
    by_head = {start: tuple(sorted(found)) for start, found in lengths.items()}
    return EvaluationIndex(head, by_head, frozenset(runs), frozenset(text for text in whole if " " in text))


def contamination(text: str, index: EvaluationIndex) -> bool:
    """True if the text shares a run of words with a protected question, or is one."""
    plain = plain_text.plain(text)
    deleted, parted = plain_text.words(plain), plain_text.split_words(plain)
    found = _has_run(deleted, index) or (parted != deleted and _has_run(parted, index))
    return found or plain_text.terms(plain) in index.whole


def _has_run(tokens: list[str], index: EvaluationIndex) -> bool:
    for at, start in enumerate(_runs(tokens, index.head)):
        if any(" ".join(tokens[at : at + length]) in index.runs for length in index.lengths.get(start, ())):
            return True
    return False


def program_contamination(code: str, index: EvaluationIndex) -> bool:
    """`contamination` of the program as it stands, of its comments and strings together, and of each of them."""
    pieces = program_prose(code)
    is_whole = any(plain_text.terms(plain_text.plain(piece)) in index.whole for piece in pieces)
    return is_whole or contamination(code, index) or contamination("\n".join(pieces), index)
