"""Seed problems. Every source yields dicts with the SEED columns of `schema.py` except the ids; `load_seeds` adds those.

Sources stream: no source holds all of its rows. A source is a function `(SeedsConfig) -> Iterator[Row]`, listed in `SOURCES`.
"""

from collections.abc import Callable, Iterator
from itertools import chain, islice

from caco_ray.config import SeedsConfig
from caco_ray.errors import SeedError
from caco_ray.schema import Row, row_id
from caco_ray.seeds.builtin import builtin_seeds
from caco_ray.seeds.files import file_seeds
from caco_ray.seeds.procedural import reasoning_gym_seeds

SOURCES: dict[str, Callable[[SeedsConfig], Iterator[Row]]] = {
    "builtin": lambda config: (row for row in builtin_seeds("train") if _wanted(row, config)),
    "reasoning_gym": reasoning_gym_seeds,
    "file": file_seeds,
}


def load_seeds(config: SeedsConfig) -> Iterator[Row]:
    """All seeds of a run, with ids, then the held-out built-in problems (split `heldout`), which every run is evaluated on.

    Raises:
        SeedError: a source is unreadable, incomplete or empty, or an id appears twice in it.
    """
    names = [*config.sources, *(["file"] if config.path is not None else [])]
    sources = [_checked(name, islice(SOURCES[name](config), config.limit)) for name in names]
    return chain(*sources, _checked("builtin", builtin_seeds("heldout")))


def _wanted(row: Row, config: SeedsConfig) -> bool:
    in_domains = config.domains is None or row["domain"] in config.domains
    return in_domains and (config.max_difficulty is None or row["difficulty"] <= config.max_difficulty)


def _checked(name: str, rows: Iterator[Row]) -> Iterator[Row]:
    seen: set[str] = set()
    for row in rows:
        parent = f"{row['source']}:{row['source_id']}"
        key = row_id(parent, "seeds", 0)
        if key in seen:
            raise SeedError(f"{row['source']}: the id {row['source_id']!r} appears twice; ids must be unique")
        seen.add(key)
        yield {**row, "row_id": key, "parent_id": parent}
    if not seen:
        raise SeedError(f"seed source {name!r} holds no problems (of the wanted domains and difficulty, where seeds names them)")
