"""What a model wrote, taken apart: its thinking, its code blocks, its tagged answer."""

import re
import textwrap

# A template may have opened the thinking in the prompt; thinking that never ends is all there is.
_THINKING = re.compile(r"^\s*<think>.*?(?:</think>|\Z)|^(?:(?!<think>).)*?</think>", re.DOTALL)
# The closing fence has a line of its own, or ends the last line of the code.
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+.-]*)[^\n]*\n(.*?)(?:\1[`~]*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_PYTHON = re.compile(r"(?:py(?:thon)?[\d.]*|pycon)?", re.IGNORECASE)
_CODE_LINE = re.compile(r"^(?:(?:import|from|def|class|input|output)\b|\w+\s*=[^=])", re.MULTILINE)
_INPUT = re.compile(r"^input\s*(?::[^=\n]+)?=", re.MULTILINE)
_OUTPUT = re.compile(r"^\s*output\s*(?::[^=\n]+)?=", re.MULTILINE)


def without_thinking(text: str) -> str:
    """The reply after the thinking of a reasoning model: `<think>...</think>` at its begin, or all up to a lone `</think>`."""
    return _THINKING.sub("", text, count=1).strip()


def fenced_blocks(text: str) -> list[str]:
    """Bodies of the fenced blocks that hold Python or do not say what they hold; a fence left open ends with the text."""
    found = _FENCE.findall(text.replace("\r\n", "\n"))
    return [_flush_left(body.rstrip(" \t").strip("\n")) for _, language, body in found if _PYTHON.fullmatch(language)]


def _flush_left(body: str) -> str:
    """Less the indentation of a list item that the block stands in."""
    return textwrap.dedent(body) if body[:1] in (" ", "\t") else body


def extract_code(text: str) -> tuple[str | None, str | None]:
    """The one program of a reply as `(code, None)`, or `(None, reason)`.

    A reply without fences is code if a line of it looks like code: whether it parses is the filters' affair. Of several
    blocks the one that assigns both `input` and `output` counts, if only one does.
    """
    text = without_thinking(text)
    blocks = [block for block in fenced_blocks(text) if block.strip()]
    if not blocks:
        has_code = "```" not in text and _CODE_LINE.search(text)
        return (text, None) if has_code else (None, "no_code")
    if len(blocks) > 1:
        blocks = [block for block in blocks if _INPUT.search(block) and _OUTPUT.search(block)] or blocks
        blocks = list(dict.fromkeys(blocks))
    return (blocks[0], None) if len(blocks) == 1 else (None, "several_code_blocks")


def tagged(text: str, tag: str) -> str | None:
    """Content of the last `<tag>...</tag>`; a tag left open ends with the text. None without a tag."""
    start = text.rfind(f"<{tag}>")
    if start < 0:
        return None
    return text[start + len(tag) + 2 :].split(f"</{tag}>", 1)[0].strip()
