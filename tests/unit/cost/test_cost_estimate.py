"""The arithmetic of one stage and of a whole plan."""

from collections.abc import Callable

import pytest

from caco_ray.config import Config, FakeModel, VllmModel
from caco_ray.cost.estimate import Work, estimate_stage, estimate_training
from caco_ray.cost.plan import Plan, Prices, Seeds, make_plan, sampled
from caco_ray.cost.rates import EngineRate, Rates, StageRate, TrainRate, published
from caco_ray.errors import ConfigError
from caco_ray.stage_config import MODELS

Compose = Callable[..., Config]
SEEDS = Seeds(train=100, heldout=10, without_code=40)
ON_FAKE = EngineRate(device="fake", seconds=0.1, prompt_tokens=10, tokens=20)


def rates(**changes: StageRate) -> Rates:
    stages = {name: StageRate(source="test", kept=0.5, fixed_s=5, engine=ON_FAKE, row_s=0.01) for name in MODELS}
    others = {name: StageRate(source="test", kept=1, row_s=0.01) for name in ("seeds", "select", "assemble", "evaluate base")}
    others["evaluate base"] = stages.pop("evaluate")
    return Rates(origin="a test", stages={**stages, **others, **changes})


def by_label(plan: Plan) -> dict[str, object]:
    return {stage.label: stage for stage in plan.stages}


def test_fixed_time_is_paid_once_and_rows_are_divided_among_replicas() -> None:
    rate = StageRate(source="test", kept=0.5, fixed_s=30, engine=ON_FAKE, row_bytes=100)
    one, four = (estimate_stage("scale", rate, Work(1000, asked=1000, model=FakeModel(replicas=n, cpus=3), shards=9)) for n in (1, 4))
    assert one.seconds == pytest.approx(30 + 100)
    assert four.seconds == pytest.approx(30 + 25)
    assert (four.kept, four.prompt_tokens, four.tokens, four.disk_bytes) == (500, 10_000, 20_000, 100_000)
    assert four.cpus == 12 and four.cpu_hours == pytest.approx(12 * 55 / 3600)
    assert four.gpu_hours == 0


def test_replicas_without_a_shard_do_not_help() -> None:
    rate = StageRate(source="test", kept=1, engine=ON_FAKE)
    assert estimate_stage("scale", rate, Work(100, asked=100, model=FakeModel(replicas=8), shards=2)).seconds == pytest.approx(5)


def test_gpus_of_a_replica_and_their_speed() -> None:
    rate = StageRate(source="test", kept=1, engine=EngineRate(device="gpu", seconds=0.5, size=2))
    model = VllmModel(path="m", gpus=4, tensor_parallel=4, replicas=2)
    planned = estimate_stage("judge", rate, Work(1000, asked=1000, model=model, shards=50, gpu_speed=2))
    assert planned.seconds == pytest.approx(0.5 * 2 / 4 * 1000 / 2 / 2)
    assert planned.gpu_hours == pytest.approx(8 * 62.5 / 3600)


def test_the_slower_of_engine_and_sandbox_counts() -> None:
    rate = StageRate(source="test", kept=1, fixed_s=1, engine=ON_FAKE, program_s=2)
    slow, fast = (estimate_stage("scale", rate, Work(100, 1, 100, FakeModel(), 9, sandbox_workers=n)).seconds for n in (4, 400))
    assert (slow, fast) == (pytest.approx(1 + 50), pytest.approx(1 + 10))


def test_each_pass_of_a_target_starts_the_engine_anew(config_of: Compose) -> None:
    config = config_of("profile=fake", "scale.accept=1000", "scale.budget=5000", "scale.samples=600")
    assert sampled(config, StageRate(source="test", kept=0.5)) == (2050, 4)  # the last pass asks for a tenth more than is missing
    assert sampled(config, StageRate(source="test", kept=0.1)) == (5000, 9)  # the budget ends it
    assert sampled(config, StageRate(source="test", kept=0)) == (5000, 9)
    large = config_of("profile=fake", "scale.accept=1000", "scale.budget=5000", "scale.samples=5000")
    assert sampled(large, StageRate(source="test", kept=0.5)) == (2150, 2)  # the first pass draws as many as are to be kept
    assert sampled(large, StageRate(source="test", kept=1)) == (1000, 1)
    rate = StageRate(source="test", kept=0.5, fixed_s=10, engine=ON_FAKE)
    assert estimate_stage("scale", rate, Work(2000, asked=2000, model=FakeModel(), starts=4)).seconds == pytest.approx(40 + 200)


@pytest.mark.parametrize("missing", ["engine", "row_s", "program_s"])
def test_what_nobody_measured_is_unknown_and_not_nothing(missing: str) -> None:
    work = {
        "engine": Work(10, asked=10, model=FakeModel(cpus=2)),
        "row_s": Work(10),
        "program_s": Work(10, sandbox_workers=2),
    }[missing]
    planned = estimate_stage("scale", StageRate(source="test", kept=1), work)
    assert planned.seconds is None
    assert planned.cpu_hours is None if planned.cpus else planned.cpu_hours == 0
    assert Plan((planned,)).unknown == ("scale",)
    assert Plan((planned,)).seconds == 0


