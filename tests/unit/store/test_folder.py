"""The two writes on a disk, in memory and on a real S3 server, and what each storage says when it refuses."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest

from caco_ray.errors import StorageError
from caco_ray.store import Folder, faults
from caco_ray.store.disk import Disk
from caco_ray.store.faults import explain


def test_the_first_create_wins_and_the_winner_may_repeat_it(folder: Folder) -> None:
    assert folder.create("a/x", b"one")
    assert not folder.create("a/x", b"two")
    assert folder.create("a/x", b"one"), "a repetition of the call that won is the same call"
    assert folder.read("a/x") == b"one"


def test_of_many_creates_at_once_one_wins(folder: Folder) -> None:
    won: list[int] = []
    start = threading.Barrier(8)

    def create(number: int) -> None:
        start.wait()
        if folder.create("a/x", f"writer {number}".encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and folder.read("a/x") == f"writer {won[0]}".encode()


def test_write_names_move_and_delete(folder: Folder) -> None:
    assert folder.names() == [] and folder.names("a") == [] and not folder.exists("a/x")
    folder.write("a/x", b"1")
    folder.write("a/x", b"2")
    folder.write("a/.hidden", b"3")
    folder.write("b/y", b"4")
    assert folder.names() == ["a", "b"] and folder.names("a") == ["x"] and folder.names("a", hidden=True) == [".hidden", "x"]
    assert folder.read_many(["b/y", "a/x"]) == [b"4", b"2"]
    folder.move("a/x", folder / "c", "z")
    folder.move("a/x", folder / "c", "z")  # absent by now: nothing happens
    assert folder.read("c/z") == b"2" and not folder.exists("a/x")
    folder.write("d/e/f", b"5")
    folder.move("d", folder / "c", "d")
    assert folder.read("c/d/e/f") == b"5" and not folder.exists("d")
    folder.delete("a")
    folder.delete("a")
    assert folder.names() == ["b", "c"]
    with pytest.raises(FileNotFoundError):
        folder.read("a/x")


def test_another_process_is_seen_at_once(s3: Folder) -> None:
    s3.write("a/x", b"1")
    assert s3.names("a") == ["x"] and not s3.exists("_SUCCESS")
    program = "import sys; from caco_ray.store import Folder; Folder(sys.argv[1]).write('_SUCCESS', b'')"
    subprocess.run([sys.executable, "-c", program, s3.url], check=True)
    assert s3.exists("_SUCCESS") and s3.names() == ["_SUCCESS", "a"]


def test_a_lost_reply_does_not_turn_the_winner_into_a_loser(s3: Folder, door) -> None:
    door.next("PUT", "/entry.json", "lose_reply")  # the client repeats the PUT, and the name is taken: by itself
    assert s3.create("manifest/entry.json", b"mine")
    assert len([path for method, path in door.requests if method == "PUT" and path.endswith(f"{s3.url[5:]}/manifest/entry.json")]) == 2


CALLS = {
    "read": lambda folder: folder.read("a/x"),
    "exists": lambda folder: folder.exists("a/x"),
    "names": lambda folder: folder.names("a"),
    "write": lambda folder: folder.write("a/x", b"2"),
    "create": lambda folder: folder.create("a/y", b"2"),
    "delete": lambda folder: folder.delete("a/x"),
    "move": lambda folder: folder.move("a/x", folder, "b/x"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("fault", [OSError(errno.ESTALE, "stale"), OSError(errno.EIO, "I/O"), TimeoutError("slow")])
def test_a_hiccup_is_waited_out(tmp_path, monkeypatch, call: str, late: bool, fault: OSError) -> None:
    """`late`: the call was carried out, and its reply lost."""
    monkeypatch.setattr(faults, "WAITS_S", (0,))
    folder, real, tries = Folder(str(tmp_path)), getattr(Disk, call), []
    folder.write("a/x", b"1")

    def flaky(*arguments: object) -> object:
        tries.append(1)
        result = real(*arguments) if late or len(tries) == 2 else None
        if len(tries) != 2:
            raise fault
        return result

    expected = {"read": b"1", "exists": True, "names": ["x"], "create": True}.get(call)
    monkeypatch.setattr(Disk, call, flaky)
    assert CALLS[call](folder) == expected and len(tries) == 2
    if not late:
        with pytest.raises(StorageError):
            CALLS[call](folder)
        assert len(tries) == 4, "not for ever"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_does_not_pass_is_not_tried_again(tmp_path, monkeypatch, number: int) -> None:
    tries: list[int] = []
    monkeypatch.setattr(Disk, "write", lambda *_: tries.append(1) or (_ for _ in ()).throw(OSError(number, "no")))
    with pytest.raises(StorageError):
        Folder(str(tmp_path)).write("x", b"")
    assert len(tries) == 1


def test_a_store_that_asks_to_slow_down_is_asked_again(s3: Folder, door, monkeypatch) -> None:
    monkeypatch.setattr(faults, "WAITS_S", (0, 0, 0))
    for _ in range(6):  # more often than the driver asks by itself
        door.next("PUT", "/entry.json", "SlowDown")
    assert s3.create("manifest/entry.json", b"mine") and s3.read("manifest/entry.json") == b"mine"


def test_conflicting_puts_are_repeated(s3: Folder, door) -> None:
    door.next("PUT", "/entry.json", "ConditionalRequestConflict")
    assert s3.create("manifest/entry.json", b"mine")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("RequestTimeTooSkewed", "this machine's clock"),
        ("ExpiredToken", "expired"),
        ("InvalidAccessKeyId", "does not know these credentials"),
        ("SignatureDoesNotMatch", "secret key"),
        ("AccessDenied", "no permission"),
    ],
)
def test_what_s3_refuses_is_one_clear_line(s3: Folder, door, code: str, said: str) -> None:
    for method, action in (("GET", lambda: s3.read("x")), ("PUT", lambda: s3.write("x", b"")), ("PUT", lambda: s3.create("x", b""))):
        door.next(method, "/x", code)
        with pytest.raises(StorageError, match=said) as caught:
            action()
        assert str(caught.value).startswith(f"{s3.url}/x: ") and "\n" not in str(caught.value)


def test_a_missing_bucket_is_named(door) -> None:
    folder = Folder("s3://no-such-bucket-here/run")
    assert folder.names() == [] and not folder.exists("x")
    with pytest.raises(StorageError, match="no such bucket"):
        folder.create("x", b"")


_TRY = """
import sys
from caco_ray.errors import StorageError
from caco_ray.store import Folder, faults
faults.WAITS_S = ()
try:
    Folder(sys.argv[1]).{call}
