"""The times in the headers of the profiles are those that `jobs/plan.py` prints."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from caco_ray.config import Config
from caco_ray.cost.job import count_seeds
from caco_ray.cost.plan import make_plan
from caco_ray.cost.rates import published

PROFILES = Path(__file__).resolve().parents[3] / "conf" / "profile"


def stated(profile: str, what: str) -> float:
    found = re.search(rf"^# {what}: ([\d.]+)", (PROFILES / f"{profile}.yaml").read_text(), re.MULTILINE)
    assert found is not None, what
    return float(found[1].rstrip("."))


@pytest.mark.parametrize("profile", ["gpu1", "gpu8", "cluster"])
def test_header_agrees_with_the_plan(profile: str, config_of: Callable[..., Config]) -> None:
    config = config_of(f"profile={profile}")
    plan = make_plan(config, count_seeds(config.seeds), published())
    assert plan.seconds / 3600 == pytest.approx(stated(profile, "Expected time"), rel=0.02)
    assert plan.gpu_hours == pytest.approx(stated(profile, "GPU-hours"), rel=0.02)
    assert {"train_codegen", "judge", "train_student", "evaluate student"} <= set(plan.unknown)  # they "have no published rates"
