"""Rows -> `tokens.arrow`: every training sequence tokenised once, memory-mapped by all workers.

Columns: `row_id`, `source` (which data set of the mixture), `heldout`, `input_ids` (list<int32>), `learn` (list<bool>, true where the
loss counts the token), `learned` (how many those are). What cannot be used is left out whole and counted, never cut: sequences that are
`too_long` or have `nothing_to_learn`, rows with `no_columns` to learn from or kept `for_evaluation`. `skipped.jsonl` beside the file names
them. `tokens.json`, written last, says what the file was made of: an interrupted training finds it and goes on.
"""

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caco_ray import __version__
from caco_ray.config import TrainingConfig
from caco_ray.errors import UserError
from caco_ray.prompts import TAUGHT_BY, Segment, as_solved
from caco_ray.raw_text import RawText
from caco_ray.schema import Row
from caco_ray.store import Folder
from caco_ray.training.plan import Mixed
from caco_ray.training.types import TokenStats, TrainingData

TOO_LONG = "too_long"
NOTHING_TO_LEARN = "nothing_to_learn"
NO_COLUMNS = "no_columns"
FOR_EVALUATION = "for_evaluation"
_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("source", pa.int16()),
        ("heldout", pa.bool_()),
        ("input_ids", pa.list_(pa.int32())),
        ("learn", pa.list_(pa.bool_())),
        ("learned", pa.int32()),
    ]
)
_ROWS_PER_BATCH = 1024
_LAYOUT = 2  # raise when the same rows give other tokens, or other figures of them
_STUDENT_COLUMNS = ("instruction", "output")
_COLUMNS = frozenset((*_STUDENT_COLUMNS, *(name for names in TAUGHT_BY.values() for name in names)))


@dataclass(frozen=True)
class Example:
    """One row of `tokens.arrow`."""

    row_id: str
    source: int
    heldout: bool
    input_ids: list[int]
    learn: list[bool]
    learned: int  # the first token has nothing before it to be predicted from, and never counts
    roles: tuple[str, ...] = ()  # that it teaches; no column


def write_tokens(data: Sequence[TrainingData], tokenizer: Any, training: TrainingConfig, path: Path) -> TokenStats:
    """Tokenise every example of every row of the mixture into `path`, unless that has been done; the file appears whole or not at all.

    Raises:
        UserError: there are no rows, none of the examples of a data set can be used, or none teaches one of its roles.
    """
    note, key = path.with_suffix(".json"), _key(data, tokenizer, training)
    if key and (known := _known(path, key)) is not None:
        return known
    note.unlink(missing_ok=True)
    partial = path.with_suffix(".partial")
    with (
        pa.OSFile(str(partial), "wb") as file,
        pa.ipc.new_file(file, _SCHEMA) as writer,
        path.with_name("skipped.jsonl").open("w") as skipped_file,
    ):
        buffer: list[Example] = []
        counts = _Counts(skipped_file)
        for example in _examples(data, tokenizer, training, counts):
            if counts.take(example, training.max_length):
                buffer.append(example)
            if len(buffer) == _ROWS_PER_BATCH:
                writer.write_batch(_record_batch(buffer))
                buffer.clear()
        if buffer:
            writer.write_batch(_record_batch(buffer))
    for source, entry in enumerate(data):
        counts.require_some(source, entry.name, training)
        counts.require_roles(source, entry, training)
    stats = counts.stats(data)
    if training.heldout_fraction and not stats.heldout:
        raise UserError(f"training heldout_fraction={training.heldout_fraction}: holds out none of {stats.examples} examples; raise it")
    os.replace(partial, path)
    Folder(str(path.parent)).write(note.name, json.dumps({"key": key, "stats": asdict(stats)}).encode())
    return stats


