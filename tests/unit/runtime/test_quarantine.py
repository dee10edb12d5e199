"""The search for the row at fault, in one process: what is run how often, what is kept, what stops the stage."""

import contextlib
import threading
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caco_ray.config import QuarantineConfig
from caco_ray.errors import EngineUnreachableError, InfraErrorsError, ModelError, StageContractError
from caco_ray.runtime.attempts import Attempt, Span, records
from caco_ray.runtime.quarantine import Guard, Turn
from caco_ray.schema import PROGRAM, live, row_id, to_table
from caco_ray.store import Folder


def table_of(count: int, **columns) -> pa.Table:
    rows = [{"row_id": row_id("p", "s", n), "parent_id": "p", "sample_index": n, **columns} for n in range(count)]
    return to_table(rows, PROGRAM)


def guard(folder: Path, passed: bool = True, beat=lambda killed, worker: None, wait=lambda why: None, **config) -> Guard:
    """`passed`: whether another shard's rows got through."""
    attempt = partial(Attempt, Folder(str(folder / "attempts")), "s", "work")
    return Guard("work", attempt, QuarantineConfig(**config), beat, lambda: passed, wait)


def failing_on(poison: set[int], calls: list[int]):
    def work(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        calls.append(len(rows))
        for row in live(rows):
            if row["sample_index"] in poison:
                raise ValueError("poison")
            row["code"] = str(row["sample_index"])
        return to_table(rows, table.schema)

    return work


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 300), data=st.data())
def test_exactly_the_rows_at_fault_are_given_up(tmp_path_factory, count: int, data) -> None:
    poison = data.draw(st.sets(st.integers(0, count - 1), max_size=min(4, max(1, count - 1))))
    calls: list[int] = []
    result = guard(tmp_path_factory.mktemp("g")).run(failing_on(poison, calls), table_of(count), 0).to_pylist()
    assert [row["sample_index"] for row in result] == list(range(count))
    assert {row["sample_index"] for row in result if row["infra_error"]} == poison
    assert all(row["code"] == str(row["sample_index"]) for row in result if row["sample_index"] not in poison)
    assert len(calls) <= 2 + 40 * max(1, len(poison))  # not row by row


def test_rows_that_are_out_already_are_not_touched(tmp_path: Path) -> None:
    calls: list[int] = []
    rejected = table_of(4, reject_reason="timeout")
    assert guard(tmp_path).run(failing_on({0, 1, 2, 3}, calls), rejected, 0) is rejected and calls == []


class Death(BaseException):
    """Ends the attempt as a kill does: nothing is written after it."""


def test_a_death_in_the_middle_goes_on_where_it_was(tmp_path: Path) -> None:
    seen: list[int] = []

    def work(table: pa.Table) -> pa.Table:
        numbers = table["sample_index"].to_pylist()
        if 17 in numbers:
            raise Death
        seen.extend(numbers)
        return table

    for _ in range(10):
        try:
            result = guard(tmp_path).run(work, table_of(64), 0)
            break
        except Death:
            continue
    else:
        pytest.fail("the shard never got through")
    assert [row["sample_index"] for row in result.to_pylist() if row["infra_error"]] == [17]
    assert len(set(seen)) == 63 and len(seen) == 64  # what went well was not run again, but for one row that proved the others' guilt


def test_a_death_that_may_be_another_shard_s_costs_no_row(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "attempts"))
    for _ in range(2):
        Attempt(folder, "s", "work", 0).begin((0, 8))
        assert guard(tmp_path).run(failing_on(set(), []), table_of(8), 0)["infra_error"].null_count == 8


class Worker:
    """A process that runs shards of 8 rows from threads, three of those that were lost at once. `fatal`: the row that ends it: what is in
    hand then stays in hand on disk, and nothing is begun any more."""

    def __init__(self, folder: Path, fatal: int | None, together: int, session: str = "s") -> None:
        """`together`: shards that wait inside for each other, so that they are in hand at once."""
        self._fatal, self._session, self._meet = fatal, session, threading.Barrier(together, timeout=30)
        self._over, self._lock, self._held = threading.Event(), threading.Lock(), 0
        self._guard = Guard("work", partial(self._attempt, folder), QuarantineConfig(), lambda *_: None, lambda: True, lambda why: None, 3)
        self.most = 0  # shards in hand at once
        self.through: dict[int, list[dict]] = {}

    def _attempt(self, folder: Path, shard: int) -> Attempt:
        over = self._over

        class Mortal(Attempt):
            def begin(self, span: Span) -> None:
                if over.is_set():
                    raise Death
                super().begin(span)

        return Mortal(Folder(str(folder / "attempts")), self._session, "work", shard, shared=True)

    def _work(self, table: pa.Table) -> pa.Table:
        with self._lock:
            self._held += 1
            self.most = max(self.most, self._held)
        self._meet.wait()
        if self._fatal in table["sample_index"].to_pylist():
            self._over.set()
        self._meet.wait()
        with self._lock:
            self._held -= 1
        if self._over.is_set():
            raise Death
        return table

    def _run(self, shard: int) -> None:
        rows = [{**row, "sample_index": 100 * shard + row["sample_index"]} for row in table_of(8).to_pylist()]
        with contextlib.suppress(Death):
            self.through[shard] = self._guard.run(self._work, to_table(rows, PROGRAM), shard).to_pylist()

    def live(self, shards: set[int]) -> None:
        threads = [threading.Thread(target=self._run, args=(shard,)) for shard in shards]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)


