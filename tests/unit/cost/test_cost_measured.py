"""Rates taken from a run, and the plan of another size that they give."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from caco_ray.config import Config
from caco_ray.cost.compare import compare
from caco_ray.cost.measured import measured
from caco_ray.cost.plan import Seeds, make_plan
from caco_ray.errors import CacoError, RunDirError
from caco_ray.store import Folder

Compose = Callable[..., Config]
STEPS = {"steps": 12, "examples": 24, "tokens": 2880, "seconds": 28.8}


def test_busy_time_is_told_from_the_time_before_the_first_row(small_run: Any) -> None:
    rate = measured(small_run.folder).stage("scale")
    assert rate.engine is not None and rate.engine.device == "fake"
    assert rate.engine.seconds == pytest.approx(0.1)
    assert rate.fixed_s == pytest.approx(10)  # 14 s in all, 4 s busy
    assert (rate.engine.prompt_tokens, rate.engine.tokens) == (2, 50)
    assert rate.program_s == pytest.approx(0.01)
    assert rate.kept == pytest.approx(0.8)
    assert measured(small_run.folder).doubts == ()
    assert rate.row_bytes is not None and rate.row_bytes > 10


def test_a_stage_without_engine_is_fixed_but_for_its_programs_and_tasks(small_run: Any) -> None:
    rates = measured(small_run.folder)
    unify, select, seeds = rates.stage("unify"), rates.stage("select"), rates.stage("seeds")
    assert unify.engine is None and unify.program_s == pytest.approx(0.02) and unify.fixed_s == pytest.approx(6 - 15 * 0.02)
    assert select.row_s == pytest.approx(0.4 / 4 / 32)  # 4 shards of 0.1 s, 4 at a time
    assert select.fixed_s == pytest.approx(1 - 0.1)
    assert seeds.fixed_s == 0 and seeds.row_s == pytest.approx(0.4 / 20)


def test_what_was_new_in_the_later_shards_tells_how_it_goes_on(small_run: Any) -> None:
    select = measured(small_run.folder).stage("select")
    assert select.kept_of(16) == pytest.approx(16)  # as it was: 16 of 16, then 24 of 32
    assert select.kept_of(32) == pytest.approx(24)
    assert select.kept_of(64) == pytest.approx(36)


def test_another_size_pays_the_fixed_time_once(small_run: Any, config_of: Compose) -> None:
    config = config_of("profile=fake", "scale.samples=400", "scale.shard_rows=10", "models.sampler.replicas=2")
    plan = make_plan(config, Seeds(15, 5, 0), measured(small_run.folder))
    (scale,) = [stage for stage in plan.stages if stage.label == "scale"]
    assert scale.seconds == pytest.approx(10 + 400 * 0.1 / 2)
    assert plan.unknown == ()
    (base,) = [stage for stage in plan.stages if stage.label == "evaluate base"]
    assert base.seconds == pytest.approx(4)


def test_a_run_is_predicted_by_its_own_rates(small_run: Any, config_of: Compose) -> None:
    found = compare(small_run.config, Seeds(15, 5, 0), measured(small_run.folder), small_run.folder)
    assert [stage.label for stage in found] == [
        "seeds", "unify", "scale", "select", "reverse", "solve", "judge", "assemble", "evaluate base",
    ]  # fmt: skip
    for stage in found:
        assert stage.ratio == pytest.approx(1), stage
        assert stage.rows == pytest.approx(stage.real_rows), stage


def test_a_target_starts_its_engines_in_each_pass(written: Any, config_of: Compose) -> None:
    target = ("scale.accept=100", "scale.budget=1000", "scale.samples=60", "scale.shard_rows=10")
    run = written(config_of("profile=fake", *target))
    run.stage("seeds", [(20, 20)], 0.4, split="train", code="x = 1")
    run.stage("unify", [(15, 12)], 6.0, wall_s=0.02, cpu_s=0.01)
    shards = [(10, 8)] * (6 + 6 + 1)  # 48, 96 and 104 are kept after each pass
    run.stage("scale", shards, 3 * 10 + 13.0, sample_cpu_s=0.1, wall_s=0.01, sample_prompt_tokens=2, sample_tokens=50)
    rates = measured(run.folder)
    assert rates.stage("scale").fixed_s == pytest.approx(10)
    scale = compare(run.config, Seeds(15, 5, 0), rates, run.folder)[-1]
    assert (scale.label, scale.rows, scale.real_rows, scale.ratio) == ("scale", 130, 130, pytest.approx(1))


@pytest.mark.parametrize("store", [None, "memory://measured"])
def test_what_an_object_store_holds_beside_the_rows_is_unknown(store: str | None, written: Any, config_of: Compose) -> None:
    run = written(config_of("profile=fake"))
    if store is not None:
        run.folder = Folder(store)
        run.folder.write("config.json", run.config.model_dump_json(by_alias=True).encode())
    run.stage("seeds", [(4, 4)], 0.1)
    run.stage("assemble", [(4, 4)], 1.0)
    run.folder.write("dataset/jsonl/part-0.jsonl", b"x" * 1000)
    rates = measured(run.folder)
    seeds, shipped = rates.stage("seeds").row_bytes, rates.stage("assemble").row_bytes
    assert seeds is not None and seeds > 10
    assert shipped is None if store else shipped is not None and shipped > 250


def test_replicas_share_the_busy_time(written: Any, config_of: Compose) -> None:
    run = written(config_of("profile=fake", "models.sampler.replicas=4", "models.sampler.cpus=3"))
    run.stage("scale", [(10, 10)] * 2, 10.0, sample_cpu_s=0.6, sample_prompt_tokens=1, sample_tokens=1)  # 2 shards: 2 replicas work
    rate = measured(run.folder).stage("scale")
    assert rate.engine is not None and rate.engine.seconds == pytest.approx(0.2)
    assert rate.fixed_s == pytest.approx(10 - 20 * 0.2 / 2)


def test_a_gpu_replica_keeps_its_size(written: Any, config_of: Compose) -> None:
    run = written(config_of("profile=gpu8"))
    columns = {"judge_cpu_s": 0.4, "judge_gpu_s": 0.2, "judge_prompt_tokens": 5, "judge_tokens": 1}
    run.stage("judge", [(10, 10)] * 4, 10.0, **columns)
    engine = measured(run.folder).stage("judge").engine
    assert engine is not None and (engine.device, engine.size, engine.model) == ("gpu", 2, "Qwen/Qwen3-32B")
    assert engine.seconds == pytest.approx(0.1)


def test_only_seeds_without_code_ask_the_converter(written: Any, config_of: Compose) -> None:
    run = written(config_of("profile=fake"))
    seeds = [(4, 4)]
    run.stage("seeds", seeds, 0.1, split="train")  # no code
    run.stage("unify", [(4, 4)], 3.0, unify_prompt_tokens=8, unify_tokens=6, unify_cpu_s=0.5, wall_s=0.1)
    rate = measured(run.folder).stage("unify")
    assert rate.engine is not None and rate.engine.tokens == 6
    assert rate.engine.seconds == pytest.approx(0.5) and rate.fixed_s == pytest.approx(1)


def test_a_training_outside_of_its_steps_is_fixed(written: Any, config_of: Compose) -> None:
    config = config_of("profile=quickstart")  # codegen: 3 epochs
    run = written(config)
    run.stage("unify", [(12, 12)], 1.0)
    run.training("train_codegen", 40.0, STEPS)
    rate = measured(run.folder).training("train_codegen")
    assert rate.fixed_s == pytest.approx(40 - 28.8)
    assert rate.examples == 2
    assert rate.tokens == pytest.approx(2880 / (24 * 3))
    assert rate.token_s == pytest.approx(0.01)
    assert rate.model_bytes == 1000
    stage = compare(config, Seeds(12, 0, 0), _with_seeds(run), run.folder)[-1]
    assert (stage.label, stage.ratio) == ("train_codegen", pytest.approx(1))


def _with_seeds(run: Any) -> Any:
    run.stage("seeds", [(12, 12)], 0.1)
    return measured(run.folder)


def test_a_run_of_an_older_version(written: Any, config_of: Compose) -> None:
    run = written(config_of("profile=fake"))
    run.stage("scale", [(5, 5)], 3.0, sample_cpu_s=0.1, sample_prompt_tokens=1, sample_tokens=1)
    success = run.path / "programs" / "_SUCCESS"
    body = json.loads(success.read_text())
    del body["entries"][0]["totals"]["sums"]["sample_cpu_s"]
    success.write_text(json.dumps(body))
    with pytest.raises(RunDirError, match=r"programs: its manifests do not say how long the engine was busy"):
        measured(run.folder)


def test_an_interrupted_stage_is_doubted(written: Any, config_of: Compose) -> None:
    run = written(config_of("profile=fake"))
    run.stage("scale", [(10, 10)] * 3, 1.5, sample_cpu_s=0.1, sample_prompt_tokens=1, sample_tokens=1)  # 3 busy seconds
    rates = measured(run.folder)
    assert rates.stage("scale").fixed_s == 0
    assert len(rates.doubts) == 1 and rates.doubts[0].startswith("scale: its engines were busy for longer than the 2 s")


def test_stages_without_rows_give_no_rate(written: Any, config_of: Compose) -> None:
    run = written(config_of("profile=fake"))
    run.stage("seeds", [(3, 3)], 0.1)
    run.stage("judge", [(0, 0)], 9.0)
    assert set(measured(run.folder).stages) == {"seeds"}


def test_no_run_or_an_empty_one(written: Any, config_of: Compose, tmp_path: Any) -> None:
    with pytest.raises(RunDirError, match="not a run"):
        measured(Folder(str(tmp_path / "nowhere")))
    with pytest.raises(CacoError, match="no stage of this run is complete"):
        measured(written(config_of("profile=fake")).folder)


def test_a_damaged_training_is_named(written: Any, config_of: Compose) -> None:
    run = written(config_of("profile=quickstart"))
    run.stage("unify", [(12, 12)], 1.0)
    run.training("train_codegen", 40.0, {"steps": 3})
    with pytest.raises(RunDirError, match=r"models/codegen/_SUCCESS: not readable"):
        measured(run.folder)
