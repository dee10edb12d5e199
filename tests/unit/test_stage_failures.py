"""The stage runner on a real local Ray while workers are killed, hang, raise, or cannot be placed."""

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from caco_ray.config import QuarantineConfig, WatchdogConfig
from caco_ray.engines.base import EngineStats
from caco_ray.errors import EngineError, InfraErrorsError, StageStalledError, WorkersDieError
from caco_ray.runtime.attempts import records
from caco_ray.runtime.gate import Pulse
from caco_ray.runtime.shard_work import Session
from caco_ray.runtime.streaming import Streaming
from caco_ray.runtime.tasks import result_of
from caco_ray.runtime.telemetry import Live
from caco_ray.runtime.watchdog import Watchdog
from caco_ray.schema import PROGRAM, live, to_table
from caco_ray.source import SampleRange
from caco_ray.stage import Operator, Stage, run_stage
from caco_ray.store import Dataset, Folder, StageInfo

pytestmark = pytest.mark.usefixtures("ray_cluster")

ROWS, SHARD_ROWS = 48, 16
POISON = 20


class Fill:
    """Writes each row's code, after `act(sample_index)` did what it does to the process."""

    def __init__(self, act) -> None:
        self.act = act

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        for row in live(rows):
            self.act(row["sample_index"])
            row["code"] = f"print({row['sample_index']})"
        return to_table(rows, table.schema)


def die_on(poison):
    def act(number):
        if number == poison:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def once(folder: Path, action):
    """`action` in the first process that comes here, nothing in the later ones."""

    def act(number):
        if number == POISON and not (folder / "done-once").exists():
            (folder / "done-once").touch()
            action()

    return act


def fill(act, **needs) -> Operator:
    return Operator("fill", lambda: Fill(act), **needs)


def stage(tmp_path: Path, *operators: Operator, samples: int = ROWS, allowed: float = 0.1, timeout_s: float = 120) -> Stage:
    source = SampleRange("scale", samples, SHARD_ROWS, PROGRAM)
    info = StageInfo("scale", "f", {}, source.shards)
    limits = QuarantineConfig(max_infra_error_fraction=allowed), WatchdogConfig(timeout_s=timeout_s)
    return Stage(info, Folder(str(tmp_path / "programs")), source, operators, PROGRAM, *limits)


def run(made: Stage):
    return run_stage(made, lambda entry: None)


def rows_of(made: Stage) -> dict[int, dict]:
    return {row["sample_index"]: row for row in Dataset(made.folder).rows(kept_only=False)}


@pytest.mark.parametrize("needs", [{"cpus": 0.5, "actors": 1, "calls": 3}, {}], ids=["actor", "task"])
def test_a_row_that_kills_its_worker_is_quarantined_and_the_others_go_on(tmp_path: Path, needs) -> None:
    made = stage(tmp_path, fill(die_on(POISON), **needs))
    totals = run(made)
    assert (totals.kept, totals.quarantined, totals.rejected) == (ROWS - 1, 1, {})
    rows = rows_of(made)
    assert "fill: failed 2 times, alone: its worker (" in rows[POISON]["infra_error"]
    assert all(rows[number]["code"] == f"print({number})" for number in range(ROWS) if number != POISON)
    kills = {record.shard: record.kills for record in records(made.attempts)}
    assert kills.pop(1) == {"0-16": 2, "4-5": 2}  # the shard, the row
    assert not any(kills.values())  # of shards that were in the worker with it


def test_a_worker_that_is_killed_once_costs_no_row(tmp_path: Path) -> None:
    kill = once(tmp_path, lambda: os.kill(os.getpid(), signal.SIGKILL))
    totals = run(stage(tmp_path, fill(kill, cpus=0.5, actors=2, calls=2)))
    assert (totals.kept, totals.quarantined) == (ROWS, 0)


def test_an_engine_that_dies_once_is_made_again(tmp_path: Path) -> None:
    def die():
        raise EngineError("vLLM died: out of memory")

    made = stage(tmp_path, fill(once(tmp_path, die), cpus=0.5, actors=1, calls=2))
    assert run(made).kept == ROWS
    assert {"0-16": "vLLM died: out of memory"} in [record.said for record in records(made.attempts)]


def test_an_exception_is_the_row_s_and_names_itself(tmp_path: Path) -> None:
    def odd(number):
        if number % 16 == 7:
            raise ValueError(f"{number} is odd")

    made = stage(tmp_path, fill(odd))
    assert run(made).quarantined == 3
    rows = rows_of(made)
    assert [rows[number]["infra_error"] for number in (7, 23, 39)] == [
        f"fill: failed 2 times, alone: ValueError: {number} is odd" for number in (7, 23, 39)
    ]


