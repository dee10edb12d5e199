"""Every attack at every level that this machine offers: the expected status, three neighbours unharmed, nothing left behind."""

from collections.abc import Iterator

import pytest
from hostile.attack import Attack
from hostile.ground import ATTACKS, Ground, ground

from caco_ray.errors import SandboxUnavailableError


@pytest.fixture(scope="module", params=["L3", "L2", "L1"])
def under_attack(request: pytest.FixtureRequest) -> Iterator[Ground]:
    try:
        with ground(request.param) as made:
            yield made
    except SandboxUnavailableError as error:
        if request.param == "L1":
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_contained(under_attack: Ground, attack: Attack) -> None:
    assert under_attack.run(attack) == []