def test_an_outage_that_hit_many_shards_does_not_make_each_wait_for_the_others(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "attempts"))
    for shard in range(12):
        Attempt(folder, "a driver that was killed", "work", shard, shared=True).begin((0, 8))
    worker = Worker(tmp_path, fatal=None, together=3)
    worker.live(set(range(12)))
    assert len(worker.through) == 12 and worker.most == 3
    assert not any(record.kills for record in records(folder))


@pytest.mark.parametrize("takes_the_driver_along", [False, True])
def test_a_row_that_kills_a_crowd_is_found_among_few(tmp_path: Path, takes_the_driver_along: bool) -> None:
    first = Worker(tmp_path, fatal=507, together=12)
    first.live(set(range(12)))
    assert first.most == 12 and not first.through
    left, blamed = set(range(12)), []
    for life in range(8):
        worker = Worker(tmp_path, fatal=507, together=1, session=f"driver {life}" if takes_the_driver_along else "s")
        worker.live(left)
        assert worker.most <= 3
        left -= worker.through.keys()
        blamed += [row["sample_index"] for rows in worker.through.values() for row in rows if row["infra_error"]]
    assert not left and blamed == [507]
    assert sum(bool(record.kills) for record in records(Folder(str(tmp_path / "attempts")))) <= 3  # all that ever were suspected


@pytest.mark.parametrize("count", [16, 256])
def test_an_operator_that_fails_on_all_rows_blames_none(tmp_path: Path, count: int) -> None:
    calls: list[int] = []
    with pytest.raises(InfraErrorsError, match="work fails on all rows by now, the last time with: ValueError: poison"):
        guard(tmp_path).run(failing_on(set(range(count)), calls), table_of(count), 0)
    assert len(calls) <= 2 + 2 * 17  # it shows early
    all_may_fail = guard(tmp_path, max_infra_error_fraction=1).run(failing_on(set(range(count)), calls), table_of(count), 0)
    assert all_may_fail["infra_error"].null_count == 0


def test_an_outage_in_the_middle_of_a_search_blames_no_row(tmp_path: Path) -> None:
    """The rows before it got through, and would do so no more."""
    served: list[int] = []

    def work(table: pa.Table) -> pa.Table:
        if table.num_rows > 4 or len(served) == 8:
            raise OSError("No space left on device")
        served.append(table.num_rows)
        return table

    with pytest.raises(InfraErrorsError, match="OSError: No space"):
        guard(tmp_path).run(work, table_of(64), 0)


def test_a_row_that_is_nearly_alone_is_blamed_where_others_got_through_before(tmp_path: Path) -> None:
    lonely = to_table([{**row, "reject_reason": "timeout" if row["sample_index"] else None} for row in table_of(8).to_pylist()], PROGRAM)
    with pytest.raises(InfraErrorsError):
        guard(tmp_path / "first", passed=False).run(failing_on({0}, []), lonely, 0)
    assert guard(tmp_path / "later").run(failing_on({0}, []), lonely, 0)["infra_error"].null_count == 7


