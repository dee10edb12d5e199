"""Sampled text -> `code`."""

from caco_ray.schema import Row, reject
from caco_ray.stages.reply import extract_code


def parse(row: Row, text: str) -> None:
    """Fill `code` from a fenced block or raw text. Reasons: `no_code`, `several_code_blocks`."""
    code, reason = extract_code(text)
    if reason:
        reject(row, reason)
    row["code"] = code
