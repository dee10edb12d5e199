"""Rows -> `tokens.arrow`: every training sequence tokenised once, memory-mapped by all workers.

Columns: `row_id`, `input_ids` (list<int32>), `learn` (list<bool>, true where the loss counts the token). Over-long sequences are left
out whole and counted, never cut; `skipped.jsonl` beside the file names them.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from caco_ray.errors import UserError
from caco_ray.prompts import Segment
from caco_ray.training.types import Examples, Rows, TokenStats

TOO_LONG = "too_long"
NOTHING_TO_LEARN = "nothing_to_learn"
_SCHEMA = pa.schema([("row_id", pa.string()), ("input_ids", pa.list_(pa.int32())), ("learn", pa.list_(pa.bool_()))])
_ROWS_PER_BATCH = 1024


@dataclass(frozen=True)
class Sequence:
    row_id: str
    input_ids: list[int]
    learn: list[bool]


def write_tokens(rows: Rows, examples: Examples, tokenizer: Any, max_length: int, path: Path) -> TokenStats:
    """Tokenise every example of every row into `path`; the file appears whole or not at all.

    Raises:
        UserError: there are no rows, or none of their examples can be used.
    """
    skipped: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    partial = path.with_suffix(".partial")
    with (
        pa.OSFile(str(partial), "wb") as file,
        pa.ipc.new_file(file, _SCHEMA) as writer,
        path.with_name("skipped.jsonl").open("w") as skipped_file,
    ):
        buffer: list[dict[str, Any]] = []
        for sequence in _sequences(rows, examples, tokenizer, counts):
            reason = _unusable(sequence, max_length)
            if reason:
                skipped[reason] += 1
                entry = {"row_id": sequence.row_id, "reason": reason, "tokens": len(sequence.input_ids)}
                skipped_file.write(json.dumps(entry) + "\n")
                continue
            counts["examples"] += 1
            counts["tokens"] += len(sequence.input_ids)
            counts["learned"] += sum(sequence.learn)
            buffer.append(asdict(sequence))
            if len(buffer) == _ROWS_PER_BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(buffer, schema=_SCHEMA))
                buffer.clear()
        if buffer:
            writer.write_batch(pa.RecordBatch.from_pylist(buffer, schema=_SCHEMA))
    stats = TokenStats(counts["rows"], counts["examples"], counts["tokens"], counts["learned"], dict(skipped))
    _require_some(stats, max_length)
    os.replace(partial, path)
    return stats


def _sequences(rows: Rows, examples: Examples, tokenizer: Any, counts: Counter[str]) -> Iterator[Sequence]:
    prefix = start_ids(tokenizer)
    for row in rows():
        counts["rows"] += 1
        for segments in examples(row):
            yield _encode(row["row_id"], segments, tokenizer, prefix)


def _encode(row_id: str, segments: tuple[Segment, ...], tokenizer: Any, prefix: list[int]) -> Sequence:
    input_ids, learn = list(prefix), [False] * len(prefix)
    for segment in segments:
        ids = tokenizer(segment.text, add_special_tokens=False).input_ids  # text of special tokens becomes their ids
        input_ids += ids
        learn += [segment.learn] * len(ids)
    return Sequence(row_id, input_ids, learn)


def start_ids(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before raw text (nothing, or the BOS token): an engine that is given the prompt as text does the same."""
    bare = tokenizer("x", add_special_tokens=False).input_ids
    full = tokenizer("x", add_special_tokens=True).input_ids
    return list(full[: full.index(bare[0])]) if bare[0] in full else []


def _unusable(sequence: Sequence, max_length: int) -> str | None:
    if len(sequence.input_ids) > max_length:
        return TOO_LONG
    return None if any(sequence.learn[1:]) else NOTHING_TO_LEARN  # the first token has nothing before it to be predicted from


def _require_some(stats: TokenStats, max_length: int) -> None:
    if stats.rows == 0:
        raise UserError("training data: no rows were kept by the stages before; look at the reasons in their report")
    if stats.examples == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in stats.skipped.items()) or "no row has the columns of training.roles"
        raise UserError(f"training data: none of {stats.rows} rows can be used ({reasons}; training max_length={max_length} tokens)")


class TokenFile:
    """Random access to `tokens.arrow` without loading it."""

    def __init__(self, path: str) -> None:
        self._table = pa.ipc.open_file(pa.memory_map(path)).read_all()
        self.lengths = np.concatenate([chunk.value_lengths().to_numpy() for chunk in self._table["input_ids"].chunks])

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (int32) and learn flags (bool) of one example."""
        ids = self._table["input_ids"][index].values.to_numpy()
        return ids, self._table["learn"][index].values.to_numpy(zero_copy_only=False)

    def row_ids(self, indices: list[int]) -> list[str]:
        return [self._table["row_id"][index].as_py() for index in indices]
