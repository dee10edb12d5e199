"""What is recorded of each committed shard, and the sums over a dataset."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from caco_ray.errors import StageContractError
from caco_ray.schema import is_measured

DATA, MANIFEST = "data", "manifest"
PART = re.compile(r"data/part-(\d{6,})-[0-9a-f]+\.parquet")
ENTRY = re.compile(r"(\d{6,})\.json")
_SHARED = ("fingerprint", "model", "prompt", "code_version")  # by nearly all shards


@dataclass(frozen=True, slots=True)
class Totals:
    """Rows by fate. `rows_in * fan_out == rows == kept + sum(rejected) + quarantined`; `sums` adds up the counters of the rows."""

    rows_in: int = 0
    rows: int = 0
    kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    quarantined: int = 0
    sums: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One committed shard: where its rows are and what became of them. A driver holds one for each: about 1 KB."""

    shard: int
    file: str
    sha256: str
    size_bytes: int
    seconds: float
    totals: Totals
    # These are empty in entries of before they were recorded.
    fingerprint: str = ""  # of the stage that made it
    content: str = ""  # hash of the columns that are not measured: the same for the same rows on another day
    # Also empty where no model had a part in the stage.
    model: str = ""  # name@fingerprint of the weights that its rows were filled by
    prompt: str = ""
    code_version: str = ""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @staticmethod
    def from_json(data: bytes | str) -> "ShardEntry":
        """The entry.

        Raises:
            ValueError: the text is not one.
        """
        return ShardEntry.from_fields(json.loads(data))

    @staticmethod
    def from_fields(fields: Any) -> "ShardEntry":
        """The same from parsed JSON."""
        try:
            shared = {name: sys.intern(fields.get(name, "")) for name in _SHARED}
            entry = ShardEntry(**{**fields, **shared, "totals": _totals(**fields["totals"])})
            is_part_of = PART.fullmatch(entry.file)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a manifest entry: {error}") from error
        if is_part_of is None or int(is_part_of[1]) != entry.shard:
            raise ValueError(f"shard {entry.shard} names the file {entry.file!r}")
        return entry


def _totals(rejected: dict[str, int], sums: dict[str, float], **counts: int) -> Totals:
    """All shards share the names of reasons and counters."""
    return Totals(
        rejected={sys.intern(name): value for name, value in rejected.items()},
        sums={sys.intern(name): value for name, value in sums.items()},
        **counts,
    )


def parse(body: bytes) -> Any:
    """JSON in which each entry becomes a `ShardEntry` as soon as it is read: thousands of parsed objects are not held beside them.

    Raises:
        ValueError: not JSON, or an entry is none.
    """
    return json.loads(body, object_hook=lambda fields: ShardEntry.from_fields(fields) if fields.keys() >= {"sha256", "totals"} else fields)


def entry_name(shard: int) -> str:
    return f"{MANIFEST}/{shard:06d}.json"


def count_rows(table: pa.Table, rows_in: int, fan_out: int) -> Totals:
    """Count a shard by fate, and check the conservation law.

    Raises:
        StageContractError: rows were lost or doubled, or an id appears twice.
    """
    if table.num_rows != rows_in * fan_out:
        raise StageContractError(f"{table.num_rows} rows came out of {rows_in} x {fan_out}: a stage lost or doubled rows")
    if pc.count_distinct(table["row_id"]).as_py() != table.num_rows:
        raise StageContractError("a row_id appears twice in one shard")
    reasons, quarantined = table["reject_reason"], table.num_rows - table["infra_error"].null_count
    if quarantined:  # they count as that, whatever else is said of them
        reasons = reasons.filter(pc.is_null(table["infra_error"]))
    rejected = {count["values"]: count["counts"] for count in pc.value_counts(reasons.drop_null()).to_pylist()}
    return Totals(
        rows_in=rows_in,
        rows=table.num_rows,
        kept=reasons.null_count,
        rejected=rejected,
        quarantined=quarantined,
        sums=_sums(table),
    )


def add_up(entries: Iterable[ShardEntry]) -> Totals:
    """Totals of many shards."""
    rows_in = rows = kept = quarantined = 0
    rejected: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for totals in (entry.totals for entry in entries):
        rows_in += totals.rows_in
        rows += totals.rows
        kept += totals.kept
        quarantined += totals.quarantined
        rejected.update(totals.rejected)
        for key, value in totals.sums.items():
            sums[key] += value  # type: ignore[assignment]  # Counter adds floats as well
    return Totals(rows_in, rows, kept, dict(rejected.most_common()), quarantined, dict(sums))


def _sums(table: pa.Table) -> dict[str, float]:
    counters = [name for name in table.schema.names if name.endswith("_tokens") or is_measured(name)]
    return {name: pc.sum(table[name]).as_py() or 0 for name in counters}
