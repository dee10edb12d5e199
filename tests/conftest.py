"""What the tests share: a quiet local Ray for those that need one, and the path of the shared data sets."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3_server import door, s3  # noqa: F401  # fixtures

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"

os.environ.pop("RAY_ADDRESS", None)  # a test never joins somebody's cluster
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would all that tests start
os.environ.setdefault("CACO_RAY_CACHE", str(ROOT / ".cache"))  # the embedded model is converted once for all tests


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets beside the checkout; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the shared data sets (../shared/data) are not on this machine")
    return SHARED


@pytest.fixture(scope="module")
def ray_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """A Ray of two CPUs for the tests of one module, whose own functions and classes travel to the workers by value."""
    import ray
    from ray import cloudpickle

    from caco_ray.cluster.session import connected
    from caco_ray.config import ClusterConfig

    cloudpickle.register_pickle_by_value(request.module)
    with connected(ClusterConfig(address="local", num_cpus=2, object_store_mb=200)):
        yield
    assert not ray.is_initialized()
