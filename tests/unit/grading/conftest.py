from collections.abc import Iterator

import pytest

from caco_ray.grading import Algebra


@pytest.fixture(scope="session")
def algebra() -> Iterator[Algebra]:
    """One algebra process for all tests; 2 CPU seconds a question."""
    with Algebra(cpu_s=2) as algebra:
        yield algebra
