"""One folder on any fsspec file system, with the two writes that the commit layer needs: whole-or-nothing, and first-wins.

On a local disk or NFS a file is written to a temporary name, synced, then renamed (or hard-linked, which fails when the name
exists). On an object store a PUT is whole-or-nothing by itself, and `mode="create"` asks the store to refuse an existing name.
"""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from caco_ray.errors import StorageError


@contextmanager
def _storage_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, FileNotFoundError):
        raise
    except PermissionError as error:
        raise StorageError(f"{path}: no permission ({error.strerror or error}); check its owner or your credentials") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"{path}: the disk is full; free some space and run the same command again") from error
        if error.errno == errno.EROFS:
            raise StorageError(f"{path}: the file system is read-only") from error
        raise


class Folder:
    """A folder by local path or URL. Picklable; cheap to make.

    Raises (all methods that write):
        StorageError: disk full, read-only, or no permission.
    """

    def __init__(self, url: str) -> None:
        self.url = str(url).rstrip("/")
        self._fs, self._root = fsspec.core.url_to_fs(self.url)
        self.is_local = isinstance(self._fs, LocalFileSystem)

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

    def exists(self, name: str = "") -> bool:
        return bool(self._fs.exists(self._path(name)))

    def names(self, name: str = "") -> list[str]:
        """Names in a sub-folder, sorted; empty when there is none."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._path(name), detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)

    def read(self, name: str) -> bytes:
        return bytes(self._fs.cat_file(self._path(name)))

    def delete(self, name: str) -> None:
        """Delete a file or a sub-folder; nothing happens when it is absent."""
        path = self._path(name)
        if self._fs.exists(path):
            self._fs.rm(path, recursive=True)

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file or nothing, over what was there."""
        with _storage_errors(f"{self.url}/{name}"):
            if not self.is_local:
                self._fs.pipe_file(self._path(name), data)
                return
            temporary = self._write_temporary(name, data)
            os.replace(temporary, self._path(name))
            _sync_folder(Path(self._path(name)).parent)

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole file unless the name is taken; says whether this call made it."""
        with _storage_errors(f"{self.url}/{name}"):
            if not self.is_local:
                try:
                    self._fs.pipe_file(self._path(name), data, mode="create")
                except FileExistsError:
                    return False
                return True
            temporary = self._write_temporary(name, data)
            try:
                os.link(temporary, self._path(name))
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
            _sync_folder(Path(self._path(name)).parent)
            return True

    def _write_temporary(self, name: str, data: bytes) -> Path:
        target = Path(self._path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
