"""One pass over the shipped data set: sample rows, and which models, prompts and sandbox made it."""

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from caco_ray.errors import RunDirError
from caco_ray.schema import SHIPPED
from caco_ray.store import Dataset

_ROLES = ("sample", "reverse", "solve", "judge")
_SHOWN = ("row_id", "instruction", "output", "answer", "code")


@dataclass(frozen=True)
class Sample:
    """A shipped row. All of it but the id was written by models or programs: escape it wherever it is shown."""

    row_id: str
    question: str
    solution: str
    answer: str
    program: str


@dataclass(frozen=True)
class Maker:
    """A model and prompt that wrote a part of `rows` shipped rows."""

    role: str
    model: str
    prompt: str
    rows: int


@dataclass(frozen=True)
class Shipped:
    """The shipped data set in short. `sandbox_levels` and `styles` count rows, the most frequent first."""

    rows: int
    samples: tuple[Sample, ...]
    makers: tuple[Maker, ...]
    sandbox_levels: tuple[tuple[str, int], ...]
    styles: tuple[tuple[str, int], ...]
    parquet_bytes: int


def survey(dataset: Dataset, samples: int) -> Shipped:
    """Read the data set once, one shard in memory at a time.

    The sample is the `samples` smallest row ids: ids are hashes, so it is a random one, and the same one each time.

    Raises:
        RunDirError: a file is missing or damaged, or lacks a shipped column.
    """
    best = SHIPPED.empty_table().select(_SHOWN)
    makers: Counter[tuple[str, str, str]] = Counter()
    levels: Counter[str] = Counter()
    styles: Counter[str] = Counter()
    rows = 0
    for table in dataset.tables():
        _check_columns(dataset, table)
        rows += table.num_rows
        best = pa.concat_tables([best, table.select(_SHOWN).cast(best.schema)]).sort_by("row_id").slice(0, samples)
        levels.update(_counts(table, "sandbox_level"))
        for style, count in _counts(table, "question_style").items():
            styles[style.partition("/")[0]] += count
        for role in _ROLES:
            makers.update(_pairs(table, role))
    return Shipped(
        rows=rows,
        samples=tuple(Sample(*(row[name] or "" for name in _SHOWN)) for row in best.to_pylist()),
        makers=tuple(Maker(*key, count) for key, count in sorted(makers.items(), key=lambda item: _ROLES.index(item[0][0]))),
        sandbox_levels=tuple(levels.most_common()),
        styles=tuple(styles.most_common()),
        parquet_bytes=sum(entry.size_bytes for entry in dataset.entries),
    )


def _check_columns(dataset: Dataset, table: pa.Table) -> None:
    missing = [name for name in SHIPPED.names if name not in table.schema.names]
    if missing:
        raise RunDirError(f"{dataset.folder}: not a shipped data set of this version (no column {missing[0]!r}); choose another run.dir")


def _counts(table: pa.Table, column: str) -> dict[str, int]:
    pairs = zip(*(table[column].value_counts().flatten()), strict=True)
    return {value.as_py(): count.as_py() for value, count in pairs if value.is_valid}


def _pairs(table: pa.Table, role: str) -> dict[tuple[str, str, str], int]:
    """Rows by model and prompt of a role; rows that the role did not touch are left out."""
    model, prompt = f"{role}_model", f"{role}_prompt"
    groups = table.group_by([model, prompt]).aggregate([([], "count_all")]).to_pylist()
    return {(role, group[model], group[prompt] or ""): group["count_all"] for group in groups if group[model] is not None}