@pytest.mark.parametrize("how", ["raised", "row by row"])
def test_an_endpoint_that_is_away_is_waited_for_and_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    away = [True] * 4
    waits: list[str] = []

    def work(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        for row in rows:
            row["infra_error"] = "no answer" if how == "row by row" and away and (row["sample_index"] or len(rows) == 1) else None
        if away and away.pop() and how == "raised":
            raise EngineUnreachableError("m at http://host: cannot be reached")
        return to_table(rows, table.schema)

    folder = Folder(str(tmp_path / "attempts"))
    monkeypatch.setattr("caco_ray.runtime.quarantine.time.sleep", lambda s: waits.extend(f"{r.running} {r.waits}" for r in records(folder)))
    told: list[str] = []
    assert guard(tmp_path, wait=told.append).run(work, table_of(8), 0)["infra_error"].null_count == 8
    assert waits == [f"None {why}" for why in told]
    said = {"raised": ["None m at http://host: cannot be reached"] * 4, "row by row": ["None no answer"]}
    assert waits == said[how] and list(records(folder)) == []


def test_small_parts_that_are_well_come_before_those_within_a_part_that_kills(tmp_path: Path) -> None:
    """So that what gets through shows early that it is the rows, and not the operator."""
    order: list[int] = []
    guard(tmp_path).run(failing_on({0}, order), table_of(256), 0)
    assert order[:4] == [256, 256, 16, 16] and order.count(16) == 16


def test_what_the_user_can_mend_and_broken_contracts_are_raised(tmp_path: Path) -> None:
    def no_model(table: pa.Table) -> pa.Table:
        raise ModelError("gone")

    with pytest.raises(ModelError, match="gone"):
        guard(tmp_path).run(no_model, table_of(3), 0)
    with pytest.raises(StageContractError, match="'work' returned other rows"):
        guard(tmp_path).run(lambda table: table.slice(1), table_of(3), 0)
    assert not Attempt(Folder(str(tmp_path / "attempts")), "s", "work", 0).suspect


def test_suspects_have_the_worker_to_themselves() -> None:
    turn, inside, log = Turn(), [], []
    both_in, lock = threading.Barrier(2, timeout=30), threading.Lock()

    def shared(rendezvous: bool) -> None:
        with turn.shared():
            with lock:
                inside.append("shared")
                log.append(tuple(inside))
            if rendezvous:
                both_in.wait()
            with lock:
                inside.remove("shared")

    def alone() -> None:
        with turn.alone():
            with lock:
                inside.append("alone")
                log.append(tuple(inside))
            with lock:
                inside.remove("alone")

    threads = [threading.Thread(target=shared, args=(True,)) for _ in range(2)]
    threads += [threading.Thread(target=alone) for _ in range(5)] + [threading.Thread(target=shared, args=(False,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ("shared", "shared") in log  # shards do share
    assert log.count(("alone",)) == 5 and not [held for held in log if "alone" in held and len(held) > 1]


class Counting:
    """Raises on some rows, fails others once by name, and counts the rows that have a `code` when the shard is complete."""

    def __init__(self, poison: set[int], flaky: set[int]) -> None:
        self.poison, self.flaky = poison, set(flaky)

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        for row in live(rows):
            if row["sample_index"] in self.poison:
                raise ValueError("poison")
            row.update({"infra_error": "lost"} if row["sample_index"] in self.flaky else {"code": "done"})
        self.flaky.clear()
        return to_table(rows, table.schema)

    def complete(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        whole = sum(row["code"] is not None for row in rows)
        return to_table([{**row, "exec_error": f"{whole} of {len(rows)}"} for row in rows], table.schema)


@pytest.mark.parametrize(("poison", "flaky"), [(set(), set()), ({20}, set()), (set(), {3, 20}), ({5, 20}, {40})])
def test_what_takes_the_whole_shard_gets_it_however_the_rows_were_run(tmp_path: Path, poison: set[int], flaky: set[int]) -> None:
    """In parts after a row at fault, and again for rows that failed."""
    result = guard(tmp_path).run(Counting(poison, flaky), table_of(48), 0).to_pylist()
    assert {row["exec_error"] for row in result} == {f"{48 - len(poison)} of 48"}


def test_a_shard_whose_rows_are_all_out_is_completed_too(tmp_path: Path) -> None:
    result = guard(tmp_path).run(Counting(set(), set()), table_of(4, reject_reason="timeout"), 0)
    assert result["exec_error"].to_pylist() == ["0 of 4"] * 4


def test_what_fails_on_every_row_is_waited_for_and_then_stops_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    away = True

    def work(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        for row in live(rows):
            row.update({"infra_error": "no interpreter starts"} if away else {"code": "fine"})
        return to_table(rows, table.schema)

    def sleep(seconds: float) -> None:
        nonlocal away
        waits.append(seconds)
        away = away and len(waits) < 3

    monkeypatch.setattr("caco_ray.runtime.quarantine.time.sleep", sleep)
    assert guard(tmp_path / "a").run(work, table_of(64), 0)["infra_error"].null_count == 64 and len(waits) == 3
    monkeypatch.setattr("caco_ray.runtime.quarantine.time.sleep", waits.append)
    away = True
    with pytest.raises(InfraErrorsError, match="fails on all rows.*no interpreter starts"):
        guard(tmp_path / "b").run(work, table_of(64), 0)
    assert not Attempt(Folder(str(tmp_path / "b" / "attempts")), "s", "work", 0).suspect
    assert guard(tmp_path / "c", max_infra_error_fraction=1).run(work, table_of(64), 0)["infra_error"].null_count == 0
    assert guard(tmp_path / "d").run(work, table_of(3), 0)["infra_error"].null_count == 0  # so few may all be at fault


class Engine:
    """Works on rows without code; away."""

    def needs(self, table: pa.Table) -> list[bool]:
        return [code is None for code in table["code"].to_pylist()]

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        for row in rows:
            row["infra_error"] = "no answer" if row["code"] is None else None
        return to_table(rows, table.schema)


def test_rows_that_an_engine_passes_on_do_not_show_that_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caco_ray.runtime.quarantine.time.sleep", lambda s: None)
    rows = [{**row, "code": "x" if row["sample_index"] < 2 else None} for row in table_of(16).to_pylist()]
    beats: list[str | None] = []
    with pytest.raises(InfraErrorsError, match="no answer"):
        guard(tmp_path, beat=lambda killed, worker: beats.append(killed)).run(Engine(), to_table(rows, PROGRAM), 0)
    assert beats == []
