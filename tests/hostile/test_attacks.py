"""Every attack at every level that this machine offers: the expected status, three neighbours unharmed, nothing left behind."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from hostile.attack import Attack
from hostile.ground import ATTACKS, NEIGHBOURS, Ground, children, ground, look

from caco_ray.errors import SandboxUnavailableError
from caco_ray.sandbox import ExecutionResult


@pytest.fixture(scope="module", params=["L3", "L2", "L1"])
def under_attack(request: pytest.FixtureRequest) -> Iterator[Ground]:
    try:
        with ground(request.param) as made:
            yield made
    except SandboxUnavailableError as error:
        if request.param == "L1" or "canary" in str(error):  # a level that the machine has and that does not hold
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_contained(under_attack: Ground, attack: Attack) -> None:
    assert under_attack.run(attack) == []


def test_70_interpreters_killed_in_the_middle(under_attack: Ground) -> None:
    """By somebody with the right to: the program is run again by a new one, neighbours and machine are as before."""
    before = look(under_attack.folder)
    results: list[ExecutionResult] = []
    program = "import time\ntime.sleep(1)\noutput = 'again'"
    runner = threading.Thread(target=lambda: results.append(under_attack.box.run(program)))
    interpreters = [int(pid) for pid in children()]
    runner.start()
    while len(children()) == len(interpreters):
        time.sleep(0.01)
    for pid in interpreters:
        os.kill(pid, signal.SIGKILL)
    runner.join()
    assert (results[0].status, results[0].output, results[0].attempts) == ("ok", "again", 2)
    for box in (under_attack.box, under_attack.brief):
        for program, _ in NEIGHBOURS:
            box.run(program)
    before["children"] = children()  # others in their place
    assert len(children()) == len(interpreters)
    assert under_attack.aftermath(under_attack.box, before) == under_attack.aftermath(under_attack.brief, before) == []
