"""Objects of an fsspec store (S3, GCS, Azure, memory), by path. There is no rename: a PUT is whole-or-nothing by itself, and a PUT on the
condition that the name is free makes the first one win (S3: `If-None-Match: *`,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).
"""

import time
from contextlib import suppress

from fsspec import AbstractFileSystem

from caco_ray.errors import StorageError
from caco_ray.store.faults import error_code

# Protocols whose driver maps `mode="create"` to a condition that the store itself checks. The others look first and write then.
ATOMIC_CREATE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}
# Options of the drivers. Listings are never cached: another process may write at any moment. s3fs asks for an object's size before it
# reads it in parallel parts: for files as small as ours that doubles the round trips.
_COMMON = {"use_listings_cache": False}
_S3 = {"config_kwargs": {"max_pool_connections": 64}, "max_concurrency": 1}
_OPTIONS: dict[str, dict[str, object]] = {"s3": _S3, "s3a": _S3}
_CONFLICT_TRIES = 8


def options(protocol: str) -> dict[str, object]:
    """Keyword arguments of the fsspec driver of a protocol."""
    return {**_COMMON, **_OPTIONS.get(protocol, {})}


class Objects:
    """All methods raise what the driver raises."""

    def __init__(self, driver: AbstractFileSystem, protocol: str) -> None:
        self._driver = driver
        self._protocol = protocol

    def exists(self, path: str) -> bool:
        return bool(self._driver.exists(path))

    def names(self, path: str) -> list[str]:
        self._driver.invalidate_cache()
        try:
            found = self._driver.ls(path, detail=False)
        except FileNotFoundError:
            return []
        inside = (str(name).rstrip("/") for name in found)
        return [name.rsplit("/", 1)[-1] for name in inside if name != path.rstrip("/")]  # some consoles make an object for the folder

    def read(self, path: str) -> bytes:
        return bytes(self._driver.cat_file(path))

    def delete(self, path: str) -> None:
        self._driver.invalidate_cache()
        with suppress(FileNotFoundError):
            self._driver.rm(path, recursive=True)

    def move(self, path: str, target: str) -> None:
        """Copied, then deleted: a crash in between leaves both."""
        self._driver.invalidate_cache()
        for name in self._driver.find(path):
            self._driver.pipe_file(target + name.removeprefix(path), self.read(name))
        self.delete(path)

    def write(self, path: str, data: bytes) -> None:
        self._driver.pipe_file(path, data)

    def put(self, path: str, local: str) -> None:
        self._driver.put_file(local, path)

    def get(self, path: str, local: str) -> None:
        self._driver.get_file(path, local)

    def create(self, path: str, data: bytes) -> bool:
        """See `Folder.create`.

        Raises:
            StorageError: the protocol has no such condition.
        """
        if self._protocol not in ATOMIC_CREATE:
            known = ", ".join(f"{name}://" for name in sorted(ATOMIC_CREATE - {"memory"}))
            raise StorageError(f"{path}: {self._protocol}:// cannot refuse a name that is taken; use a disk, or one of {known}")
        for attempt in range(_CONFLICT_TRIES):
            try:
                self._driver.pipe_file(path, data, mode="create")
                return True
            except OSError as error:
                if _is_conflict(error):  # two PUTs at once: S3 says neither who won nor that anybody did
                    time.sleep(0.05 * 2**attempt)
                elif not _is_taken(error):
                    raise
                else:
                    with suppress(FileNotFoundError):  # deleted meanwhile: try again
                        return self.read(path) == data  # our own PUT, carried out, its reply lost, and repeated by the client
        raise StorageError(f"{path}: the store answers 'conflict' again and again; run the same command again")


def _is_taken(error: OSError) -> bool:
    return isinstance(error, FileExistsError) or error_code(error) in ("PreconditionFailed", "412")


def _is_conflict(error: OSError) -> bool:
    return error_code(error) in ("ConditionalRequestConflict", "OperationAborted", "409")
