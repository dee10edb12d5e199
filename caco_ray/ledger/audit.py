"""Check the committed data sets of a run against their manifests and against each other, shard by shard, in Ray tasks.

Of each shard: its file has the recorded hash; its rows are counted again and conserved (rows in x fan-out = kept + rejected +
quarantined); it was made of exactly the rows that the stage before kept, with the ids that follow from theirs, and no column of a parent
was changed. Over all shards: no id appears twice, and every id that a row names exists. What each stage spent is added up on the way.
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import ray

from caco_ray.config import Config
from caco_ray.errors import RunDirError, StageContractError
from caco_ray.jsonl import json_lines, json_name
from caco_ray.ledger.lineage import Cost, Step, cost_of, target_of
from caco_ray.own_models import check_models
from caco_ray.runtime.tasks import result_of
from caco_ray.schema import row_id
from caco_ray.source import Source
from caco_ray.store import Dataset, Folder, ShardEntry, Totals
from caco_ray.store.dataset import read_rows, strangers
from caco_ray.store.made_by import check_one_model
from caco_ray.store.manifest import DATA, count_rows

_SHARDS_PER_TASK, _TASKS = 16, 512  # at least, at most
_IDS_PER_BUCKET = 1_000_000  # that one task compares
_BYTES_PER_ID = 500  # there, at its peak (measured: 420)
_SHOWN = 3
# `scope`: ids are unique within it; `named`: the row only names this id.
IDS = pa.schema([("row_id", pa.string()), ("scope", pa.string()), ("where", pa.string()), ("named", pa.bool_())])


@dataclass(frozen=True)
class Fault:
    """What does not hold, and where. `check`: file | conservation | lineage | ids | model | target."""

    check: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.check}: {self.text}"


@dataclass(frozen=True)
class Audit:
    """`rows`, `costs`: by step; `unchecked`: what could not be checked, and why."""

    faults: tuple[Fault, ...]
    unchecked: tuple[str, ...]
    rows: dict[str, int]
    costs: dict[str, Cost]
    shards: int

    @property
    def cost(self) -> Cost:
        return sum(self.costs.values(), Cost())


@dataclass(frozen=True)
class _Part:
    faults: list[Fault]
    rows: int
    cost: Cost


def audit(steps: list[Step], config: Config | None, run: Folder | None = None) -> Audit:
    """Check closed data sets. Steps without a source are checked alone; `config` and `run` are the run's, where there is one.

    Raises:
        RunDirError: a `_SUCCESS` cannot be read.
    """
    faults, unchecked, opened = list[Fault](), list[str](), list[tuple[Step, Dataset]]()
    for step in steps:
        try:
            dataset = Dataset(step.folder)
        except RunDirError as error:
            faults.append(Fault("file", step.label, str(error)))
            continue
        faults += [*_target(step, dataset, config), *_number_of_shards(step, dataset), *_strangers(step, dataset)]
        faults += _models(step, dataset, config, run)
        if step.source is not None and not _is_there(step.source):
            unchecked.append(f"lineage of {step.label}: the stage before is not there")
            step = replace(step, source=None)
        opened.append((step, dataset))
    rows = sum(dataset.totals.rows for _, dataset in opened)
    buckets = 1 + rows // _IDS_PER_BUCKET
    parts, ids = _start(opened, buckets)
    done = [(label, result_of(part)) for label, part in parts]
    for _, part in done:
        faults += part.faults
    faults += check_ids(ids, rows)
    labels = dict.fromkeys(label for label, _ in done)
    return Audit(
        faults=tuple(faults),
        unchecked=tuple(unchecked),
        rows={label: sum(part.rows for name, part in done if name == label) for label in labels},
        costs={label: sum((part.cost for name, part in done if name == label), Cost()) for label in labels},
        shards=sum(len(dataset.entries) for _, dataset in opened),
    )


def check_ids(buckets: list[list[ray.ObjectRef]], rows: int) -> Iterator[Fault]:
    """Faults in tables of `IDS` with about so many rows, each bucket in a task of its own."""
    task = ray.remote(num_cpus=0.5, memory=_BYTES_PER_ID * min(_IDS_PER_BUCKET, rows // len(buckets)))(ids_faults)
    for found in [task.remote(*tables) for tables in buckets]:
        yield from result_of(found)


def ids_faults(*tables: pa.Table) -> list[Fault]:
    """Ids that appear twice in a scope, and ids that are named but do not exist."""
    every = pa.concat_tables([IDS.empty_table(), *tables])
    own = every.filter(pc.invert(every["named"]))
    counted = own.group_by(["scope", "row_id"]).aggregate([([], "count_all"), ("where", "distinct")])
    twice = counted.filter(pc.greater(counted["count_all"], 1)).sort_by("row_id").to_pylist()
    faults = [
        Fault("ids", " and ".join(sorted(row["where_distinct"])), f"row_id {row['row_id']} appears {row['count_all']} times")
        for row in twice
    ]
    named = every.filter(every["named"])
    for row in named.filter(pc.invert(pc.is_in(named["row_id"], own["row_id"]))).to_pylist():
        faults.append(Fault("lineage", row["where"], f"names the row {row['row_id']}, which does not exist"))
    return faults


def split_ids(ids: pa.Table, buckets: int) -> list[pa.Table]:
    """A table of `IDS` in `buckets` parts; equal ids come into the same part."""
    if buckets == 1:
        return [ids]
    part = pa.array([hash_of(name) % buckets for name in ids["row_id"].to_pylist()], pa.int64())
    return [ids.filter(pc.equal(part, bucket)) for bucket in range(buckets)]


def hash_of(name: str) -> int:
    return zlib.crc32(name.encode())


def _start(opened: list[tuple[Step, Dataset]], buckets: int) -> tuple[list[tuple[str, ray.ObjectRef]], list[list[ray.ObjectRef]]]:
    task = ray.remote(num_cpus=0.5, num_returns=1 + buckets)(_check_shards)
    parts, ids = [], [list[ray.ObjectRef]() for _ in range(buckets)]
    # Ray keeps results below 100 kB in the driver: with more buckets, tasks of more rows keep each part of their ids above that.
    size = max(_SHARDS_PER_TASK, sum(len(dataset.entries) for _, dataset in opened) // _TASKS)
    for step, dataset in opened:
        for first in range(0, len(dataset.entries), size):
            part, *tables = task.remote(step, dataset.entries[first : first + size], dataset.info.fan_out, buckets)
            parts.append((step.label, part))
            for bucket, table in zip(ids, tables, strict=True):
                bucket.append(table)
    return parts, ids


def _is_there(source: Source) -> bool:
    try:
        return source.shards >= 0
    except RunDirError:
        return False


def _number_of_shards(step: Step, dataset: Dataset) -> Iterator[Fault]:
    if step.source is not None and _is_there(step.source) and step.source.shards != len(dataset.entries):
        yield Fault("conservation", step.label, f"{len(dataset.entries):,} shards, but the stage before gives {step.source.shards:,}")


def _strangers(step: Step, dataset: Dataset) -> Iterator[Fault]:
    """Who loads the whole folder would take their rows for ours."""
    found = {f"{DATA}/{name}" for name in step.folder.names(DATA)} - {entry.file for entry in dataset.entries}
    if step.stage != "assemble" or step.source is not None:  # beside a copy, people may put what they like
        found |= set(strangers(step.folder))
    for name in sorted(found):
        yield Fault("file", step.label, f"{step.folder}/{name}: no file of this data set; the run's own command takes it away or names it")


def _models(step: Step, dataset: Dataset, config: Config | None, run: Folder | None) -> Iterator[Fault]:
    """One for all rows of a stage, and the one that the run has trained."""
    try:
        if config is not None and run is not None:
            check_models(run, config, step.stage, step.round, step.folder, dataset.entries)
        else:
            check_one_model(step.folder, dataset.entries)
    except RunDirError as error:
        yield Fault("model", step.label, str(error))


def _target(step: Step, dataset: Dataset, config: Config | None) -> list[Fault]:
    target = target_of(config) if config and step.stage == "scale" else None
    if target is None or target.standing({entry.shard: entry.totals.kept for entry in dataset.entries}).outcome is not None:
        return []
    return [Fault("target", step.label, "closed before the target was reached or the budget spent")]


def _check_shards(step: Step, entries: list[ShardEntry], fan_out: int, buckets: int) -> tuple[object, ...]:
    faults, cost, ids = list[Fault](), Cost(), [IDS.empty_table()]
    for entry in entries:
        where = f"{step.label} shard {entry.shard}"
        try:
            table = read_rows(step.folder, step.stage, entry, kept_only=False)
        except (RunDirError, pa.ArrowInvalid) as error:
            faults.append(Fault("file", where, str(error)))
            continue
        faults += [*_counts(where, entry.totals, fan_out, table), *_lineage(where, step, entry.totals, entry.shard, table)]
        cost += cost_of(step.stage, table)
        faults += _json_lines(where, step, entry.shard, table)
        ids.append(_ids(step, table))
    parts = split_ids(pa.concat_tables(ids), buckets)
    return _Part(faults, sum(entry.totals.rows for entry in entries), cost), *parts


def _ids(step: Step, table: pa.Table) -> pa.Table:
    own = ids_table(table["row_id"], step.label if step.stage == "evaluate" else "", step.label, named=False)
    if "duplicate_of" not in table.schema.names:
        return own
    return pa.concat_tables([own, ids_table(table["duplicate_of"].drop_null(), "", step.label, named=True)])


def ids_table(ids: pa.ChunkedArray, scope: str, where: str, *, named: bool) -> pa.Table:
    """A table of `IDS`."""
    count = len(ids)
    return pa.table([ids, [scope] * count, [where] * count, [named] * count], schema=IDS)


def _json_lines(where: str, step: Step, shard: int, table: pa.Table) -> Iterator[Fault]:
    """The same rows again, for readers without Parquet: no manifest names these files. A copy without its run may lack them."""
    if step.stage != "assemble":
        return
    try:
        lines = step.folder.read(json_name(shard))
    except FileNotFoundError:
        if table.num_rows and step.source is not None:
            yield Fault("file", where, f"{step.folder}/{json_name(shard)}: missing; the run's own command writes it again")
        return
    if lines != json_lines(table):
        how = "the run's own command with repair=assemble writes it again"
        yield Fault("file", where, f"{step.folder}/{json_name(shard)}: not the rows of the Parquet file; {how}")


def _counts(where: str, recorded: Totals, fan_out: int, table: pa.Table) -> Iterator[Fault]:
    try:
        counted = count_rows(table, recorded.rows_in, fan_out)
    except StageContractError as error:
        yield Fault("conservation", where, str(error))
        return
    for name in ("rows", "kept", "rejected", "quarantined"):
        if getattr(counted, name) != getattr(recorded, name):
            yield Fault("conservation", where, f"{name} {getattr(counted, name)}, but the manifest says {getattr(recorded, name)}")
    for name, value in recorded.sums.items():
        if not math.isclose(counted.sums.get(name, math.nan), value, rel_tol=1e-9):
            yield Fault("conservation", where, f"the rows' {name} add up to {counted.sums.get(name)}, but the manifest says {value}")


def _lineage(where: str, step: Step, recorded: Totals, shard: int, table: pa.Table) -> Iterator[Fault]:
    if step.stage == "seeds":
        wrong = [
            row["row_id"]
            for row in table.select(["row_id", "parent_id"]).to_pylist()
            if row["row_id"] != row_id(row["parent_id"], "seeds", 0)
        ]
        if wrong:
            yield Fault("lineage", where, f"{_some(wrong)}: not the ids of their sources")
    if step.source is not None:
        try:
            yield from _against_parents(where, step.source, recorded, shard, table)
        except RunDirError as error:
            yield Fault("lineage", where, f"the rows that it was made of cannot be read: {error}")


def _against_parents(where: str, source: Source, recorded: Totals, shard: int, table: pa.Table) -> Iterator[Fault]:
    """What the stage was given, read again, must be what its rows were made of."""
    given = source.read(shard)
    if given.rows_in != recorded.rows_in:
        yield Fault("conservation", where, f"{recorded.rows_in} rows came in, but the stage before kept {given.rows_in}")
    ours, theirs = (side["row_id"].to_pylist() for side in (table, given.table))
    if ours != theirs:
        lost, strange = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
        yield Fault("lineage", where, f"rows without parent: {_some(strange)}; parents without their rows: {_some(lost)}")
        return
    for name in given.table.schema.names:
        before, now = given.table[name].combine_chunks(), table[name].combine_chunks()
        changed = pc.and_(pc.is_valid(before), pc.invert(pc.fill_null(pc.equal(before, now), False)))
        if pc.any(changed).as_py():
            yield Fault("lineage", where, f"{name} is not that of the parent in {_some(table['row_id'].filter(changed).to_pylist())}")


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:_SHOWN]) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "") if ids else "none"
