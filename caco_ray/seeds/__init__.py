"""Seed problems. Every source yields dicts with the SEED columns of `schema.py` except the ids; `load_seeds` adds those.

Sources stream: no source holds all of its rows, and some 16 bytes of each seed are held, to tell whether an id appears twice
(`uniqueness.py`). A source is a function `(SeedsConfig) -> Iterator[Row]`, listed in `SOURCES`; called again it gives the same rows.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import NoReturn

from caco_ray.config import SeedsConfig
from caco_ray.errors import SeedError
from caco_ray.schema import Row, row_id
from caco_ray.seeds.builtin import builtin_seeds
from caco_ray.seeds.files import file_seeds
from caco_ray.seeds.procedural import reasoning_gym_seeds
from caco_ray.seeds.uniqueness import unique

SOURCES: dict[str, Callable[[SeedsConfig], Iterator[Row]]] = {
    "builtin": lambda config: (row for row in builtin_seeds("train") if _wanted(row, config)),
    "reasoning_gym": reasoning_gym_seeds,
    "file": file_seeds,
}


def load_seeds(config: SeedsConfig) -> Iterator[Row]:
    """All seeds of a run, with ids, then the held-out built-in problems (split `heldout`), which every run is evaluated on.

    Raises:
        SeedError: a source is unreadable, incomplete or empty, or (after its last row) an id appears twice in it.
    """
    names = [*config.sources, *(["file"] if config.path is not None else [])]
    sources = [_checked(name, partial(_first, name, config)) for name in names]
    return chain(*sources, _checked("builtin", partial(builtin_seeds, "heldout")))


def _first(name: str, config: SeedsConfig) -> Iterator[Row]:
    return islice(SOURCES[name](config), config.limit)


def _wanted(row: Row, config: SeedsConfig) -> bool:
    in_domains = config.domains is None or row["domain"] in config.domains
    return in_domains and (config.max_difficulty is None or row["difficulty"] <= config.max_difficulty)


def _checked(name: str, read: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    is_empty = True
    for row in unique(lambda: map(_with_ids, read()), lambda row: str(row["row_id"]), _refuse):
        is_empty = False
        yield row
    if is_empty:
        raise SeedError(f"seed source {name!r} holds no problems (of the wanted domains and difficulty, where seeds names them)")


def _refuse(first: Row, second: Row) -> NoReturn:
    raise SeedError(f"{second['source']}: the id {second['source_id']!r} appears twice; ids must be unique")


def _with_ids(row: Row) -> Row:
    parent = f"{row['source']}:{row['source_id']}"
    return {**row, "row_id": row_id(parent, "seeds", 0), "parent_id": parent}
