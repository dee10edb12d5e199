"""Find damaged shards of a dataset and take them out, so that the stage makes them again.

What is taken out is not deleted: it lies under `set_aside/<dataset>/` beside the data set, and with it each shard's old manifest entry.
That entry is also the memory of a repair that was killed: it stays until the shard was made again and the stages after it know
(`replaced`, `forget`).
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from caco_ray.errors import RunDirError
from caco_ray.store.dataset import COLLECTED, STAGE_FILE, SUCCESS_FILE, Dataset, StageInfo, is_closed, read_entry, strangers
from caco_ray.store.folder import Folder
from caco_ray.store.manifest import ENTRY, MANIFEST, PART, ShardEntry, entry_name
from caco_ray.store.writer import committed_entry

_READERS = 4  # shards in memory at once


@dataclass(frozen=True)
class Fault:
    """A file that is not as it was committed. `shard` is None for files that are nobody's."""

    file: str
    why: str
    shard: int | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.why}"


def find_faults(folder: Folder, info: StageInfo) -> list[Fault]:
    """Read every committed shard of a stage and compare it with its entry."""
    faults = [Fault(name, "no file of this stage") for name in strangers(folder)]
    entries, damaged = _entries(folder)
    with ThreadPoolExecutor(_READERS) as pool:
        checked = pool.map(lambda entry: _check(folder, info, entry), entries)
        return faults + damaged + [fault for fault in checked if fault is not None]


def take_out(folder: Folder, faults: Iterable[Fault]) -> None:
    """Set damaged and foreign files aside. Killed at any moment, the next call finds what is left to do."""
    faults = list(faults)
    if not faults:
        return
    for fault in faults:
        if fault.shard is None and fault.file != SUCCESS_FILE:
            folder.move(fault.file, set_aside(folder), fault.file)
    reopen(folder, {fault.shard for fault in faults if fault.shard is not None})
    for fault in faults:
        if fault.shard is not None and PART.fullmatch(fault.file):
            folder.move(fault.file, set_aside(folder), fault.file)


def reopen(folder: Folder, shards: Iterable[int] | None = None) -> None:
    """Have these shards (None: all) made again, and the stage closed again. Nothing happens where there is no stage."""
    if not folder.exists(STAGE_FILE):
        return
    _restore_manifest(folder)
    folder.delete(COLLECTED)  # it would tell of the old ones
    there = {int(match[1]) for name in folder.names(MANIFEST) if (match := ENTRY.fullmatch(name))}
    chosen = sorted(there if shards is None else there & set(shards))
    for shard in chosen:
        set_aside(folder).create(_memory(shard), folder.read(entry_name(shard)))
    folder.delete(SUCCESS_FILE)
    for shard in chosen:
        folder.delete(entry_name(shard))


def replaced(folder: Folder) -> tuple[list[int], list[int]]:
    """Shards that were made again since they were taken out: all of them, and those with other rows than before."""
    remembered = sorted(int(match[1]) for name in set_aside(folder).names() if (match := ENTRY.fullmatch(name)))
    again, changed = [], []
    for shard in remembered:
        if not folder.exists(entry_name(shard)):
            continue
        now = committed_entry(folder, shard)
        before = _read_memory(folder, shard)
        if before is not None and before.file == now.file:
            continue  # the repair was killed before it took the shard out
        again.append(shard)
        if before is None or not before.content or before.content != now.content:
            changed.append(shard)
    return again, changed


def forget(folder: Folder, shards: Iterable[int]) -> None:
    """The stages after this one know: the repair of these shards is complete."""
    for shard in shards:
        set_aside(folder).delete(_memory(shard))


def _entries(folder: Folder) -> tuple[list[ShardEntry], list[Fault]]:
    """What is committed, as readers see it, and the entries that cannot be read."""
    faults = []
    if is_closed(folder):
        try:
            return Dataset(folder).entries, []
        except RunDirError:
            faults.append(Fault(SUCCESS_FILE, "damaged"))
    shards = [int(match[1]) for name in folder.names(MANIFEST) if (match := ENTRY.fullmatch(name))]
    entries = []
    for shard, body in zip(shards, folder.read_many([entry_name(shard) for shard in shards]), strict=True):
        try:
            entry = ShardEntry.from_json(body)
            if entry.shard != shard:
                raise ValueError(f"it tells of shard {entry.shard}")
            entries.append(entry)
        except ValueError as error:
            faults.append(Fault(entry_name(shard), f"damaged ({error})", shard))
    return entries, faults


def _check(folder: Folder, info: StageInfo, entry: ShardEntry) -> Fault | None:
    if entry.fingerprint not in ("", info.fingerprint):
        return Fault(entry.file, "of another config", entry.shard)
    try:
        read_entry(folder, entry)
    except RunDirError:
        return Fault(entry.file, "damaged" if folder.exists(entry.file) else "missing", entry.shard)
    return None


def _restore_manifest(folder: Folder) -> None:
    """Entries that only the closing file has left, before that file goes."""
    if not is_closed(folder):
        return
    with suppress(RunDirError):
        there = set(folder.names(MANIFEST))
        for entry in Dataset(folder).entries:
            if entry_name(entry.shard).removeprefix(f"{MANIFEST}/") not in there:
                folder.create(entry_name(entry.shard), entry.to_json())


def set_aside(folder: Folder) -> Folder:
    """Beside the data set and not in it: who loads the whole folder must not load damaged files."""
    above, _, name = folder.url.rpartition("/")
    return Folder(f"{above or '.'}/set_aside/{name}")


def _memory(shard: int) -> str:
    return f"{shard:06d}.json"


def _read_memory(folder: Folder, shard: int) -> ShardEntry | None:
    try:
        return ShardEntry.from_json(set_aside(folder).read(_memory(shard)))
    except ValueError:
        return None
