"""One row of a plan: a shard on its way, or the error of ours that ended it.

A shard's table travels as Arrow IPC bytes: Ray cannot split, merge or drop part of it. Ray hands exceptions over as text; errors of
`errors.py` travel as values and come back as what they were.
"""

import json
from dataclasses import dataclass

import pyarrow as pa

from caco_ray import errors
from caco_ray.errors import CacoError

_SCHEMA = pa.schema(
    [("shard", pa.int64()), ("rows_in", pa.int64()), ("started", pa.float64()), ("rows", pa.large_binary()), ("error", pa.string())]
)


@dataclass(frozen=True)
class Travelling:
    """A shard between two operators. `rows_in`: parent rows it was made of; `started`: Unix time in seconds."""

    shard: int
    rows_in: int
    started: float
    table: pa.Table


def pack(given: Travelling) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, given.table.schema) as stream:
        stream.write_table(given.table)
    row = {"shard": given.shard, "rows_in": given.rows_in, "started": given.started, "rows": sink.getvalue().to_pybytes(), "error": None}
    return pa.Table.from_pylist([row], schema=_SCHEMA)


def unpack(batch: pa.Table) -> Travelling:
    shard, rows_in, started = (batch[key][0].as_py() for key in ("shard", "rows_in", "started"))
    return Travelling(shard, rows_in, started, pa.ipc.open_stream(batch["rows"][0].as_buffer()).read_all())


def pack_error(shard: int, error: CacoError) -> pa.Table:
    return pa.Table.from_pylist([{"shard": shard, "error": describe(error)}], schema=_SCHEMA)


def error_of(batch: pa.Table) -> str | None:
    """What `describe` said, or None for a shard that is well."""
    said: str | None = batch["error"][0].as_py()
    return said


def describe(error: CacoError) -> str:
    return json.dumps({"type": type(error).__name__, "message": str(error)})


def revive(described: str) -> CacoError:
    failure = json.loads(described)
    kind: type[CacoError] = getattr(errors, failure["type"], CacoError)
    return kind(failure["message"])
