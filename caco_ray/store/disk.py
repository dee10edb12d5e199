"""Files on a local or network disk, by absolute path.

A file is written to a temporary name and synced, then renamed (whole or nothing) or hard-linked (which the kernel, or the NFS server,
refuses when the name exists). Then the folder is synced, so that the name survives a power cut. No locks are used: over NFS they are
often missing or advisory only.
"""

import errno
import os
import shutil
import uuid
from contextlib import suppress

from caco_ray.errors import StorageError

_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK)


class Disk:
    """All methods raise `OSError` as the kernel gives it."""

    def exists(self, path: str) -> bool:
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def names(self, path: str) -> list[str]:
        try:
            return os.listdir(path)
        except FileNotFoundError:
            return []

    def read(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def delete(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):  # POSIX allows both for a folder
            if not os.path.isdir(path):
                raise
            shutil.rmtree(path)
        _sync_folder(os.path.dirname(path))

    def move(self, path: str, target: str) -> None:
        _make_folder(os.path.dirname(target))
        os.replace(path, target)
        _sync_folder(os.path.dirname(target))

    def write(self, path: str, data: bytes) -> None:
        temporary = _write_temporary(path, data)
        try:
            os.replace(temporary, path)
        except OSError:
            _discard(temporary)
            raise
        _sync_folder(os.path.dirname(path))

    def put(self, path: str, local: str) -> None:
        folder, name = os.path.split(path)
        _make_folder(folder)
        temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:12]}.tmp")
        try:
            shutil.copyfile(local, temporary)
            _sync(temporary)
            os.replace(temporary, path)
        finally:
            _discard(temporary)
        _sync_folder(folder)

    def get(self, path: str, local: str) -> None:
        shutil.copyfile(path, local)

    def create(self, path: str, data: bytes) -> bool:
        """See `Folder.create`.

        Raises:
            StorageError: the file system has no hard links.
        """
        temporary = _write_temporary(path, data)
        first = True
        try:
            os.link(temporary, path)
        except FileExistsError:
            first = self.read(path) == data  # an NFS server may carry out a call, lose its reply, and refuse the repetition
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            reason = "this file system has no hard links, so two writers cannot be told apart"
            raise StorageError(f"{path}: {reason}; use a local disk, NFS, or an object store's URL") from error
        finally:
            _discard(temporary)
        _sync_folder(os.path.dirname(path))
        return first


def _write_temporary(path: str, data: bytes) -> str:
    folder, name = os.path.split(path)
    _make_folder(folder)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:12]}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except OSError:
        _discard(temporary)
        raise
    finally:
        os.close(descriptor)
    return temporary


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(temporary: str) -> None:
    with suppress(FileNotFoundError):  # swept by a driver that closed the stage
        os.unlink(temporary)


def _make_folder(folder: str) -> None:
    if os.path.isdir(folder):
        return
    parent = os.path.dirname(folder)
    _make_folder(parent)
    with suppress(FileExistsError):  # another process was faster
        os.mkdir(folder)
    _sync_folder(parent)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync folders keeps names in order by itself
            raise
    finally:
        os.close(descriptor)
