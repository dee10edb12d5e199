"""Who works on what, on disk: one small file for each operator and shard from the begin of an attempt to its end.

A worker that dies cannot say so, and a driver that dies forgets. What stays is the file: an attempt that finds one whose group of rows is
still marked as running knows that the last worker died with it. A shard that never made trouble leaves no file behind.

A worker that holds many shards at once dies of one of them at most, and more often of none (a lost node, a driver that was killed). So
the first death of a shard that had company is no kill: it is noted as `lost`, and the next one counts.

Files are renamed into place but not synced: a process that is killed loses nothing; after a power cut one death may go uncounted.
"""

import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa

from caco_ray.store.folder import Folder

ATTEMPTS = "attempts"  # folder beside the stage's `data/` and `manifest/`
Span = tuple[int, int]  # rows [first, last) of a shard


@dataclass
class Record:
    """The file. By spans (`first-last`) of rows: `kills`, how many workers ended with them; `said`, why the last one did.

    `waits`: what the rows wait for while nobody works on them. `lost`: a worker died that held the shard among others, and it did not get
    through since.
    """

    operator: str
    shard: int
    session: str = ""
    kills: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    lost: bool = False
    last_words: str = ""
    running: str | None = None
    waits: str = ""
    worker: str = ""
    since: float = 0.0


class Attempt:
    """One attempt of an operator at a shard. Opening it counts the death of the one before, if that ended without a word.

    `session` names the execution of the stage: a driver that was started again is another one. `shared`: a worker of the operator holds
    several shards at once, except for those that are suspected.
    """

    def __init__(self, folder: Folder, session: str, operator: str, shard: int, shared: bool = False) -> None:
        self._folder = folder
        self._name = _name(operator, shard)
        self._record = _read(folder, f"{self._name}.json") or Record(operator, shard)
        self.follows: str | None = None  # what an attempt before this one, in the same session, died of
        self.dead = self._record.worker  # in which worker
        if self._record.running is not None:
            said = self._record.last_words or f"its worker ({self._record.worker}) died"
            self.follows = said if self._record.session == session else None
            if shared and not self.suspect and not self.lost:
                self._lose(said)
            else:
                self._count(self._record.running, said)
        self._record.session = session

    @property
    def suspect(self) -> bool:
        """Whether an earlier attempt at these rows went wrong."""
        return bool(self._record.kills)

    @property
    def lost(self) -> bool:
        """Whether a worker died that held these rows among others; one more death and they are suspected."""
        return self._record.lost

    def kills(self, span: Span) -> int:
        """How often a worker ended while it had exactly these rows in hand."""
        return self._record.kills.get(_key(span), 0)

    def said(self, span: Span) -> str:
        """Why the last of them ended."""
        return self._record.said.get(_key(span), "")

    def begin(self, span: Span) -> None:
        self._record.running, self._record.since = _key(span), time.time()
        self._record.last_words = self._record.waits = ""
        self._record.worker = f"{socket.gethostname()} pid {os.getpid()}"
        self._save()

    def end(self) -> None:
        """The rows are out of hand, and nobody died."""
        self._record.running, self._record.lost = None, False
        if self._record.said:
            self._save()
        else:
            self._folder.delete(f"{self._name}.json")

    def wait(self, why: str) -> None:
        """The rows are out of hand until something is back that they need: whatever ends the worker meanwhile, it is not these rows."""
        self._record.running, self._record.waits = None, why
        self._save()

    def fail(self, span: Span, said: str) -> None:
        """The rows made the operator raise: it counts as a death."""
        self._count(_key(span), said)

    def last_words(self, said: str) -> None:
        """Note why this process is about to end itself."""
        self._record.last_words = said
        self._save()

    def keep(self, span: Span, given: pa.Table, result: pa.Table) -> None:
        """Keep the result of a part of the shard, so that the next worker that dies does not take it along."""
        _write(self._folder, self._result_name(span, given), _to_bytes(result))

    def kept(self, span: Span, given: pa.Table) -> pa.Table | None:
        try:
            return pa.ipc.open_stream(self._folder.read(self._result_name(span, given))).read_all()
        except (FileNotFoundError, pa.ArrowInvalid):
            return None

    def finish(self) -> None:
        """The whole shard is through: results of parts go. A record that has something to tell stays."""
        if self.suspect:
            self._folder.delete(self._name)

    def _lose(self, said: str) -> None:
        record = self._record
        record.lost, record.said[str(record.running)], record.running = True, said, None
        self._save()

    def _count(self, key: str, said: str) -> None:
        record = self._record
        record.kills[key], record.said[key], record.running = record.kills.get(key, 0) + 1, said, None
        self._save()

    def _save(self) -> None:
        _write(self._folder, f"{self._name}.json", json.dumps(asdict(self._record)).encode())

    def _result_name(self, span: Span, given: pa.Table) -> str:
        digest = hashlib.blake2b(_to_bytes(given), digest_size=8).hexdigest()  # another input has another result
        return f"{self._name}/{_key(span)}-{digest}.arrow"


def records(folder: Folder) -> Iterator[Record]:
    """All records: shards that are worked on now, and those that made trouble."""
    for name in folder.names():
        if name.endswith(".json") and not name.startswith("."):
            record = _read(folder, name)
            if record is not None:
                yield record


def forgive(folder: Folder) -> None:
    """Forget which attempts are running: we end their workers ourselves, and no row is to blame."""
    for record in list(records(folder)):
        if record.running is None:
            continue
        name = f"{_name(record.operator, record.shard)}.json"
        record.running = None
        if record.said:
            _write(folder, name, json.dumps(asdict(record)).encode())
        else:
            folder.delete(name)


def absolve(folder: Folder, shards: Container[int]) -> None:
    """Forget all that was counted against these shards, and the parts of them that went well: it was not the rows."""
    for record in list(records(folder)):
        if record.shard in shards:
            name = _name(record.operator, record.shard)
            folder.delete(name)
            folder.delete(f"{name}.json")


def _name(operator: str, shard: int) -> str:
    return f"{shard:06d}.{operator}"


def _key(span: Span) -> str:
    return f"{span[0]}-{span[1]}"


def _read(folder: Folder, name: str) -> Record | None:
    try:
        return Record(**json.loads(folder.read(name)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write(folder: Folder, name: str, data: bytes) -> None:
    if not folder.is_local:
        folder.write(name, data)
        return
    path: Path = folder.local_path / name
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        folder.write(name, data)  # says in our words what is wrong with the storage, or gets through


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
