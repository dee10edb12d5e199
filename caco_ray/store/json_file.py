"""JSON files of a run, read with errors that name the file."""

import json
from datetime import datetime
from typing import Any

import fsspec

from caco_ray.errors import RunDirError
from caco_ray.store.folder import Folder


def read_json(folder: Folder, name: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RunDirError: the file is missing or is not a JSON object.
    """
    try:
        body = json.loads(folder.read(name))
    except FileNotFoundError:
        raise RunDirError(f"{folder}/{name}: missing") from None
    except ValueError as error:
        raise damaged(folder, name, error) from error
    if not isinstance(body, dict):
        raise damaged(folder, name, f"a JSON object is expected, not {type(body).__name__}")
    return body


def damaged(folder: Folder, name: str, cause: object) -> RunDirError:
    return RunDirError(f"{folder}/{name}: not readable ({cause}); delete it and run the same command again")


def modified(folder: Folder, name: str) -> datetime | None:
    """When a file was written, as the storage says (UTC); None where it does not say."""
    filesystem, root = fsspec.core.url_to_fs(folder.url)
    try:
        when: datetime = filesystem.modified(f"{root}/{name}")
    except NotImplementedError:
        return None
    return when
