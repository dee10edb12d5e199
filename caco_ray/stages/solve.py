"""A solver's reply -> `solution`. The final answer is read from it and compared in `agreement`."""

from caco_ray.schema import Row, reject
from caco_ray.stages.reply import without_thinking


def parse(row: Row, text: str) -> None:
    """Fill `solution` with the reply without its hidden thinking. Reason: `empty_generation` if nothing else is left."""
    solution = without_thinking(text)
    if not solution:
        reject(row, "empty_generation")
    row["solution"] = solution or None
