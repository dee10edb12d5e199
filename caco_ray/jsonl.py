"""The shipped data set as JSON Lines beside its Parquet: one file per shard, the same rows and columns."""

import json

import pyarrow as pa

from caco_ray.store import Dataset


def export_json_lines(dataset: Dataset) -> None:
    """Write `jsonl/part-*.jsonl` into the data set's folder, one shard in memory at a time; none for a shard without rows."""
    for entry in dataset.entries:
        if lines := json_lines(dataset.read(entry.shard)):
            dataset.folder.write(json_name(entry.shard), lines)
        else:
            dataset.folder.delete(json_name(entry.shard))


def is_exported(dataset: Dataset) -> bool:
    """Whether the files of all shards are there, and no others; one listing."""
    there = {f"jsonl/{name}" for name in dataset.folder.names("jsonl")}
    return there == {json_name(entry.shard) for entry in dataset.entries if entry.totals.kept}


def json_lines(table: pa.Table) -> bytes:
    """One object a row, UTF-8."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()).encode()


def json_name(shard: int) -> str:
    return f"jsonl/part-{shard:06d}.jsonl"
