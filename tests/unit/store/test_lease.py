"""Two drivers on one run directory, on each kind of storage. Drivers that die are real processes."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import pytest

from caco_ray.errors import RunDirError, StorageError
from caco_ray.store import Folder
from caco_ray.store.lease import Lease, _this_process

QUICK = {"beat_s": 0.05, "stale_s": 1.0}


class Said(list[str]):
    def __call__(self, text: str) -> None:
        self.append(text)


def test_the_second_driver_is_refused_and_told_who_the_first_is(folder: Folder) -> None:
    with Lease(folder, Said()), pytest.raises(RunDirError, match=f"another driver is at work there \\(pid {os.getpid()} on "):
        Lease(folder, Said()).__enter__()
    said = Said()
    with Lease(folder, said):
        assert said == [] and len(folder.names("driver")) == 1


_HOLD = "import sys, time; from caco_ray.store import Folder; from caco_ray.store.lease import Lease\nwith Lease(Folder(sys.argv[1]), print, beat_s=0.05):\n print('held', flush=True); time.sleep(600)"


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_killed_driver_is_taken_over_at_once(where: str, tmp_path, request) -> None:
    folder = Folder(str(tmp_path / "run")) if where == "disk" else request.getfixturevalue("s3")
    first = subprocess.Popen([sys.executable, "-c", _HOLD, folder.url], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    with pytest.raises(RunDirError, match=f"pid {first.pid} "):
        Lease(folder, Said()).__enter__()
    first.send_signal(signal.SIGKILL)
    said = Said()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # dead but not reaped: a container's driver has nobody who reaps it
    with Lease(folder, said):
        assert "is dead: taking over" in said[0] and len(folder.names("driver")) == 1
    first.wait()
    first.stdout.close()


def _elsewhere(folder: Folder, number: int = 7) -> None:
    """A driver of another machine, whose clock is years ahead."""
    holder = replace(_this_process(), token="t", host="node-7", boot="another", since="2099-01-01 00:00:00 UTC")
    folder.write(f"driver/{number:06d}.json", json.dumps(asdict(holder)).encode())


def test_a_driver_of_another_machine_that_stands_still_is_taken_over(folder: Folder) -> None:
    _elsewhere(folder)
    said = Said()
    with Lease(folder, said, **QUICK):
        assert "another machine" in said[0] and "node-7" in said[1] and folder.names("driver") == ["000008.json"]


def test_a_driver_of_another_machine_that_beats_is_left_alone(folder: Folder, monkeypatch) -> None:
    monkeypatch.setattr("caco_ray.store.lease._pid_space", lambda: "another container")
    first = Lease(folder, Said(), **QUICK)
    monkeypatch.undo()
    with first, pytest.raises(RunDirError, match="another driver is at work"):
        Lease(folder, Said(), **{**QUICK, "stale_s": 600}).__enter__()


def test_one_that_ends_while_it_is_watched_is_not_waited_for(folder: Folder, monkeypatch) -> None:
    monkeypatch.setattr("caco_ray.store.lease._pid_space", lambda: "another container")
    first = Lease(folder, Said(), beat_s=600)
    monkeypatch.undo()
    first.__enter__()
    threading.Timer(0.3, first.__exit__, (None, None, None)).start()
    with Lease(folder, Said(), beat_s=0.05, stale_s=600):
        assert folder.names("driver") == ["000002.json"]


def test_of_many_that_take_over_at_once_one_does(folder: Folder) -> None:
    _elsewhere(folder)
    held: list[Lease] = []
    refused: list[str] = []
    start = threading.Barrier(5)

    def take() -> None:
        lease = Lease(folder, Said(), **QUICK)
        start.wait()
        try:
            held.append(lease.__enter__())
        except RunDirError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1 and len(refused) == 4
    held[0].__exit__(None, None, None)


def test_a_driver_that_was_taken_over_ends_and_says_so(tmp_path) -> None:
    folder = Folder(str(tmp_path / "run"))
    first = subprocess.Popen([sys.executable, "-c", _HOLD, folder.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    _elsewhere(folder, 2)
    _, said = first.communicate(timeout=300)
    assert "RunDirError" in said and "taken over by another driver" in said and "node-7" in said


def test_a_driver_whose_lease_is_damaged_ends_and_says_so(tmp_path) -> None:
    folder = Folder(str(tmp_path / "run"))
    first = subprocess.Popen([sys.executable, "-c", _HOLD, folder.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    folder.write("driver/000002.json", b"{")
    _, said = first.communicate(timeout=300)
    assert "RunDirError" in said and "000002.json: damaged" in said and "cannot show any more that it is alive" in said


def test_one_that_looked_long_ago_does_not_hold(folder: Folder) -> None:
    """Two drivers came and one went between its look and its step."""
    with Lease(folder, Said()):
        pass
    slow = Lease(folder, Said())
    with Lease(folder, Said()):
        pass
    with Lease(folder, Said()):
        slow._take(2)  # free again: the third driver swept it away
        assert slow._number == 0 and folder.names("driver") == ["000003.json"]
        with pytest.raises(RunDirError, match="another driver is at work"):
            slow.__enter__()


def test_one_that_ignores_ctrl_c_ends_too(tmp_path) -> None:
    """What `nohup` and a shell's `&` make of a run."""
    folder = Folder(str(tmp_path / "run"))
    ignoring = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + _HOLD
    first = subprocess.Popen([sys.executable, "-c", ignoring, folder.url], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    _elsewhere(folder, 2)
    said, _ = first.communicate(timeout=300)
    assert first.returncode == -signal.SIGTERM and "taken over by another driver" in said


def test_a_storage_where_both_writers_win_is_refused(folder: Folder, monkeypatch) -> None:
    monkeypatch.setattr(Folder, "create", lambda self, name, data: self.write(name, data) or True)  # an S3 server without conditions
    with pytest.raises(StorageError, match="lets two writers create one name"):
        Lease(folder, Said()).__enter__()


def test_a_damaged_lease_is_named(folder: Folder) -> None:
    folder.write("driver/000003.json", b'{"half')
    with pytest.raises(RunDirError, match=r"driver/000003\.json: damaged"):
        Lease(folder, Said()).__enter__()
