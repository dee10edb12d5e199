"""The kinds of storage that every test of the store runs on."""

import pytest

from caco_ray.store import Folder


@pytest.fixture(params=["disk", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path) -> Folder:
    """An empty folder on each kind of storage."""
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return Folder(str(tmp_path / "ds")) if request.param == "disk" else Folder(f"memory://{tmp_path.name}/ds")