except StorageError as error:
    print(error)
"""


def _said(url: str, call: str, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    home = {"HOME": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"}
    arguments = [sys.executable, "-c", _TRY.format(call=call), url]
    return subprocess.run(arguments, env={**kept, **home, **environment}, check=True, capture_output=True, text=True).stdout.strip()


def test_missing_credentials_are_one_clear_line(door) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    for call in ("create('x', b'')", "read('x')", "names()", "exists('x')"):
        said = _said("s3://caco/nobody", call, AWS_ENDPOINT_URL=endpoint)
        assert "no credentials found" in said and "\n" not in said, call


def test_a_store_that_does_not_answer_is_one_clear_line() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}
    said = _said("s3://caco/nowhere", "write('x', b'')", AWS_ENDPOINT_URL="http://127.0.0.1:9", **keys)
    assert "cannot be reached" in said and "\n" not in said


@pytest.mark.parametrize("url", ["nosuch://a/b", "s4://a/b"])
def test_an_unknown_storage_is_named(url: str) -> None:
    with pytest.raises(StorageError, match="no such storage"):
        Folder(url)


def test_a_store_that_cannot_refuse_a_taken_name_is_refused(tmp_path) -> None:
    with pytest.raises(StorageError, match="cannot refuse a name that is taken"):
        Folder(f"dir::file://{tmp_path}").create("x", b"")


_ON_A_MOUNT = """
mount -t tmpfs -o size=64k none {place} && {before} exec {python} -c "$1" {place}
"""
_WRITES = """
import pathlib, sys
from caco_ray.errors import StorageError
from caco_ray.store import Folder
place = pathlib.Path(sys.argv[1])
for action in ({actions}):
    try:
        action(Folder(str(place)))
    except StorageError as error:
        print(error)
print(sorted(str(path.relative_to(place)) for path in place.rglob('*') if path.is_file()))
"""


def _on_a_mount(place: Path, before: str, actions: str) -> list[str]:
    """What `actions` say on a small file system of their own, and which files are left."""
    place.mkdir()
    shell = _ON_A_MOUNT.format(place=place, before=before, python=sys.executable)
    run = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", shell, "sh", _WRITES.format(actions=actions)], capture_output=True, text=True
    )
    if run.returncode:
        pytest.skip(f"no mount of one's own on this machine: {run.stderr.strip()[:200]}")
    return run.stdout.strip().splitlines()


def test_a_full_disk_is_one_clear_line_and_leaves_no_half_file(tmp_path) -> None:
    big = "lambda f: f.write('data/x', bytes(1 << 20)), lambda f: f.create('data/x', bytes(1 << 20))"
    said = _on_a_mount(tmp_path / "disk", "", f"lambda f: f.write('data/small', b'1'), {big}")
    assert [line.split(": ")[1].split(";")[0] for line in said[:2]] == ["the disk is full"] * 2
    assert said[2] == "['data/small']"


def test_a_read_only_disk_is_one_clear_line(tmp_path) -> None:
    before = f"mount -o remount,ro {tmp_path / 'disk'} &&"
    said = _on_a_mount(tmp_path / "disk", before, "lambda f: f.write('x', b''), lambda f: f.create('a/x', b'')")
    assert all("read-only" in line for line in said[:2]) and said[2] == "[]"


def test_a_disk_without_hard_links_is_refused(tmp_path, monkeypatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)  # mounting such a file system (FAT, SMB, gcsfuse) needs a device
    with pytest.raises(StorageError, match="no hard links"):
        Folder(str(tmp_path)).create("x", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_needed(tmp_path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        Folder(str(tmp_path / "run")).write("x/y", b"")


def test_unknown_faults_keep_their_words() -> None:
    assert explain(RuntimeError("boiler\n broke")) == "the storage failed (RuntimeError: boiler broke)"


def test_the_memory_store_is_shared_by_all_folders() -> None:
    assert fsspec.filesystem("memory").store is fsspec.filesystem("memory", use_listings_cache=False).store