def _record_batch(examples: list[Example]) -> pa.RecordBatch:
    """Column by column: rows as dicts take as long to turn around as the tokenizer takes to make them."""
    columns = [pa.array([getattr(example, field.name) for example in examples], field.type) for field in _SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _known(path: Path, key: str) -> TokenStats | None:
    """Of tokens that were made of the same things; None where there are none, or not all of their files."""
    try:
        noted = json.loads(path.with_suffix(".json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    whole = path.exists() and path.with_name("skipped.jsonl").exists()
    return TokenStats(**noted["stats"]) if whole and noted["key"] == key else None


class _Counts:
    """What has been seen, by data set."""

    def __init__(self, skipped_file: TextIO) -> None:
        self._skipped_file = skipped_file
        self.rows: Counter[int] = Counter()
        self.kept: Counter[tuple[int, bool]] = Counter()  # by data set and `heldout`
        self.skipped: dict[int, Counter[str]] = {}
        self.columns: dict[int, set[str]] = {}  # that some row has, of those that teach
        self.found: Counter[tuple[int, str]] = Counter()  # sequences by data set and role
        self.taught: Counter[tuple[int, str]] = Counter()  # those of them that are trained on
        self.tokens = self.learned = 0

    def skip(self, source: int, row_id: str, reason: str, tokens: int | None = None) -> None:
        self.skipped.setdefault(source, Counter())[reason] += 1
        self._skipped_file.write(json.dumps({"row_id": row_id, "reason": reason, "tokens": tokens}) + "\n")

    def see(self, source: int, row: Row) -> None:
        """Note what a row has."""
        self.rows[source] += 1
        seen = self.columns.setdefault(source, set())
        seen |= {name for name in _COLUMNS - seen if row.get(name)}

    def take(self, example: Example, max_length: int) -> bool:
        """Count an example; false if it cannot be used."""
        self.found.update((example.source, role) for role in example.roles)
        reason = TOO_LONG if len(example.input_ids) > max_length else None if example.learned else NOTHING_TO_LEARN
        if reason:
            self.skip(example.source, example.row_id, reason, len(example.input_ids))
            return False
        self.kept[example.source, example.heldout] += 1
        self.tokens += len(example.input_ids)
        self.learned += example.learned
        if not example.heldout:
            self.taught.update((example.source, role) for role in example.roles)
        return True

    def require_some(self, source: int, name: str, training: TrainingConfig) -> None:
        rows, where = self.rows[source], f"training data {name}"
        if rows == 0:
            raise UserError(f"{where}: no rows were kept by the stages before; look at the reasons in their report")
        if not self.kept[source, False] + self.kept[source, True]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped[source].items())
            limits = f"prompts={training.prompts}, roles={','.join(training.roles)}, max_length={training.max_length} tokens"
            raise UserError(f"{where}: none of {rows} rows can be used ({reasons}; training {limits})")
        if not self.kept[source, False]:
            raise UserError(f"{where}: all of its examples are held out; lower training heldout_fraction")

    def require_roles(self, source: int, entry: TrainingData, training: TrainingConfig) -> None:
        """A role that nothing teaches would leave a model that was never trained for it, without a word."""
        for role in entry.roles:
            if self.taught[source, role]:
                continue
            needed = _STUDENT_COLUMNS if training.prompts == "alpaca" else TAUGHT_BY[role]
            missing = [name for name in needed if name not in self.columns[source]]
            if found := self.found[source, role]:
                why = f"its {found:,} sequences are longer than max_length={training.max_length} tokens, or held out"
            else:
                why = f"no row has {' or '.join(missing)}" if missing else f"no row has all of {', '.join(needed)}"
            raise UserError(
                f"training data {entry.name}: none of its {self.rows[source]:,} rows teaches the role {role} ({why}); "
                "leave the role out of training roles, or give data that has it"
            )

    def stats(self, data: Sequence[TrainingData]) -> TokenStats:
        skipped = sum(self.skipped.values(), Counter[str]())
        heldout = sum(count for (_, held), count in self.kept.items() if held)
        return TokenStats(self.rows.total(), self.kept.total(), heldout, self.tokens, self.learned, dict(skipped), self._sequences(data))

    def _sequences(self, data: Sequence[TrainingData]) -> dict[str, dict[str, int]]:
        found: dict[str, Counter[str]] = {}  # one data set may be given twice
        for (source, role), count in self.taught.items():
            found.setdefault(data[source].name, Counter())[role] += count
        return {name: dict(counts) for name, counts in found.items()}


def _examples(data: Sequence[TrainingData], tokenizer: Any, training: TrainingConfig, counts: _Counts) -> Iterator[Example]:
    raw = RawText(tokenizer)
    for source, entry in enumerate(data):
        for row in entry.rows():
            counts.see(source, as_solved(row))
            if row.get("split") == "heldout":
                counts.skip(source, row["row_id"], FOR_EVALUATION)
                continue
            heldout, sequences = is_heldout(row["row_id"], training.heldout_fraction), entry.examples(row)
            if not sequences:
                counts.skip(source, row["row_id"], NO_COLUMNS)
            for segments in sequences:
                ids, learn = _encode(segments, raw)
                roles = tuple(segment.role for segment in segments if segment.role)
                yield Example(row["row_id"], source, heldout, ids, learn, sum(learn[1:]), roles)


def is_heldout(row_id: str, fraction: float) -> bool:
    """Drawn by the id: all examples of a row fall on one side, in every training."""
    digest = hashlib.blake2b(f"heldout\x1f{row_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def _encode(segments: tuple[Segment, ...], raw: RawText) -> tuple[list[int], list[bool]]:
    input_ids, learn = list(raw.start), [False] * len(raw.start)
    for segment in segments:
        ids = raw.last_ids(segment.text) if segment is segments[-1] else raw.ids(segment.text)
        input_ids += ids
        learn += [segment.learn] * len(ids)
    return input_ids, learn


def _key(data: Sequence[TrainingData], tokenizer: Any, training: TrainingConfig) -> str | None:
    """Names what the tokens are made of; None where a data set cannot be named."""
    if any(entry.fingerprint is None for entry in data):
        return None
    wanted = training.model_dump(include={"roles", "prompts", "domain_tags", "max_length", "heldout_fraction"}, mode="json")
    body = [_LAYOUT, __version__, wanted, [(entry.name, entry.fingerprint, entry.roles) for entry in data]]
    digest = hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16)
    with tempfile.TemporaryDirectory() as folder:
        for file in sorted(tokenizer.save_pretrained(folder)):
            digest.update(Path(file).read_bytes())
    return digest.hexdigest()


class TokenFile:
    """Random access to `tokens.arrow` without loading it. The arrays have one entry per example."""

    def __init__(self, path: str) -> None:
        table = pa.ipc.open_file(pa.memory_map(path)).read_all()
        self.lengths: np.ndarray = pc.list_value_length(table["input_ids"]).to_numpy()
        self.learned: np.ndarray = table["learned"].to_numpy()
        self.sources: np.ndarray = table["source"].to_numpy()
        self.heldout: np.ndarray = table["heldout"].to_numpy()
        self._batches = table.to_batches()  # looked up here: the access of a chunked column takes longer the more chunks there are
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (int32) and learn flags (bool) of one example."""
        ids, learn = self._value(index, "input_ids").values, self._value(index, "learn").values
        return ids.to_numpy(), learn.to_numpy(zero_copy_only=False)

    def row_ids(self, indices: list[int]) -> list[str]:
        return [self._value(index, "row_id").as_py() for index in indices]

    def _value(self, index: int, column: str) -> Any:
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._batches[batch].column(column)[index - int(self._starts[batch])]


def mixture(file: TokenFile, weights: Sequence[float]) -> list[Mixed]:
    """What is trained on of each data set; `weights`: theirs."""
    trained = [np.flatnonzero((file.sources == source) & ~file.heldout) for source in range(len(weights))]
    return [Mixed(examples, weight) for examples, weight in zip(trained, weights, strict=True)]
