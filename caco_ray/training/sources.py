"""Data sets to train on: a committed one, or a plain file of rows with the same columns."""

import hashlib
from collections.abc import Iterator

from caco_ray.config import TrainingConfig
from caco_ray.fingerprint import file_digest
from caco_ray.schema import Row
from caco_ray.seeds.files import read_records
from caco_ray.store import Dataset, Folder
from caco_ray.training.examples import make_examples
from caco_ray.training.types import Rows, TrainingData

_FILE_ENDINGS = (".parquet", ".jsonl", ".jsonl.gz")


def open_data(
    path: str, training: TrainingConfig, weight: float = 1.0, domain: str | None = None, roles: tuple[str, ...] | None = None
) -> TrainingData:
    """`path` is the folder or URL of a committed data set, or a .parquet or .jsonl file. `roles`: see `committed_data`.

    Raises:
        RunDirError: the folder is not a complete data set.
        SeedError: the file cannot be read.
    """
    if path.endswith(_FILE_ENDINGS):
        hashes = [file_digest(path), domain or ""]
        return _data(path, lambda: _file_rows(path), training, weight, domain, roles, hashes)
    return committed_data(path, Dataset(Folder(path)), training, weight, domain, roles)


def committed_data(
    name: str,
    dataset: Dataset,
    training: TrainingConfig,
    weight: float = 1.0,
    domain: str | None = None,
    roles: tuple[str, ...] | None = None,
) -> TrainingData:
    """The kept rows of a closed data set. `roles`: those of the training's that it teaches; None = all of them."""
    hashes = [*(entry.sha256 for entry in dataset.entries), domain or ""]
    return _data(name, dataset.rows, training, weight, domain, roles, hashes)


def _data(
    name: str,
    rows: Rows,
    training: TrainingConfig,
    weight: float,
    domain: str | None,
    roles: tuple[str, ...] | None,
    hashes: list[str],
) -> TrainingData:
    taught = training.roles if roles is None else tuple(role for role in training.roles if role in roles)
    return TrainingData(name, rows, make_examples(training, domain, taught), weight, taught, _hash(hashes))


def _hash(parts: list[str]) -> str:
    return hashlib.blake2b("".join(parts).encode(), digest_size=8).hexdigest()


def _file_rows(path: str) -> Iterator[Row]:
    """A row without an id is named by its place in the file."""
    return ({**record, "row_id": str(record.get("row_id") or place)} for place, record in read_records(path, "data"))
