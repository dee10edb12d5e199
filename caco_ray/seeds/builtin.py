"""The built-in problems, written for this project: `builtin/<domain>.jsonl`, with question, language CoT, Code CoT and answer.

Every eighth problem of a domain is held out (split `heldout`): never trained on, used by `evaluate` and protected by `select`.
"""

import json
from collections.abc import Iterator
from importlib.resources import files

from caco_ray.schema import Row


def builtin_seeds(split: str) -> Iterator[Row]:
    """Rows of one split (`train` or `heldout`), by domain in alphabetical order, in file order."""
    folder = files("caco_ray.seeds") / "builtin"
    for file in sorted((item for item in folder.iterdir() if item.name.endswith(".jsonl")), key=lambda item: item.name):
        for line in file.read_text(encoding="utf-8").splitlines():
            problem = json.loads(line)
            if problem["split"] == split:
                yield {**{key: value for key, value in problem.items() if key != "id"}, "source": "builtin", "source_id": problem["id"]}
