"""`jobs/plan.py`: what it prints, and one line for each mistake."""

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from caco_ray.config import Config
from caco_ray.cost import job
from caco_ray.cost.job import changed, count_seeds, load_plan_job, open_rates, run_plan_job
from caco_ray.cost.plan import Prices, make_plan
from caco_ray.cost.rates import published, read_rates
from caco_ray.cost.table import print_plan
from caco_ray.errors import ConfigError, RunDirError

ROOT = Path(__file__).resolve().parents[3]
Compose = Callable[..., Config]


def tree(config: Config, **plan: object) -> dict[str, Any]:
    return {**config.model_dump(by_alias=True), "plan": plan}


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(job, "make_console", lambda: Console(file=text, width=140, soft_wrap=True))
    return text


def test_the_job_as_a_person_starts_it() -> None:
    command = [sys.executable, "jobs/plan.py", "profile=cluster", "scale.samples=1e6", "plan.gpu_hour=2", "plan.seeds=339000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"scale +1,000,000 867,925", done.stdout)
    assert "As the paper counts (unify, scale, reverse, solve): 96 GPU-hours" in done.stdout
    assert "440 hours of A100 80 GB for 1,348,799 rows, 326 per million" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile=cluster", "plan.seeds=9", "plan.rates=/no/such/run"], r"plan.rates=/no/such/run: not a run \(no config.json there\)"),
        (["profile=cluster", "plan.seeds=9", "plan.rate=/x"], r"plan.rate: no such key; did you mean rates\?"),
        (["profile=cluster", "scale.samples=1e6"], r"seeds.path: a value is needed; give seeds.path=VALUE"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = subprocess.run([sys.executable, "jobs/plan.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert re.fullmatch(f"error: {message}", done.stderr.strip())


def test_bounds(config_of: Compose) -> None:
    config = config_of("profile=gpu8")
    with pytest.raises(ConfigError, match=r"plan.gpu_speed=0: "):
        load_plan_job(tree(config, gpu_speed=0))
    with pytest.raises(ConfigError, match=r"plan.seeds=0: "):
        load_plan_job(tree(config, seeds=0))
    with pytest.raises(ConfigError, match=r"plan.gpu_hour=-1: "):
        load_plan_job(tree(config, gpu_hour=-1))
    with pytest.raises(ConfigError, match=r"scale.samples"):
        load_plan_job({**tree(config), "scale": {"samples": 0}})
    assert load_plan_job(config.model_dump(by_alias=True)).plan.rates is None


def test_seeds_are_counted_or_given(config_of: Compose) -> None:
    config = config_of("profile=quickstart").seeds
    counted, given = count_seeds(config), count_seeds(config, 339_000)
    assert counted.train > 100 and counted.without_code == 0
    assert (given.train, given.without_code, given.heldout) == (339_000, 339_000, counted.heldout)


def test_rates_from_a_file(tmp_path: Path, config_of: Compose) -> None:
    text = Path(ROOT / "caco_ray/cost/published.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text)
    assert open_rates(str(tmp_path / "mine.yaml"), config_of("profile=quickstart")) == published()


@pytest.mark.parametrize(
    ("arguments", "device"),
    [
        (["profile=quickstart"], "cpu"),
        (["profile=quickstart", "models.base=/models/other"], "gpu"),
        (["profile=gpu1"], "gpu"),
        (["profile=fake"], "gpu"),
    ],
)
def test_rates_that_come_with_the_package(arguments: list[str], device: str, config_of: Compose) -> None:
    engine = open_rates(None, config_of(*arguments)).stage("scale").engine
    assert engine is not None and engine.device == device


def test_the_quickstart_is_planned_without_a_run_of_one_s_own(config_of: Compose) -> None:
    config = config_of("profile=quickstart")
    plan = make_plan(config, count_seeds(config.seeds), open_rates(None, config))
    assert not plan.unknown and plan.gpu_hours == 0 and plan.shipped > 20
    low, high = re.search(r"Expected time: (\d+) to (\d+) minutes", (ROOT / "conf/profile/quickstart.yaml").read_text()).groups()
    assert 0.8 * int(low) * 60 < plan.seconds < 1.2 * int(high) * 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [", "not YAML"),
        ("just words", "no rates in it"),
        ("stages: {scale: {kept: 2, source: x}}", r"stages.scale.kept=2: "),
        ("stages: {scale: {kept: 0.5}}", r"stages.scale.source: a value is needed"),
        ("speed: 1", "speed: no such key"),
    ],
)
def test_a_file_that_holds_no_rates(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"plan.rates={path}: .*{message}"):
        read_rates(str(path))


def test_no_such_file() -> None:
    with pytest.raises(ConfigError, match=r"plan.rates=/no/file.yaml: cannot be read"):
        read_rates("/no/file.yaml")


def test_a_plan_by_the_rates_of_a_run(small_run: Any, config_of: Compose, printed: io.StringIO) -> None:
    config = config_of("profile=fake", "scale.samples=4000", "scale.shard_rows=10", "models.solve.prompts=instruct")
    run_plan_job(load_plan_job(tree(config, rates=str(small_run.path), cpu_hour=1)))
    text = printed.getvalue()
    assert re.search(r"scale +4,000 +3,200 +8,000 +200 k +6 min 50 s", text)
    assert f"Rates: {small_run.path}" in text
    assert re.search(r"NOTE: the rates were measured with other settings. solve: .*model.prompts was 'trained', is 'instruct'", text)
    assert "scale.samples was" not in text  # another size is what a plan is for
    assert "No rate" not in text


def test_the_same_settings_need_no_note(small_run: Any) -> None:
    assert list(changed(small_run.folder, small_run.config)) == []


def test_a_run_that_lacks_a_stage(small_run: Any, config_of: Compose) -> None:
    config = config_of("profile=fake", "evaluate.models=[student]")
    with pytest.raises(ConfigError, match=rf"plan.rates={small_run.path}: has no rate of evaluate student, which this config needs"):
        run_plan_job(load_plan_job(tree(config, rates=str(small_run.path))))


def test_predicted_beside_real(small_run: Any, config_of: Compose, printed: io.StringIO) -> None:
    given = tree(config_of("profile=fake"), rates=str(small_run.path), compare=str(small_run.path))
    run_plan_job(load_plan_job(given))
    assert re.search(r"scale +40 +40 +14.0 +14.0 +1.00", printed.getvalue())
    with pytest.raises(RunDirError, match=r"plan.compare=/no/run: not a run"):
        run_plan_job(load_plan_job(tree(config_of("profile=fake"), rates=str(small_run.path), compare="/no/run")))


def test_a_training_that_would_be_refused_is_told(config_of: Compose, printed: io.StringIO) -> None:
    """The paper's values for the built-in seeds; many seeds, or few steps that are meant, need no note."""
    given = ["profile=gpu8", "training@training.codegen=caco_codegen"]
    few = ("training.codegen.batch_rows=128", "training.codegen.epochs=1")
    run_plan_job(load_plan_job(tree(config_of(*given, *few))))
    text = printed.getvalue()
    assert re.search(r"NOTE: train_codegen would be refused: \d+ examples in batches of batch_rows=128 for epochs=1 make \d optimizer steps", text)
    assert "train_student would be refused" not in text
    printed.truncate(0)
    run_plan_job(load_plan_job(tree(config_of(*given, *few), seeds=339_000)))
    run_plan_job(load_plan_job(tree(config_of(*given, *few, "training.codegen.max_steps=3"))))
    assert "would be refused" not in printed.getvalue()


def test_unknown_times_are_named_and_not_summed(config_of: Compose) -> None:
    config, text = config_of("profile=gpu8"), io.StringIO()
    plan = make_plan(config, count_seeds(config.seeds), published())
    print_plan(Console(file=text, width=140), plan, published(), published(), Prices())
    out = " ".join(text.getvalue().split())
    assert re.search(r"judge +[\d,]+ +[\d,]+ +\? +\? +\? +\? +\?", out)
    assert re.search(r"No rate, so not in the sums \(\?\): .*train_codegen.*judge.*train_student", out)
    assert "Cost: give plan.gpu_hour" in out
    assert plan.unknown_disk == tuple(stage.label for stage in plan.stages if stage.label != "assemble")
    assert f"Disk not known, so not in its sum (?): {', '.join(plan.unknown_disk)}" in out
    assert "up to 4 of them" in out and "all (known)" in out
