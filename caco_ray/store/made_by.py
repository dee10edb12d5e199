"""Which model made the rows of a stage: one for all of its shards, whatever the same path holds by now."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from caco_ray.errors import RunDirError
from caco_ray.stage_config import ROLES
from caco_ray.store.folder import Folder
from caco_ray.store.manifest import ShardEntry


def made_by(stage: str, table: pa.Table) -> tuple[str, str]:
    """Ids of the model and of the prompt that a stage filled its rows with; several are joined by `|`, none is an empty text."""
    model, prompt = (f"{ROLES.get(stage)}_{what}" for what in ("model", "prompt"))
    return _values(table, model), _values(table, prompt)


def check_one_model(folder: Folder, entries: Iterable[ShardEntry], model: str = "") -> str:
    """The model that made the shards; `model` if that is known. Shards without generations are of none.

    Raises:
        RunDirError: they were made by two.
    """
    for entry in entries:
        if (entry.model and model and entry.model != model) or "|" in entry.model:
            others = f", those of other shards by {model}" if model else ""
            raise RunDirError(
                f"{folder}: rows of shard {entry.shard} were made by the model {entry.model}{others}; "
                f"put the former model back, or delete {folder} and the data sets of the stages after it"
            )
        model = entry.model or model
    return model


def _values(table: pa.Table, column: str) -> str:
    return "|".join(sorted(pc.unique(table[column].drop_null()).to_pylist())) if column in table.schema.names else ""
