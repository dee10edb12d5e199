"""One folder on a disk or an object store, with the two writes that the commit layer needs: whole-or-nothing, and first-wins."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

from caco_ray.errors import StorageError
from caco_ray.store.disk import Disk
from caco_ray.store.faults import Result, persistently, storage_errors
from caco_ray.store.objects import Objects, options

_READERS = 32  # threads: a small file on a network disk or object store costs a round trip and no work


class Folder:
    """A folder by local path or URL. Picklable; cheap to make. A fault that may pass by itself is waited out for some ten seconds.

    Raises (all methods, and the constructor):
        StorageError: full, read-only, no permission, no credentials, not reachable, or no driver for the URL.
    """

    def __init__(self, url: str) -> None:
        self.url = str(url).rstrip("/")
        protocol = self.url.split("://")[0] if "://" in self.url else "file"
        try:
            self._driver, self._root = fsspec.core.url_to_fs(self.url, **(options(protocol) if protocol not in ("file", "local") else {}))
        except (ValueError, ImportError) as error:
            extra = "; pip install 'caco_ray[s3]'" if protocol in ("s3", "s3a") else ""
            raise StorageError(f"{self.url}: no such storage ({error}){extra}") from error
        self.is_local = isinstance(self._driver, LocalFileSystem)
        self._files: Disk | Objects = Disk() if self.is_local else Objects(self._driver, protocol)

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[type["Folder"], tuple[str]]:
        return Folder, (self.url,)

    @property
    def local_path(self) -> Path:
        """The folder as a local path.

        Raises:
            StorageError: the folder is on an object store.
        """
        if not self.is_local:
            raise StorageError(f"{self.url}: a folder on a local or network disk is needed here")
        return Path(self._root)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _try(self, name: str, action: Callable[[], Result], *, writing: bool = False) -> Result:
        with storage_errors(f"{self.url}/{name}".rstrip("/"), writing=writing):
            return persistently(action)

    def exists(self, name: str = "") -> bool:
        return self._try(name, lambda: self._files.exists(self._path(name)))

    def names(self, name: str = "", *, hidden: bool = False) -> list[str]:
        """Names in a sub-folder, sorted; empty when there is none.

        Names with a leading dot are left out unless `hidden`: our own unfinished files, NFS's `.nfs*`, a desktop's `.DS_Store`.
        """
        there = self._try(name, lambda: self._files.names(self._path(name)))
        return sorted(found for found in there if hidden or not found.startswith("."))

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._try(name, lambda: self._files.read(self._path(name)))

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Many small files at once, in the order of `names`."""
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(self.read, names))

    def delete(self, name: str) -> None:
        """Delete a file or a sub-folder; nothing happens when it is absent."""
        self._try(name, lambda: self._files.delete(self._path(name)), writing=True)

    def move(self, name: str, to: "Folder", target: str) -> None:
        """Move a file or sub-folder into another folder of the same storage, over what is there; nothing happens when it is absent."""
        with suppress(FileNotFoundError):
            self._try(name, lambda: self._files.move(self._path(name), to._path(target)))

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file or nothing, over what was there."""
        self._try(name, lambda: self._files.write(self._path(name), data), writing=True)

    def put(self, name: str, local: Path) -> None:
        """Write a whole file or nothing, from a file of any size on this machine."""
        self._try(name, lambda: self._files.put(self._path(name), str(local)), writing=True)

    def get(self, name: str, local: Path) -> None:
        """Copy a file of any size to this machine.

        Raises:
            FileNotFoundError: there is none.
        """
        self._try(name, lambda: self._files.get(self._path(name), str(local)))

    def versions(self) -> dict[str, str]:
        """All files, those of sub-folders too, by name relative to this folder; a text that changes when the file does."""
        keys = self._try("", lambda: {path: self._driver.ukey(path) for path in sorted(self._driver.find(self._root))})
        return {path.removeprefix(f"{self._root}/"): key for path, key in keys.items()}

    def for_arrow(self) -> tuple[FileSystem, str]:
        """The same folder for libraries that take a file system of Arrow's and a path on it."""
        return PyFileSystem(FSSpecHandler(self._driver)), self._root

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole file unless the name is taken; says whether the file is now this one, and so whether this writer was first.

        Writers whose `data` is alike all hear yes: what tells them apart must stand in it.
        """
        return self._try(name, lambda: self._files.create(self._path(name), data), writing=True)
