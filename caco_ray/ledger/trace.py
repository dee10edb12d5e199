"""One row's whole history: what it was made of, by whom, at what cost, and what was made of it.

A row of shard `i` has its ancestors and descendants in shard `i` of the other stages of its round (`ledger.shard_at`): once it is found,
one shard of each stage is read.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from textwrap import indent

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from rich.console import Console
from rich.text import Text

from caco_ray.config import Config, Strict
from caco_ray.errors import RunDirError
from caco_ray.ledger.lineage import Cost, Step, cost_of_row, place_of, read_config, shard_at, steps
from caco_ray.run import FOLDERS, folder_of
from caco_ray.schema import Row
from caco_ray.stage_config import EXECUTES, MODELS, ROLES
from caco_ray.store import Dataset, Folder
from caco_ray.store.dataset import SUCCESS_FILE, is_closed
from caco_ray.store.json_file import read_json

_READERS = 16  # threads that look for the row, one file each
# What each stage wrote, in the order of reading.
_TEXTS = {
    "seeds": ("source", "source_id", "question", "answer"),
    "unify": ("code", "input_json", "output_json"),
    "scale": ("sample_index", "code", "input_json", "output_json"),
    "select": ("duplicate_of",),
    "reverse": ("question_style", "question"),
    "solve": ("solution", "language_answer"),
    "judge": ("judgement",),
    "assemble": ("instruction", "output", "answer"),
    "evaluate": ("question", "answer", "solution", "language_answer", "correct"),
}


class TraceConfig(Strict):
    """Arguments of `jobs/trace.py`: the folder of the run, and the id of a row of any of its data sets."""

    run: str = Field(min_length=1)
    row_id: str = Field(min_length=1)


@dataclass(frozen=True)
class Event:
    """A row as one stage left it. `relation`: self | ancestor | descendant."""

    step: Step
    shard: int
    file: str
    row: Row
    relation: str

    @property
    def fate(self) -> str:
        if self.row["infra_error"] is not None:
            return f"quarantined: {self.row['infra_error']}"
        return "kept" if self.row["reject_reason"] is None else f"rejected: {self.row['reject_reason']}"

    @property
    def cost(self) -> Cost:
        return cost_of_row(self.step.stage, self.row)


@dataclass(frozen=True)
class History:
    """Events in the order of the stages."""

    row_id: str
    events: tuple[Event, ...]

    @property
    def cost(self) -> Cost:
        """Of the row and all that it was made of."""
        return sum((event.cost for event in self.events if event.relation != "descendant"), Cost())


def trace(run: Folder, row_id: str) -> History:
    """The history of a row.

    Raises:
        RunDirError: no run there, no row of this id, or a file is damaged.
    """
    there = list(steps(run, read_config(run)))
    found = next(filter(None, (_find(step, row_id) for step in reversed(there))), None)
    if found is None:
        raise RunDirError(
            f"row_id={row_id}: no row of this id in the closed data sets of {run} ({', '.join(step.label for step in there)})"
        )
    step, shard = found
    alike = [other for other in there if other.stage == step.stage == "evaluate"] or [step]  # a row for each model
    own, place, at = [_event(each, shard, row_id, "self") for each in alike], place_of(step, shard), there.index(step)
    before = _at_place([other for other in there[:at] if other.stage != "evaluate"], place)
    after = _at_place(there[at + 1 :] if step.stage != "evaluate" else [], place)
    return History(row_id, (*reversed(list(_ancestors(before, own[0]))), *own, *_descendants(after, own[0])))


def _at_place(among: list[Step], place: tuple[int, int]) -> list[tuple[Step, int]]:
    """Steps with the one shard of theirs where relatives of the row can be."""
    shards = [(step, shard_at(step, place)) for step in among]
    return [(step, shard) for step, shard in shards if shard is not None and shard < len(Dataset(step.folder).entries)]


def _find(step: Step, row_id: str) -> tuple[Step, int] | None:
    """The shard that holds the row: one column of each file is read."""
    filesystem, root = fsspec.core.url_to_fs(step.folder.url)

    def has_it(file: str) -> bool:
        try:
            with filesystem.open(f"{root}/{file}", "rb") as data:
                return row_id in pq.read_table(data, columns=["row_id"])["row_id"].to_pylist()
        except (FileNotFoundError, pa.ArrowInvalid, OSError) as error:
            raise RunDirError(f"{step.folder}/{file}: cannot be read ({error})") from error

    entries = Dataset(step.folder).entries
    with ThreadPoolExecutor(_READERS) as pool:
        for entry, hit in zip(entries, pool.map(has_it, (entry.file for entry in entries)), strict=True):
            if hit:
                pool.shutdown(cancel_futures=True)
                return step, entry.shard
    return None


def _event(step: Step, shard: int, row_id: str, relation: str) -> Event:
    dataset = Dataset(step.folder)
    row = next(row for row in dataset.read(shard, kept_only=False).to_pylist() if row["row_id"] == row_id)
    return Event(step, shard, dataset.entries[shard].file, row, relation)


def _ancestors(before: list[tuple[Step, int]], child: Event) -> Iterator[Event]:
    """From the nearest to the first."""
    wanted = child.row["parent_id"]
    for step, shard in reversed(before):
        dataset = Dataset(step.folder)
        for row in dataset.read(shard, kept_only=False).to_pylist():
            if row["row_id"] == wanted:
                yield Event(step, shard, dataset.entries[shard].file, row, "ancestor")
                wanted = row["parent_id"]


def _descendants(after: list[tuple[Step, int]], parent: Event) -> Iterator[Event]:
    family = {parent.row["row_id"]}
    for step, shard in after:
        dataset = Dataset(step.folder)
        rows = [row for row in dataset.read(shard, kept_only=False).to_pylist() if row["parent_id"] in family]
        family |= {row["row_id"] for row in rows}
        yield from (Event(step, shard, dataset.entries[shard].file, row, "descendant") for row in rows)


def print_history(console: Console, run: Folder, history: History) -> None:
    """The history in words. What models wrote is shown as it is, never as markup."""
    config = read_config(run)
    for event in history.events:
        mark = {"self": " (this row)", "descendant": " (made of this row)"}.get(event.relation, "")
        console.print(Text(f"{event.step.label}{mark}: {event.fate}", style="bold"))
        for name, value in _facts(run, config, event):
            body = "\n" + indent(value, " " * 6) if "\n" in value else value
            console.print(Text(f"  {name:<14} {body}"))
    console.print(Text(f"cost of this row and all it was made of: {history.cost}", style="bold"))


def _facts(run: Folder, config: Config, event: Event) -> Iterator[tuple[str, str]]:
    row, stage = event.row, event.step.stage
    yield "row", f"{row['row_id']}, made of {row['parent_id']}"
    yield "where", f"{event.step.folder}/{event.file} (fingerprint {Dataset(event.step.folder).info.fingerprint})"
    if stage in ROLES and row[f"{ROLES[stage]}_model"] is not None:
        yield from _generation(config, event)
    if stage == "scale":
        yield from _training(run, event.step.round)
    if row.get("exec_status") is not None and stage in EXECUTES:
        error = f", {row['exec_error']}" if row["exec_error"] else ""
        yield "execution", f"{row['exec_status']}{error}, sandbox {row['sandbox_level']}, {row['cpu_s']:.3f} CPU s, {row['wall_s']:.3f} s"
    if stage in ROLES:
        yield "cost", str(event.cost)
    for name in _TEXTS[stage]:
        if row[name] is not None:
            yield name, str(row[name])


def _generation(config: Config, event: Event) -> Iterator[tuple[str, str]]:
    role, row = ROLES[event.step.stage], event.row
    sampling = config.sampling if event.step.stage == "scale" else getattr(config, event.step.stage).sampling
    settings = {name: value for name, value in sampling.model_dump().items() if value not in ((), {})}
    yield "model", f"{row[f'{role}_model']} (models.{MODELS[event.step.stage]}), prompt {row[f'{role}_prompt']}"
    yield "sampling", ", ".join(f"{name} {value}" for name, value in {**settings, "seed": row[f"{role}_seed"]}.items())
    stop = f" at {row[f'{role}_stop']!r}" if row[f"{role}_stop"] else ""
    yield "finish", f"{row[f'{role}_finish']}{stop} after {row[f'{role}_prompt_tokens']} + {row[f'{role}_tokens']} tokens"


def _training(run: Folder, number: int) -> Iterator[tuple[str, str]]:
    """The sampler's own origin: a program comes from all rows that the model was trained on."""
    folder = folder_of(run, "train_codegen", number)
    if not is_closed(folder):
        return
    body = read_json(folder, SUCCESS_FILE)
    examples, base = body["metrics"]["examples"], body["settings"]["base"]
    of_rounds = [str(folder_of(run, "select", before)) for before in range(1, number)]
    data = ", ".join([str(run / FOLDERS["unify"]), *of_rounds])
    yield "sampler", f"trained from {base} on {examples} examples of {data} in {body['seconds']} s"
    yield "", f"{folder} (fingerprint {body['fingerprint']})"
