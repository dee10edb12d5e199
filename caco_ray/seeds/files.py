"""The user's own problems: a JSON Lines or Parquet file, on local disk or any fsspec URL, with field names given by `seeds.fields`."""

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NoReturn

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from caco_ray.config import SeedFields, SeedsConfig
from caco_ray.errors import ConfigError, SeedError
from caco_ray.schema import Row
from caco_ray.seeds.uniqueness import unique

# What opening and reading raises: a path, a network, a damaged archive; a URL of an unknown kind, or one whose package is missing.
READ_ERRORS = (OSError, EOFError, ValueError, ImportError)
_Placed = tuple[str, Row]


def unreadable(path: str, error: Exception) -> SeedError:
    """The line for a file that cannot be opened or read to its end."""
    said = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return SeedError(f"{path}: cannot be read ({said})")


def file_seeds(config: SeedsConfig) -> Iterator[Row]:
    """Rows of `seeds.path`.

    Raises:
        ConfigError: the file's ending is not one of ours.
        SeedError: names the file, the line or row, and the field; of two rows with one id after the last row.
    """
    path = config.path or ""

    def read() -> Iterator[_Placed]:
        return ((place, _to_row(record, config.fields, path, place)) for place, record in read_records(path, "seeds.path"))

    def refuse(first: _Placed, second: _Placed) -> NoReturn:
        raise SeedError(f"{path}, {second[0]}: the id {second[1]['source_id']!r} was used at {first[0]} already")

    return (row for _, row in unique(read, lambda placed: str(placed[1]["source_id"]), refuse))


def read_records(path: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of a JSON Lines or Parquet file with their places (`line 3`, `row 3`); `key` is the config key that named the file.

    Raises:
        ConfigError, SeedError: as `file_seeds`.
    """
    ending = path.removesuffix(".gz").rsplit(".", 1)[-1]
    readers = {"jsonl": _json_lines, "parquet": _parquet_rows}
    if ending not in readers:
        raise ConfigError(f"{key}={path}: the file must end in .jsonl, .jsonl.gz or .parquet")
    return readers[ending](path)


def _json_lines(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with fsspec.open(path, "rt", encoding="utf-8", compression="infer") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"line {number}", _parse_line(line, path, number)
    except UnicodeDecodeError as error:
        raise SeedError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def _parse_line(line: str, path: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SeedError(f"{path}, line {number}: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise SeedError(f"{path}, line {number}: a JSON object is expected, not {type(record).__name__}")
    return record


def _parquet_rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        with fsspec.open(path, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield f"row {number}", record
    except pa.ArrowInvalid as error:
        raise SeedError(f"{path}: not a Parquet file ({error})") from error
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def _to_row(record: dict[str, Any], fields: SeedFields, path: str, place: str) -> Row:
    names = {column: name for column, name in fields.model_dump().items() if name is not None}
    given = {column: _value(record, name, column, path, place) for column, name in names.items()}
    difficulty = given.pop("difficulty", None)
    if difficulty is not None and not (isinstance(difficulty, int) and abs(difficulty) < 2**31):
        raise SeedError(f"{path}, {place}: field {fields.difficulty!r} must be an integer of 32 bits, not {difficulty!r}")
    texts = {column: _text(value, column, _field(names[column], column, path, place)) for column, value in given.items()}
    identity = texts.pop("id", None)
    row: Row = {"domain": None, "cot": None, "code": None, **texts, "difficulty": difficulty}
    return {**row, "split": "train", "source": path, "source_id": place if identity is None else identity}


def _text(value: Any, column: str, field: str) -> str | None:
    """None for what is blank, which says as little as no text. A list of one is its item; the items of a longer answer are parted by
    commas, as in `3, 5`.

    Raises:
        SeedError: `field`, in words, is neither text nor a number nor a list of these, or no text of Unicode, or must not be blank.
    """
    items = value if isinstance(value, list) else [] if value is None else [value]
    if len(items) > 1 and column != "answer":
        raise SeedError(f"{field} is a list of {len(items)}; one text is expected")
    text = ", ".join(_scalar(item, field) for item in items)
    if text.strip():
        return text
    if column in ("question", "answer"):
        raise SeedError(f"{field} is empty")
    return None


def _scalar(value: Any, field: str) -> str:
    if not isinstance(value, str | int | float | Decimal):
        raise SeedError(f"{field} must be text or a number, not {type(value).__name__}")
    if not isinstance(value, str | int) and not math.isfinite(value):
        raise SeedError(f"{field} is {value}, which is no number")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SeedError(f"{field} is no text of Unicode: half of a surrogate pair, {text[error.start]!r}, stands alone") from None
    return text


def _field(name: str, column: str, path: str, place: str) -> str:
    return f"{path}, {place}: field {name!r} (seeds.fields.{column})"


def _value(record: dict[str, Any], name: str, column: str, path: str, place: str) -> Any:
    if name not in record:
        known = ", ".join(sorted(record)).encode("utf-8", "backslashreplace").decode() or "none"
        raise SeedError(f"{path}, {place}: no field {name!r} (seeds.fields.{column}); its fields are: {known}")
    return record[name]
