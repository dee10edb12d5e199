"""Where a stage's rows come from: shard `i` of a stage is made of shard `i` of the stage before, or of a range of sample numbers.

Sources are small picklable descriptions; a worker reads its shard, so that no process holds a whole dataset. Shards are fixed by the
input alone: a restart cuts the same ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from caco_ray.schema import Row, row_id, to_table
from caco_ray.store import Dataset, Folder
from caco_ray.store.dataset import read_shard


@dataclass(frozen=True)
class ShardInput:
    """The rows that a stage starts from, and how many parent rows they were made of."""

    table: pa.Table
    rows_in: int


class Source(Protocol):
    @property
    def shards(self) -> int: ...
    @property
    def expected_rows(self) -> int: ...  # for progress bars
    def read(self, shard: int) -> ShardInput: ...


def rows_per_shard(source: Source) -> int:
    """On average, at least 1: shards hold as many rows as the stages before left of them."""
    return max(1, source.expected_rows // max(1, source.shards))


@dataclass(frozen=True)
class SampleRange:
    """`samples` rows without parents, numbered from `first`: what `scale` asks the sampler for."""

    stage: str
    samples: int
    shard_rows: int
    schema: pa.Schema
    first: int = 0  # in later rounds the number of samples in all rounds before

    @property
    def shards(self) -> int:
        return -(-self.samples // self.shard_rows)

    @property
    def expected_rows(self) -> int:
        return self.samples

    def read(self, shard: int) -> ShardInput:
        numbers = range(self.first + shard * self.shard_rows, self.first + min((shard + 1) * self.shard_rows, self.samples))
        rows = [{"row_id": row_id(self.stage, self.stage, n), "parent_id": self.stage, "sample_index": n} for n in numbers]
        return ShardInput(to_table(rows, self.schema), len(rows))


@dataclass(frozen=True)
class KeptRows:
    """The kept rows of a closed dataset, `fan_out` children each.

    Children inherit the columns that both schemas have; `parent_column` keeps the parent's id for all later stages; `split` takes
    only the rows of one split.
    """

    stage: str
    folder: Folder
    schema: pa.Schema
    fan_out: int = 1
    parent_column: str | None = None
    split: str | None = None

    # The numbers alone are kept, not the data set's entries: a source travels to every worker.
    @cached_property
    def shards(self) -> int:
        return len(Dataset(self.folder).entries)

    @cached_property
    def expected_rows(self) -> int:
        dataset = Dataset(self.folder)
        if self.split is None:
            return dataset.totals.kept * self.fan_out
        return sum(pc.sum(pc.equal(table["split"], self.split)).as_py() or 0 for table in dataset.tables()) * self.fan_out

    def read(self, shard: int) -> ShardInput:
        table = read_shard(self.folder, shard)
        if self.split is not None:
            table = table.filter(pc.equal(table["split"], self.split))
        inherited = [name for name in table.schema.names if name in self.schema.names]
        parents = table.select(inherited).to_pylist()
        rows = [self._child(parent, index) for parent in parents for index in range(self.fan_out)]
        return ShardInput(to_table(rows, self.schema), len(parents))

    def _child(self, parent: Row, index: int) -> Row:
        child = {**parent, "row_id": row_id(parent["row_id"], self.stage, index), "parent_id": parent["row_id"]}
        if self.parent_column is not None:
            child[self.parent_column] = parent["row_id"]
        return child


@dataclass(frozen=True)
class Mapped:
    """Rows of another source in another shape: `function` turns a row into one of `schema`."""

    source: KeptRows
    schema: pa.Schema
    function: Callable[[Row], Row]

    @property
    def shards(self) -> int:
        return self.source.shards

    @property
    def expected_rows(self) -> int:
        return self.source.expected_rows

    def read(self, shard: int) -> ShardInput:
        given = self.source.read(shard)
        return ShardInput(to_table([self.function(row) for row in given.table.to_pylist()], self.schema), given.rows_in)


@dataclass(frozen=True)
class Joined:
    """The shards of several sources, one after the other."""

    parts: tuple[Source, ...]

    @property
    def shards(self) -> int:
        return sum(part.shards for part in self.parts)

    @property
    def expected_rows(self) -> int:
        return sum(part.expected_rows for part in self.parts)

    def read(self, shard: int) -> ShardInput:
        part, its = self.place(shard)
        return self.parts[part].read(its)

    def place(self, shard: int) -> tuple[int, int]:
        """Which part a shard comes from, and its number there."""
        for number, part in enumerate(self.parts):
            if shard < part.shards:
                return number, shard
            shard -= part.shards
        raise IndexError(shard)

    def first_shard(self, part: int) -> int:
        return sum(before.shards for before in self.parts[:part])
