"""Making what an operator owns, in one process: which failures are tried again, and what is told of them."""

from types import SimpleNamespace

import pytest

from caco_ray.errors import CacoError, ClusterError, EngineError, ModelError
from caco_ray.runtime import shard_work
from caco_ray.runtime.plan import Operator
from caco_ray.runtime.shard_work import Session, _made


class Gate:
    """Takes `gate.failed.remote(...)` as the actor does."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.failed = SimpleNamespace(remote=lambda operator, why: self.told.append((operator, why)))


@pytest.mark.parametrize("error", [EngineError("not loaded in time"), ClusterError("GPU held by pid 7")], ids=["engine", "GPU"])
@pytest.mark.parametrize("failures", [2, 3])
def test_what_may_pass_is_tried_again_and_told(monkeypatch: pytest.MonkeyPatch, error: CacoError, failures: int) -> None:
    monkeypatch.setattr(shard_work.time, "sleep", lambda s: None)
    left, gate, made = [error] * failures, Gate(), object()

    def make() -> object:
        if left:
            raise left.pop()
        return made

    operator, session = Operator("model", make, actors=1), Session(None, gate, "token")
    if failures == 2:
        assert _made(operator, session) is made
    else:
        with pytest.raises(type(error), match=str(error)):
            _made(operator, session)
    assert gate.told == [("model", str(error))] * 2 and not left


def test_what_the_user_has_to_mend_is_not_tried_again() -> None:
    gate = Gate()

    def make() -> object:
        raise ModelError("no such folder")

    with pytest.raises(ModelError):
        _made(Operator("model", make, actors=1), Session(None, gate, "token"))
    assert gate.told == []
