"""The times in the headers of the profiles are those that `jobs/plan.py` prints."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from caco_ray.config import Config
from caco_ray.cost.job import count_seeds, short_trainings
from caco_ray.cost.plan import Seeds, make_plan
from caco_ray.cost.rates import EngineRate, Rates, TrainRate, published

FLOPS = 0.4 * 312e12  # per second of an A100: what the headers' estimates assume
JUDGED_TOKENS, LEARNED_TOKENS = 1000, 500  # per row, the same
ROOT = Path(__file__).resolve().parents[3]
PROFILES = ROOT / "conf" / "profile"


def planned(profile: str, config_of: Callable[..., Config]) -> tuple[Config, Seeds]:
    """With the built-in seeds; on a cluster, which wants seeds of one's own, with as many as the paper has."""
    if profile != "cluster":
        config = config_of(f"profile={profile}")
        return config, count_seeds(config.seeds)
    config = config_of("profile=cluster", "seeds.path=/data/seeds.jsonl")
    return config, count_seeds(config.seeds, 339_000)


def stated(profile: str, what: str) -> float:
    found = re.search(rf"^# {what}: ([\d.]+)", (PROFILES / f"{profile}.yaml").read_text(), re.MULTILINE)
    assert found is not None, what
    return float(found[1].rstrip("."))


@pytest.mark.parametrize("profile", ["gpu1", "gpu8", "cluster"])
def test_header_agrees_with_the_plan(profile: str, config_of: Callable[..., Config]) -> None:
    config, seeds = planned(profile, config_of)
    plan = make_plan(config, seeds, published())
    assert not list(short_trainings(config, plan))
    assert plan.seconds / 3600 == pytest.approx(stated(profile, "Expected time"), rel=0.02)
    assert plan.gpu_hours == pytest.approx(stated(profile, "GPU-hours"), rel=0.02)
    assert {"train_codegen", "judge", "train_student", "evaluate student"} <= set(plan.unknown)  # they "have no published rates"


def estimated(config: Config) -> Rates:
    """The paper's rates and, for what it does not tell: 2 FLOPs per weight and token read, 6 per token learned (4 with an adapter)."""
    paper = published()
    student = config.training.student
    judge = EngineRate(device="gpu", seconds=2 * 32.8e9 * JUDGED_TOKENS / FLOPS)
    learn = (4 if student.lora else 6) * 7.6e9 / FLOPS
    trained = TrainRate(source="estimated", device="gpu", tokens=LEARNED_TOKENS, token_s=learn)
    stages = {**paper.stages, "judge": paper.stages["judge"].model_copy(update={"engine": judge})}
    return paper.model_copy(update={"stages": stages, "trainings": dict.fromkeys(paper.trainings, trained)})


@pytest.mark.parametrize("profile", ["gpu1", "gpu8", "cluster"])
def test_estimates_beside_the_paper_s_rates(profile: str, config_of: Callable[..., Config]) -> None:
    config, seeds = planned(profile, config_of)
    plan = make_plan(config, seeds, estimated(config))
    hours = {stage.label: stage.gpu_hours for stage in plan.stages}
    found = re.search(
        r"^# Estimated besides: ([\d.]+) GPU-hours of judging and ([\d.]+) of training", (PROFILES / f"{profile}.yaml").read_text(), re.M
    )
    assert found is not None
    assert hours["judge"] == pytest.approx(float(found[1]), rel=0.05)
    assert (hours["train_codegen"] or 0) + (hours["train_student"] or 0) == pytest.approx(float(found[2]), rel=0.05)


def test_quickstart_says_how_long_it_takes() -> None:
    found = re.search(r"^# Expected time: (.*)\.$", (PROFILES / "quickstart.yaml").read_text(), re.MULTILINE)
    assert found is not None and f"({found[1]})" in (ROOT / "README.md").read_text()
