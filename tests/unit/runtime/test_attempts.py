"""What is on disk of attempts: deaths are counted by whoever comes next, and a shard without trouble leaves nothing."""

from pathlib import Path

import pyarrow as pa
import pytest

from caco_ray.runtime.attempts import Attempt, absolve, forgive, records
from caco_ray.store import Folder

WHOLE, HALF = (0, 10), (0, 5)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "attempts"))


def attempt(folder: Folder, shard: int = 3, session: str = "s", shared: bool = False) -> Attempt:
    return Attempt(folder, session, "execute", shard, shared)


def test_a_shard_without_trouble_leaves_no_file(folder: Folder) -> None:
    one = attempt(folder)
    one.begin(WHOLE)
    assert [record.running for record in records(folder)] == ["0-10"]
    one.end()
    one.finish()
    assert list(records(folder)) == [] and not one.suspect


def test_an_attempt_that_never_ended_is_a_death_of_its_rows(folder: Folder) -> None:
    for deaths in (1, 2, 3):
        attempt(folder).begin(WHOLE)
        after = attempt(folder)
        assert after.follows and after.suspect and after.kills(WHOLE) == deaths and after.kills(HALF) == 0
        assert attempt(folder).follows is None  # counted once
    assert "pid" in attempt(folder).said(WHOLE)


def test_deaths_are_counted_by_operator_shard_and_rows(folder: Folder) -> None:
    attempt(folder, 3).begin(HALF)
    assert attempt(folder, 3).kills(HALF) == 1
    assert not attempt(folder, 4).suspect and not Attempt(folder, "s", "model", 3).suspect


def test_deaths_count_whoever_s_driver_it_was_but_only_our_own_are_told(folder: Folder) -> None:
    attempt(folder, session="driver that died").begin(WHOLE)
    after = attempt(folder, session="driver started again")
    assert after.kills(WHOLE) == 1 and after.follows is None


@pytest.mark.parametrize("sessions", [("s", "s", "s"), ("first", "second", "third")], ids=["worker", "driver"])
def test_the_first_death_of_a_shard_that_had_company_is_no_kill(folder: Folder, sessions: tuple[str, str, str]) -> None:
    attempt(folder, session=sessions[0], shared=True).begin(WHOLE)
    second = attempt(folder, session=sessions[1], shared=True)
    assert second.lost and not second.suspect and (second.follows is not None) == (sessions[0] == sessions[1])
    assert not attempt(folder, session=sessions[1], shared=True).suspect  # nobody has worked on it since
    second.begin(WHOLE)
    third = attempt(folder, session=sessions[2], shared=True)
    assert third.suspect and third.kills(WHOLE) == 1
    third.begin(WHOLE)
    assert attempt(folder, session=sessions[2], shared=True).kills(WHOLE) == 2  # alone by now: each one counts


def test_a_shard_that_got_through_after_an_outage_is_no_more_lost(folder: Folder) -> None:
    attempt(folder, shared=True).begin(WHOLE)
    one = attempt(folder, shared=True)
    one.begin(WHOLE)
    one.end()
    assert [list(record.said) for record in records(folder)] == [["0-10"]]  # what happened is still told
    attempt(folder, shared=True).begin(WHOLE)
    after = attempt(folder, shared=True)
    assert after.lost and not after.suspect


def test_an_outage_that_we_end_ourselves_leaves_lost_shards_lost(folder: Folder) -> None:
    attempt(folder, shared=True).begin(WHOLE)
    attempt(folder, shared=True).begin(WHOLE)
    forgive(folder)
    after = attempt(folder, shared=True)
    assert after.lost and not after.suspect


def test_last_words_say_why(folder: Folder) -> None:
    one = attempt(folder)
    one.begin(WHOLE)
    one.last_words("vLLM died: CUDA out of memory")
    assert attempt(folder).follows == "vLLM died: CUDA out of memory"
    attempt(folder).begin(HALF)
    assert "died" in str(attempt(folder).follows)  # the next one had no words
    assert (attempt(folder).said(WHOLE), attempt(folder).kills(WHOLE)) == ("vLLM died: CUDA out of memory", 1)


def test_parts_that_went_well_are_kept_until_the_shard_is_through(folder: Folder) -> None:
    given, result = pa.table({"x": [1, 2]}), pa.table({"x": [3, 4]})
    one = attempt(folder)
    one.fail(WHOLE, "ValueError: no")
    one.keep(HALF, given, result)
    assert attempt(folder).kept(HALF, given) == result
    assert attempt(folder).kept(HALF, pa.table({"x": [1, 9]})) is None  # other rows came in
    one.finish()
    assert attempt(folder).kept(HALF, given) is None and attempt(folder).kills(WHOLE) == 1


def test_whom_we_stop_ourselves_is_not_to_blame(folder: Folder) -> None:
    attempt(folder, 1).begin(WHOLE)
    attempt(folder, 2).fail(WHOLE, "ValueError: no")
    attempt(folder, 2).begin(HALF)
    forgive(folder)
    assert not attempt(folder, 1).suspect and attempt(folder, 2).kills(WHOLE) == 1 and attempt(folder, 2).kills(HALF) == 0


def test_what_an_outage_left_against_shards_is_forgotten(folder: Folder) -> None:
    given = pa.table({"x": [1]})
    for shard in (1, 2):
        attempt(folder, shard).fail(WHOLE, "OSError: disk full")
        attempt(folder, shard).keep(HALF, given, given)
    absolve(folder, {1})
    assert not attempt(folder, 1).suspect and attempt(folder, 1).kept(HALF, given) is None
    assert attempt(folder, 2).suspect and attempt(folder, 2).kept(HALF, given) is not None


def test_a_worker_that_dies_while_rows_wait_says_nothing_about_them(folder: Folder) -> None:
    one = attempt(folder)
    one.begin(WHOLE)
    one.wait("m at http://host: cannot be reached")
    assert [record.waits for record in records(folder)] == ["m at http://host: cannot be reached"]
    assert not attempt(folder).suspect and attempt(folder).follows is None


def test_a_damaged_record_counts_as_none(folder: Folder) -> None:
    attempt(folder).begin(WHOLE)
    folder.write("000003.execute.json", b"\x00\x00")
    assert not attempt(folder).suspect
