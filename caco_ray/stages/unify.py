"""A converter's reply to a seed problem -> `code`. Seeds that bring code never reach the converter (see `Generate`)."""

from caco_ray.schema import Row
from caco_ray.stages import sample


def parse(row: Row, text: str) -> None:
    """Fill `code`. Reasons: `no_code`, `several_code_blocks`."""
    sample.parse(row, text)
