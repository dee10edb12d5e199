"""The shipped data set as JSON Lines beside its Parquet: one file per shard, the same rows and columns."""

import json

from caco_ray.store import Dataset


def export_json_lines(dataset: Dataset) -> None:
    """Write `jsonl/part-*.jsonl` into the data set's folder, one shard in memory at a time."""
    for entry in dataset.entries:
        rows = dataset.read(entry.shard).to_pylist()
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if lines:
            dataset.folder.write(f"jsonl/part-{entry.shard:06d}.jsonl", lines.encode())
