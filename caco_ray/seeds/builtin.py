"""The built-in problems, written for this project: `builtin/<domain>.jsonl`, with question, language CoT, Code CoT and answer.

Every eighth problem of a domain is held out (split `heldout`): never trained on, used by `evaluate` and protected by `select`.
"""

import hashlib
import json
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

from caco_ray.schema import Row


def builtin_seeds(split: str) -> Iterator[Row]:
    """Rows of one split (`train` or `heldout`), by domain in alphabetical order, in file order."""
    for file in _files():
        for line in file.read_text(encoding="utf-8").splitlines():
            problem = json.loads(line)
            if problem["split"] == split:
                yield {**{key: value for key, value in problem.items() if key != "id"}, "source": "builtin", "source_id": problem["id"]}


def builtin_digest() -> str:
    """16 hex digits over all built-in problems."""
    return hashlib.blake2b(b"".join(file.read_bytes() for file in _files()), digest_size=8).hexdigest()


def _files() -> list[Traversable]:
    folder = files("caco_ray.seeds") / "builtin"
    return sorted((item for item in folder.iterdir() if item.name.endswith(".jsonl")), key=lambda item: item.name)
