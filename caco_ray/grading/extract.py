r"""Find the final answers that a worked solution states.

Forms, strongest first: `\boxed{X}`; a line `#### X`; `Final answer: X`, `The final answer is X`, `The answer is X`, `Answer: X`.
Text before `</think>` is scratch work and is not read. A box that never closes (a truncated text) is no answer.

A solution may state its answer more than once. `stated_answers` returns all statements of the strongest form found, so that the caller
can demand that they agree; `final_answer` returns the last one, which is the convention of benchmarks. Boxes joined by nothing but
commas, "and" or "or" (`\boxed{1} and \boxed{2}`) are one answer with several items, and so are boxes side by side on one line with
different contents; a box that says the same once more, or stands on a line of its own, is another statement.
"""

import re

_BOX = re.compile(r"\\f?boxed\s*(?=\{|[^\s{])")
_JOINT = re.compile(r"(?:[\s$,;]|\\[\[\]() ,;]|\\q?quad|\\text\s*\{\s*(?:and|or)\s*\}|\band\b|\bor\b)*")
_JOINS = re.compile(r"(?<!\\)[,;]|\band\b|\bor\b")
_HASHES = re.compile(r"^\s*####\s*(\S.*)$", re.MULTILINE)
# Behind the phrase the answer follows on the line, or on the next that is not empty if that is no sentence (a capital and three more
# words); behind a line that only opens display math, inside it. Possessive: what was taken for markup is never read as the answer.
_NEXT_LINE = r"\r?\n(?!\s*(?-i:[A-Z])[a-z]+(?:[ \t]+\S+){3})(?:[\s*_]|-[ \t])*+"
_IS = rf"[*_]*(?:\s+is\b[ \t]*+:?+|\s*+:)[ \t*_]*+(?:{_NEXT_LINE})?+(?:(?:\$\$|\\\[)[ \t]*\r?\n\s*)?+(?=(\S.*))"
_FINAL = re.compile(rf"\bfinal answer\b{_IS}", re.IGNORECASE)
_ANSWER_IS = re.compile(rf"\b(?:final\s+)?answer\b{_IS}", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?=\s+[A-Z\\$*]|\s*$)")


def final_answer(text: str) -> str | None:
    """The answer that the solution ends with, or None when it states none."""
    stated = stated_answers(text)
    return stated[-1] if stated else None


def stated_answers(text: str) -> list[str]:
    """Every final answer that the text states, in order; empty when it states none.

    After the last box only `#### X` and "final answer" count as another statement: prose such as "the answer is positive" does not.
    """
    text = text.rsplit("</think>", 1)[-1]
    boxes, end = _boxed(text)
    if boxes:
        return boxes + [line for line in _lines(text[end:]) if not _BOX.search(line)]
    return _lines(text) or _sentences(_ANSWER_IS, text)


def _lines(text: str) -> list[str]:
    hashes = [match.group(1).strip() for match in _HASHES.finditer(text)]
    return hashes or _sentences(_FINAL, text)


def _sentences(phrase: re.Pattern[str], text: str) -> list[str]:
    found = []
    for match in phrase.finditer(text):
        answer = match.group(1)
        while (inner := _ANSWER_IS.match(answer.removeprefix("The ").removeprefix("the "))) is not None:
            answer = inner.group(1)  # "Final answer: The final answer is X"
        found.append(_SENTENCE_END.split(answer, maxsplit=1)[0].strip(" \t*_"))
    return [answer for at, answer in enumerate(found) if answer and answer not in found[:at]]


def _boxed(text: str) -> tuple[list[str], int]:
    """Contents of the outermost boxes, neighbours joined, and where the last one ends."""
    answers: list[str] = []
    end, last = 0, ""
    for match in _BOX.finditer(text):
        if match.start() < end:
            continue  # inside the box before
        span = _content(text, match.end())
        if span is None:
            continue
        content, after = span
        if not content:
            continue
        if answers and _joins(text[end : match.start()], content != last):
            answers[-1] = f"{answers[-1]}, {content}"
        else:
            answers.append(content)
        end, last = after, content
    return answers, end


def _joins(between: str, differ: bool) -> bool:
    return bool(_JOINT.fullmatch(between) and (_JOINS.search(between) or (differ and "\n" not in between)))


def _content(text: str, start: int) -> tuple[str, int] | None:
    r"""The balanced group at `start`, or the single token of `\boxed 5`; None when the group never closes."""
    if text[start] != "{":
        token = re.compile(r"[^\s$.,;]+").match(text, start)
        return (token.group(), token.end()) if token else None
    depth, at = 0, start
    while at < len(text):
        character = text[at]
        if character == "\\":
            at += 2  # an escaped brace is a character, not a group
            continue
        depth += (character == "{") - (character == "}")
        if depth == 0:
            inner = text[start + 1 : at].strip()
            nested = _BOX.match(inner)
            if nested and (span := _content(inner, nested.end())) and span[1] == len(inner):
                inner = span[0]
            return inner, at + 1
        at += 1
    return None
