"""Whatever dies, and whenever: a restart gives the same result. Found by hypothesis, not by examples.

A stage of four shards is worked on by one or two drivers at once (more than the lease allows, so that the commit layer is safe by itself).
Each may die before or in the middle of any file operation; on a disk the power may fail then. After that the same command is run
again, until it ends: the data set is exactly what an undisturbed run makes, and nothing else lies in its folders.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import fsspec
import pytest
from crashes import CrashingOs, CrashingStore, World, power_cut
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from store_rows import info, rows

from caco_ray.jsonl import export_json_lines, is_exported, json_lines, json_name
from caco_ray.schema import SEED
from caco_ray.store import Dataset, DatasetWriter, Folder, disk, objects, writer
from caco_ray.store.dataset import is_closed
from caco_ray.store.repair import find_faults, forget, reopen, replaced, take_out

SHARDS = 4
MOST_STEPS = 150  # more than an undisturbed run has file operations
QUIET = settings(
    max_examples=60,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass(frozen=True)
class Mishap:
    """One session: who takes which step, who dies when, and whether the power fails with it."""

    schedule: list[int]
    crash_at: dict[int, int]
    half: bool
    power: list[bool] | None


mishaps = st.builds(
    Mishap,
    schedule=st.lists(st.integers(0, 1), max_size=300),
    crash_at=st.dictionaries(st.integers(0, 1), st.integers(1, MOST_STEPS), min_size=1),
    half=st.booleans(),
    power=st.none() | st.lists(st.booleans(), min_size=20, max_size=60),
)


class Storage:
    """A folder whose file operations are under a `World`."""

    def __init__(self, url: str) -> None:
        self.url = url

    @contextmanager
    def under(self, world: World | None) -> Iterator[Folder]:
        with ExitStack() as stack:
            stack.enter_context(patch.object(writer, "COLLECT_EVERY", 2))
            if world is not None and self.url.startswith("/"):
                stack.enter_context(patch.object(disk, "os", CrashingOs(world)))
            if world is not None and not self.url.startswith("/"):
                stack.enter_context(patch.object(CrashingStore, "world", world))
            yield Folder(self.url)


@contextmanager
def storage(kind: str) -> Iterator[Storage]:
    if kind == "disk":
        with tempfile.TemporaryDirectory() as place:
            yield Storage(f"{place}/ds")
        return
    fsspec.register_implementation("crashing", CrashingStore, clobber=True)
    CrashingStore.store.clear()
    CrashingStore.pseudo_dirs[:] = [""]
    with patch.object(objects, "ATOMIC_CREATE", {*objects.ATOMIC_CREATE, "crashing"}):
        yield Storage("crashing://bucket/ds")


def session(folder: Folder, tag: str = "") -> None:
    """What a driver and its workers do with the storage."""
    stage = DatasetWriter(folder, info(shards=SHARDS), SEED)
    done = stage.open()
    for shard in range(SHARDS):
        if shard not in done:
            stage.note(stage.commit(shard, rows(shard, tag=tag), 4, 0.0))
    stage.close(1.0)


def live_through(place: Storage, mishap: Mishap, work: Callable[[Folder], None], drivers: int) -> World:
    world = World(mishap.schedule, mishap.crash_at, mishap.half)
    with place.under(world) as folder:
        errors = world.run([partial(work, folder)] * drivers)
    assert not errors, errors
    if mishap.power is not None and world.dead and place.url.startswith("/") and len(world.dead) == drivers:
        power_cut(world, iter(mishap.power))
    return world


def check_whole(place: Storage) -> None:
    """The data set is what an undisturbed run makes, and nothing else is in its folders."""
    with place.under(None) as folder:
        session(folder)
        dataset = Dataset(folder)
        assert [table.to_pylist() for table in dataset.tables(kept_only=False)] == [rows(shard).to_pylist() for shard in range(SHARDS)]
        assert sorted(folder.names("data")) == sorted(entry.file.removeprefix("data/") for entry in dataset.entries)
        assert find_faults(folder, info(shards=SHARDS)) == []


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("power", [None, [True] * 999])
def test_every_single_crash_point_on_a_disk(half: bool, power: list[bool] | None) -> None:
    """One driver, and one death before (or in the middle of) each file operation; with `power`, all that was not synced is lost."""
    for step in range(1, MOST_STEPS):
        with storage("disk") as place:
            world = live_through(place, Mishap([], {0: step}, half, power), session, 1)
            check_whole(place)
            if not world.dead:
                return
    raise AssertionError("raise MOST_STEPS: the session has more operations")


LATE_COMMIT = [Mishap([], {0: 1, 1: 8}, False, None), Mishap([1, 1], {1: 11}, False, None)]  # killed when the other had closed the stage


@given(sessions=st.lists(mishaps, min_size=1, max_size=3), drivers=st.integers(1, 2))
@example(sessions=LATE_COMMIT, drivers=2)
@QUIET
def test_any_crashes_on_a_disk_leave_what_a_restart_completes(sessions: list[Mishap], drivers: int) -> None:
    with storage("disk") as place:
        for mishap in sessions:
            live_through(place, mishap, session, drivers)
        check_whole(place)


@given(sessions=st.lists(mishaps, min_size=1, max_size=3), drivers=st.integers(1, 2))
@QUIET
def test_any_crashes_on_an_object_store_leave_what_a_restart_completes(sessions: list[Mishap], drivers: int) -> None:
    with storage("store") as place:
        for mishap in sessions:
            live_through(place, mishap, session, drivers)
        check_whole(place)


def is_shipped(folder: Folder) -> bool:
    """As `Run.is_done` asks."""
    return is_closed(folder) and folder.exists("README.md") and is_exported(Dataset(folder))


def ship(folder: Folder, tag: str) -> None:
    """What `assemble` does with the storage: the rows, and then what is written from them."""
    if not is_shipped(folder):
        session(folder, tag)
        export_json_lines(Dataset(folder))
        folder.write("README.md", b"card")


def ship_other_rows(folder: Folder) -> None:
    reopen(folder)
    ship(folder, "new")


def check_shipped(place: Storage) -> bool:
    """Whoever is told that the data set is shipped finds the same rows in both formats."""
    with place.under(None) as folder:
        if not is_shipped(folder):
            return False
        dataset = Dataset(folder)
        assert all(folder.read(json_name(shard)) == json_lines(dataset.read(shard)) for shard in range(SHARDS))
        return True


@given(kind=st.sampled_from(["disk", "store"]), sessions=st.lists(mishaps, min_size=1, max_size=3))
@QUIET
def test_no_crash_leaves_json_lines_of_other_rows(kind: str, sessions: list[Mishap]) -> None:
    with storage(kind) as place:
        with place.under(None) as folder:
            ship(folder, "old")
        for mishap in sessions:
            live_through(place, mishap, ship_other_rows, 1)
            check_shipped(place)
        with place.under(None) as folder:
            ship(folder, "new")
        assert check_shipped(place)


def mend(folder: Folder, untold: set[int]) -> None:
    """What `repair=all` does with the storage. `untold`: shards whose entry was damaged, so that nobody knows what rows they had."""
    take_out(folder, find_faults(folder, info(shards=SHARDS)))
    session(folder)
    again, changed = replaced(folder)
    assert set(changed) <= untold, "the same rows were made again"
    forget(folder, again)


@given(
    kind=st.sampled_from(["disk", "store"]),
    damaged=st.sets(st.integers(0, SHARDS - 1)),
    missing=st.sets(st.integers(0, SHARDS - 1)),
    entries=st.sets(st.integers(0, SHARDS - 1)),
    closed=st.booleans(),
    sessions=st.lists(mishaps, min_size=1, max_size=3),
)
@QUIET
def test_a_repair_that_is_killed_anywhere_is_completed_by_the_next(
    kind: str, damaged: set[int], missing: set[int], entries: set[int], closed: bool, sessions: list[Mishap]
) -> None:
    with storage(kind) as place:
        with place.under(None) as folder:
            session(folder)
            files = {entry.shard: entry.file for entry in Dataset(folder).entries}
            for shard in damaged:
                folder.write(files[shard], b"noise")
            for shard in missing:
                folder.delete(files[shard])
            untold = set() if closed else entries
            for shard in untold:
                folder.write(f"manifest/{shard:06d}.json", b"{")
            if not closed:
                folder.delete("_SUCCESS")
        for mishap in sessions:
            live_through(place, mishap, lambda folder: mend(folder, untold), 1)
        with place.under(None) as folder:
            mend(folder, untold)
        check_whole(place)
