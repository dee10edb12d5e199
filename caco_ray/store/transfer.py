"""Whole folders between an object store and the disks of nodes: programs that load models want files."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from caco_ray.errors import StorageError
from caco_ray.store.folder import Folder

CACHE_ENV = "CACO_RAY_CACHE"
Item = TypeVar("Item")

_STREAMS = 8  # files at once: one stream does not fill a node's network


def node_cache() -> Path:
    """Where this node keeps what it fetched: `$CACO_RAY_CACHE/fetched`, or `~/.cache/caco_ray/fetched`."""
    place = os.environ.get(CACHE_ENV)
    return (Path(place) if place else Path.home() / ".cache" / "caco_ray").absolute() / "fetched"


def send_folder(local: Path, target: Folder) -> None:
    """Write all files of `local`, those of sub-folders too, into `target`."""
    files = [path for path in sorted(local.rglob("*")) if path.is_file()]
    _at_once(lambda path: target.put(path.relative_to(local).as_posix(), path), files)


def fetch_folder(source: Folder, cache: Path) -> Path:
    """This node's copy of `source`, made on first use; processes that ask at once wait for the first. A changed `source` is another copy.

    Raises:
        FileNotFoundError: `source` holds nothing.
        StorageError: the store fails, or `cache` cannot be written or is too small.
    """
    versions = source.versions()
    if not versions:
        raise FileNotFoundError(source.url)
    digest = hashlib.blake2b(json.dumps([source.url, versions]).encode(), digest_size=8).hexdigest()
    copy = cache / f"{source.url.rsplit('/', 1)[-1]}-{digest}"
    try:
        with _alone(copy):
            if not copy.is_dir():
                _fetch(source, list(versions), copy)
    except OSError as error:
        raise StorageError(f"{cache}: {source} cannot be copied there ({error}); set {CACHE_ENV} to a folder with room") from error
    return copy


def _fetch(source: Folder, names: list[str], copy: Path) -> None:
    partial = Path(tempfile.mkdtemp(prefix=f".{copy.name}.", dir=copy.parent))
    try:
        for folder in {(partial / name).parent for name in names}:
            folder.mkdir(parents=True, exist_ok=True)
        _at_once(lambda name: source.get(name, partial / name), names)
        partial.chmod(0o755)
        partial.rename(copy)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _at_once(work: Callable[[Item], None], items: list[Item]) -> None:
    with ThreadPoolExecutor(_STREAMS) as pool:
        list(pool.map(work, items))


@contextmanager
def _alone(copy: Path) -> Iterator[None]:
    """One process of this node at a time; the kernel ends the lock with its holder."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    with copy.with_name(f".{copy.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