def test_errors_of_the_machinery_are_tried_again_before_they_are_recorded(tmp_path: Path) -> None:
    def flaky(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        for row in live(rows):
            mark = tmp_path / f"seen-{row['sample_index']}"
            hopeless, seen = row["sample_index"] == POISON, mark.exists()
            mark.touch()
            row.update({"infra_error": "connection reset"} if hopeless or not seen else {"code": "fine"})
        return to_table(rows, table.schema)

    made = stage(tmp_path, Operator("flaky", lambda: flaky))
    totals = run(made)
    assert (totals.kept, totals.quarantined) == (ROWS - 1, 1)
    assert rows_of(made)[POISON]["infra_error"] == "connection reset"


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (2, r"scale: .* quarantine.max_infra_error_fraction=0.1 of 48 rows allows: 8 .*no route to host"),
        (1, r"fill fails on all rows by now, the last time with: OSError: no route to host"),
    ],
    ids=["some", "all"],
)
def test_too_many_errors_stop_the_stage_and_their_shard_is_done_again(tmp_path: Path, step: int, said: str) -> None:
    broken = tmp_path / "broken"
    broken.touch()

    def act(number):
        if broken.exists() and number >= 32 and number % step == 0:
            raise OSError("no route to host")

    made = stage(tmp_path, fill(act))
    with pytest.raises(InfraErrorsError, match=said) as caught:
        run(made)
    assert "\n" not in str(caught.value)
    assert "000002.json" not in made.folder.names("manifest")
    broken.unlink()
    assert run(made).kept == ROWS


def test_a_hanging_worker_stops_the_stage_and_is_named(tmp_path: Path) -> None:
    def hang(number):
        if number == POISON:
            time.sleep(3600)

    made = stage(tmp_path, fill(hang, cpus=0.5, actors=1, calls=2), timeout_s=4)
    with pytest.raises(StageStalledError) as caught:
        run(made)
    report = str(caught.value)
    assert "scale: nothing moved for 4 s (watchdog.timeout_s); stopped. 2 of 3 shards were committed" in report
    assert "fill: 1 running, 0 waiting for it; actors: 1 alive" in report and "It waits for fill: shard 1 is" in report
    (record,) = [record for record in records(made.attempts) if record.running is not None]
    assert (record.operator, record.shard) == ("fill", 1)  # it counts against the shard when the run goes on


def test_an_actor_that_finds_no_room_stops_the_stage_and_is_named(tmp_path: Path) -> None:
    made = stage(tmp_path, fill(die_on(None), cpus=0.5, memory_mb=10_000_000, actors=1), timeout_s=3)
    with pytest.raises(StageStalledError, match="It waits for an actor of fill, which needs 0.5 CPU, 9765.62 GiB of memory on one node"):
        run(made)


def test_a_task_that_finds_no_room_is_not_waited_for_for_ever() -> None:
    nowhere = ray.remote(num_cpus=0, resources={"unobtainium": 1})(lambda: None)
    with pytest.raises(StageStalledError, match=r"did not end in 0.5 s \(watchdog.timeout_s\).* of 2 CPU free.* GiB of memory"):
        result_of(nowhere.remote(), timeout_s=0.5)


def test_an_operator_that_always_dies_stops_the_stage_before_it_blames_a_row(tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    made = stage(tmp_path, fill(lambda number: mended.exists() or os._exit(1)), allowed=1.0)
    with pytest.raises(WorkersDieError, match="fill died [5-9] times in a row and got no row through: its worker"):
        run(made)
    mended.touch()
    assert run(made).kept == ROWS


def test_sigterm_stops_a_stage_as_ctrl_c_does(tmp_path: Path) -> None:
    """`ray job stop` and evictions send it. The shards at work are not to blame."""

    def hang(number):
        if number == POISON:
            (tmp_path / "at-work").touch()
            time.sleep(3600)

    def end() -> None:
        while not (tmp_path / "at-work").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    made = stage(tmp_path, fill(hang, cpus=0.5, actors=1))
    sender = threading.Thread(target=end, daemon=True)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        run(made)
    sender.join()
    assert not [record for record in records(made.attempts) if record.running or record.kills]


def test_tokens_of_an_engine_are_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large shard on a slow engine moves nothing else for long."""
    made, watchdog, tokens = stage(tmp_path), Watchdog(3600), iter([5, 9, 9])
    streaming = Streaming(Session(made, None, ""), range(3), None, watchdog, lambda live: None)
    monkeypatch.setattr(streaming, "_tell", lambda: Pulse(live=Live(stats=EngineStats(tokens=next(tokens)))))
    for _ in range(2):
        watchdog._moved -= 7200
        streaming._tick()
    watchdog._moved -= 7200
    with pytest.raises(StageStalledError, match="nothing moved for 7200 s"):
        streaming._tick()


def test_an_actor_that_always_dies_while_it_starts_stops_the_stage(tmp_path: Path) -> None:
    """What the kernel does to a model that is too large for the machine."""
    with pytest.raises(EngineError, match="doomed: its process died 3 times while it started"):
        run(stage(tmp_path, Operator("doomed", lambda: os._exit(1), actors=1)))


def test_shards_in_flight_are_bounded_and_a_slow_one_delays_only_itself(tmp_path: Path) -> None:
    def begin(table: pa.Table) -> pa.Table:
        (tmp_path / f"begun-{table['sample_index'][0].as_py()}").touch()
        return table

    def wait(number):
        while number == 0 and not (tmp_path / "go").exists():
            time.sleep(0.05)

    made = stage(tmp_path, Operator("begin", lambda: begin), fill(wait, cpus=0.5, actors=1, calls=2), samples=480)
    most = Counter[str]()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            begun, done = len(list(tmp_path.glob("begun-*"))), len(made.folder.names("manifest"))
            most["in flight"] = max(most["in flight"], begun - done)
            if done >= 29:
                (tmp_path / "go").touch()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert run(made).kept == 480
    finally:
        stop.set()
        watcher.join()
    assert (tmp_path / "go").exists() and 0 < most["in flight"] <= 4 + 3  # _TASKS + calls + 1
