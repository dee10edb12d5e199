"""Every file under conf/ is composed and validated; every profile for GPUs says what it needs, and asks for no more."""

import re
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from caco_ray.cli import resolved
from caco_ray.cluster.placement import matches
from caco_ray.config import Config, load_config
from caco_ray.errors import ConfigError
from caco_ray.prompts import training_examples
from caco_ray.seeds import load_seeds
from caco_ray.training.plan import count_steps, too_short

CONF = Path(__file__).parents[2] / "conf"
GPUS = {"gpu1": 1, "gpu8": 8, "cluster": 8}
MODELS = ("unify", "sampler", "reverse", "solve", "judge", "evaluate")


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def load(*overrides: str) -> Config:
    """With seeds of one's own where the profile wants some."""
    given = ["seeds.path=/data/seeds.jsonl"] if "profile=cluster" in overrides and "seeds=builtin" not in overrides else []
    return load_alone(*given, *overrides)


def load_alone(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_config(resolved(compose("config", ["run.dir=/runs/one", *overrides])))


def test_no_group_is_forgotten() -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    assert groups == {"cluster", "filters", "model", "profile", "sampling", "seeds", "training"}
    assert {path.name for path in CONF.glob("*.yaml")} == {"config.yaml", "train.yaml"}  # train.yaml: tests of jobs/train.py


@pytest.mark.parametrize("profile", names("profile"))
def test_profile(profile: str) -> None:
    assert load(f"profile={profile}").profile == profile


@pytest.mark.parametrize(
    "override",
    [
        *(f"cluster={name}" for name in names("cluster")),
        *(f"filters={name}" for name in names("filters")),
        *(f"model@models.judge={name}" for name in names("model")),
        *(f"sampling@solve.sampling={name}" for name in names("sampling")),
        *(f"training@training.student={name}" for name in names("training")),
    ],
)
def test_choice(override: str) -> None:
    load("profile=gpu8", override)


@pytest.mark.parametrize("seeds", names("seeds"))
def test_seeds(seeds: str) -> None:
    load("profile=gpu8", f"seeds={seeds}", *(["seeds.path=/data/seeds.jsonl"] if seeds == "file" else []))


@pytest.mark.parametrize("profile", GPUS)
def test_header_states_the_price(profile: str) -> None:
    header = [line for line in (CONF / f"profile/{profile}.yaml").read_text().splitlines() if line.startswith("#")]
    for what in ("Hardware", "Expected time", "GPU-hours"):
        assert any(line.startswith(f"# {what}: ") for line in header), what
    (hardware,) = [line for line in header if line.startswith("# Hardware")]
    assert re.search(rf"\b{GPUS[profile]} GPUs? of 80 GB", hardware)


@pytest.mark.parametrize("profile", GPUS)
def test_profile_fits_its_gpus(profile: str) -> None:
    config = load(f"profile={profile}")
    for key in MODELS:
        model = getattr(config.models, key)
        assert 0 < model.gpus * model.replicas <= GPUS[profile], key
    for training in (config.training.codegen, config.training.student):
        assert training.workers * training.gpus_per_worker <= GPUS[profile]


def test_profile_cluster_asks_for_seeds_of_one_s_own() -> None:
    """Millions of programs of a sampler that a few hundred problems taught would all be alike."""
    with pytest.raises(ConfigError, match=r"^seeds.path: a value is needed; give seeds.path=VALUE$"):
        load_alone("profile=cluster")
    assert (load("profile=cluster").seeds.sources, load("profile=cluster").seeds.path) == ((), "/data/seeds.jsonl")
    assert load("profile=cluster", "seeds=file").seeds == load("profile=cluster").seeds
    assert load("profile=cluster", "seeds=builtin").seeds.sources == ("builtin",)


@pytest.mark.parametrize(("profile", "least"), [("gpu1", 60), ("gpu8", 60), ("quickstart", 60)])
def test_a_sampler_of_the_built_in_seeds_is_trained_for_more_than_a_few_steps(profile: str, least: int) -> None:
    config = load(f"profile={profile}")
    training, seeds = config.training.codegen, [row for row in load_seeds(config.seeds) if row["split"] == "train"]
    examples = sum(len(training_examples(row, training.roles)) for row in seeds)
    assert count_steps(examples, training) >= least >= 3 * training.min_steps
    if training.batching == "packed":
        assert training.batch_rows % (training.workers * training.micro_batch_rows) == 0  # else a worker has next to nothing to do


def test_the_paper_s_values_would_leave_a_sampler_of_the_built_in_seeds_as_it_was() -> None:
    training = load("profile=cluster", "seeds=builtin").training.codegen
    assert too_short(373, training) and not too_short(339_000, training)


@pytest.mark.parametrize("profile", ["quickstart", "gpu1", "gpu8", "cluster"])
def test_a_student_of_the_few_rows_of_a_trial_is_trained(profile: str) -> None:
    assert not too_short(10, load(f"profile={profile}").training.student)


def test_the_pools_of_profile_cluster_have_nodes_on_kubernetes() -> None:
    groups = yaml.safe_load((CONF.parent / "k8s/base/rayjob.yaml").read_text())["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    cluster = load("profile=cluster").cluster
    gpus = {group["groupName"]: "nvidia.com/gpu" in str(group["template"]) for group in groups}
    meant = [
        {group["groupName"] for group in groups if matches(group["labels"], each or {})}
        for each in (cluster.gpu_labels, cluster.cpu_labels)
    ]
    assert meant == [{name for name, has in gpus.items() if has}, {name for name, has in gpus.items() if not has}]
    assert load("profile=cluster", "cluster.gpu_labels=null").cluster.gpu_labels is None