def test_kept_rows_grow_slower_where_later_ones_repeat_earlier_ones() -> None:
    rate = StageRate(source="test", kept=0.5, at_rows=100, novelty=0.5)
    assert rate.kept_of(100) == pytest.approx(50)
    assert rate.kept_of(400) == pytest.approx(100)
    assert rate.kept_of(0) == 0
    assert rate.kept_of(1) == 1  # never more than there are
    assert StageRate(source="test", kept=0.5, at_rows=100).kept_of(400) == 200


def test_training_time_follows_tokens_epochs_and_workers(config_of: Compose) -> None:
    training = config_of("profile=quickstart").training.student  # 3 epochs, one worker of 2 cores
    rate = TrainRate(source="test", device="cpu", fixed_s=15, examples=2, tokens=50, token_s=0.01, model_bytes=7)
    planned = estimate_training("train_student", rate, training, 100)
    assert planned.rows == 200 and planned.prompt_tokens == 200 * 3 * 50
    assert planned.seconds == pytest.approx(15 + 300)
    assert planned.cpu_hours == pytest.approx(2 * 315 / 3600)
    twice = estimate_training("train_student", rate, training.model_copy(update={"workers": 2}), 100)
    assert twice.seconds == pytest.approx(15 + 150)
    short = estimate_training("train_student", rate, training.model_copy(update={"max_steps": 10}), 100)  # of 8 examples
    assert short.prompt_tokens == 10 * 8 * 50


def test_rows_go_from_stage_to_stage(config_of: Compose) -> None:
    config = config_of("profile=fake", "scale.samples=400", "reverse.samples=2", "solve.samples=3")
    made = {stage.label: stage for stage in make_plan(config, SEEDS, rates()).stages}
    assert {name: (stage.rows_in, stage.rows) for name, stage in made.items()} == {
        "seeds": (110, 110),
        "unify": (100, 100),
        "scale": (400, 400),
        "select": (200, 200),
        "reverse": (200, 400),
        "solve": (200, 600),
        "judge": (300, 300),
        "assemble": (150, 150),
        "evaluate base": (10, 10),
    }
    assert made["unify"].tokens == 40 * 20  # the seeds without code alone
    assert made["solve"].tokens == 600 * 20


def test_stages_that_are_off_or_out_of_bounds_are_not_planned(config_of: Compose) -> None:
    config = config_of("profile=fake", "judge.enabled=false", "from=select", "until=assemble")
    assert [stage.label for stage in make_plan(config, SEEDS, rates()).stages] == ["select", "reverse", "solve", "assemble"]


def test_rounds_are_planned_one_by_one_and_shipped_together(config_of: Compose) -> None:
    plan = make_plan(config_of("profile=fake", "rounds=2", "scale.samples=400"), SEEDS, rates())
    made = {stage.label: stage for stage in plan.stages}
    assert made["scale round 2"].rows == 400
    assert made["assemble"].rows == 2 * made["judge"].kept == plan.shipped
    assert [stage.label for stage in plan.stages].count("unify") == 1


def test_a_rate_that_is_not_there(config_of: Compose) -> None:
    without = rates()
    stages = {name: rate for name, rate in without.stages.items() if name != "judge"}
    with pytest.raises(ConfigError, match=r"plan.rates=a test: has no rate of judge, which this config needs"):
        make_plan(config_of("profile=fake"), SEEDS, without.model_copy(update={"stages": stages}))


def test_rates_of_another_device_say_nothing(config_of: Compose) -> None:
    with pytest.raises(ConfigError, match=r"models.sampler: this config runs it of the fake engine, .*taken on GPUs"):
        make_plan(config_of("profile=fake"), Seeds(1, 1, 0), published())
    with pytest.raises(ConfigError, match=r"training.codegen: this config runs it on CPU"):
        make_plan(config_of("profile=quickstart"), Seeds(1, 1, 0), published())


def test_a_measured_stage_that_asked_no_model(config_of: Compose) -> None:
    unasked = rates(unify=StageRate(source="test", kept=1, at_rows=10, program_s=0.1))
    make_plan(config_of("profile=fake"), Seeds(10, 1, 0), unasked)
    with pytest.raises(ConfigError, match="its unify asked no model"):
        make_plan(config_of("profile=fake"), SEEDS, unasked)


def test_prices() -> None:
    assert Prices(2, 0.5).of(10, 4) == 22
    assert Prices(gpu_hour=2).of(10, 4) == 20
    assert Prices().of(10, 4) is None
    assert Prices(2, 1).of(None, 4) is None


def test_the_papers_run_costs_what_the_paper_says(config_of: Compose) -> None:
    config = config_of("profile=cluster", "seeds.path=/data/seeds.jsonl")
    plan, paper = make_plan(config, Seeds(339_000, 47, 339_000), published()), published()
    assert paper.total is not None
    assert plan.gpu_hours == pytest.approx(paper.total.gpu_hours, rel=1e-4) == pytest.approx(440, rel=1e-4)
    assert plan.seconds == pytest.approx(55 * 3600, rel=1e-4)
    assert plan.shipped == pytest.approx(paper.total.rows, rel=1e-4)
    assert set(plan.unknown) == {
        "seeds",
        "train_codegen",
        "select",
        "judge",
        "assemble",
        "train_student",
        "evaluate base",
        "evaluate student",
    }


def test_faster_gpus_take_less(config_of: Compose) -> None:
    config, seeds = config_of("profile=gpu8"), Seeds(100, 10, 0)
    slow, fast = (make_plan(config, seeds, published(), speed).gpu_hours for speed in (1, 2))
    assert fast == pytest.approx(slow / 2)
