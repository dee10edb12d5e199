"""A sweep's points: Hydra's grammar, every mistake before anything is submitted, names that stay."""

import shlex

import pytest

from caco_ray.cli import CONF
from caco_ray.config import load_config
from caco_ray.errors import ConfigError
from caco_ray.sweep import Point, expand, parse_options

FAKE = ("profile=fake", "run.dir=/shared/base")


def labels(sweep: str, *overrides: str) -> list[str]:
    return [point.label for point in expand(sweep, [*FAKE, *overrides])]


def recomposed(point: Point) -> object:
    """What `jobs/run.py` makes of the point's arguments, once through a shell."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from caco_ray.cli import allow_new_key

    arguments = [allow_new_key(text) for text in shlex.split(shlex.join(point.overrides))]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_config(OmegaConf.to_container(compose("config", arguments), resolve=True))


def test_the_product_of_all_values_in_the_order_of_the_sweep() -> None:
    assert labels("sampling.temperature=0.7,0.9 scale.samples=1e5,1e6") == [
        "sampling.temperature=0.7 scale.samples=100000",
        "sampling.temperature=0.7 scale.samples=1000000",
        "sampling.temperature=0.9 scale.samples=100000",
        "sampling.temperature=0.9 scale.samples=1000000",
    ]


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("", ["(no sweep)"]),
        ("seed=range(1,4)", ["seed=1", "seed=2", "seed=3"]),
        ("seed=choice(3,5)", ["seed=3", "seed=5"]),
        ("++sampling.min_p=0,0.1", ["sampling.min_p=0", "sampling.min_p=0.1"]),
        ("seeds.domains=[a,b],[c]", ["seeds.domains=['a', 'b']", "seeds.domains=['c']"]),
        ("model@models.judge=fake,instruct_8b", ["model@models.judge=fake", "model@models.judge=instruct_8b"]),
        ("""seeds.path="'/a b.jsonl','/c d.jsonl'" """, ["seeds.path=/a b.jsonl", "seeds.path=/c d.jsonl"]),
    ],
)
def test_hydra_s_grammar(sweep: str, expected: list[str]) -> None:
    assert labels(sweep) == expected


@pytest.mark.parametrize("base", ["/shared/base", "s3://bucket/base", "/data/it's a, b=c {d}", "/data/$HOME;x"])
def test_the_arguments_of_a_point_give_its_config_again(base: str) -> None:
    quoted = "'" + base.replace("'", "\\'") + "'"
    for point in expand("seed=1,2 seeds.domains=[a,b]", ["profile=fake", f"run.dir={quoted}"]):
        assert point.config.run.dir.startswith(f"{base}/seed-") and point.config.cluster.address == "auto"
        assert recomposed(point) == point.config


@pytest.mark.parametrize(
    ("sweep", "overrides", "message"),
    [
        ("sampling.temperature=0.7,9", FAKE, "point 2 of 2 (sampling.temperature=9): sampling.temperature=9: input should be less than"),
        (
            "seed=1,2 sampling.temperatur=1",
            FAKE,
            "point 1 of 2 (seed=1 sampling.temperatur=1): sampling.temperatur: no such key; did you mean temperature?",
        ),
        ("profile=fake,nope", FAKE, "point 2 of 2 (profile=nope): In 'config': Could not find 'profile/nope'"),
        ("scale.samples=100000,1e5", FAKE, "points 1 and 2 (scale.samples=100000) are the same"),
        ("seed=interval(1,3)", FAKE, "does not support sweep type"),
        ("seed=(1,3", FAKE, "seed=(1,3: extraneous input"),
        ("seed='1", FAKE, "sweep=seed='1: no closing quotation"),
        ("seed=1,2", ("profile=fake",), "run.dir: a value is needed"),
        ("seed=1,2", ("profile=fake", "run.dir=here"), "run.dir=here: give an absolute path"),
        (
            "sampling.max_tokens=100,5000",
            FAKE,
            "point 2 of 2 (sampling.max_tokens=5000): sampling.max_tokens=5000: leaves no room for a prompt",
        ),
        ("filters.enabled=[too_short],[nope]", FAKE, "point 2 of 2 (filters.enabled=[nope]): filters.enabled"),
        ("run.dir=/a,/b", FAKE, "run.dir cannot be swept"),
        ("", (*FAKE, "seed=1,2"), "seed: several values for all points; put them into sweep="),
        ("", (*FAKE, "cluster.address=local"), "cluster.address=local: a submitted job runs on the cluster that it is submitted to"),
    ],
)
def test_a_mistake_is_one_line(sweep: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        expand(sweep, overrides)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_folders_are_named_by_what_the_rows_depend_on_and_jobs_by_the_whole_config() -> None:
    (plain,) = expand("seed=1", FAKE)
    assert plain.name.startswith("seed-1_") and plain.run_dir == f"/shared/base/{plain.name}"
    for other in ("until=select", "models.sampler.cpus=2", "sandbox.workers=2", "watchdog.timeout_s=9"):
        (point,) = expand("seed=1", [*FAKE, other])
        assert (point.name, point.job_id == plain.job_id) == (plain.name, False), other
    for other in ("scale.samples=7", "sampling.temperature=0.1", "seeds.path=/not/here.jsonl"):
        (point,) = expand("seed=1", [*FAKE, other])
        assert point.name != plain.name and point.job_id != plain.job_id, other
    (elsewhere,) = expand("seed=1", ["profile=fake", "run.dir=/other"])
    assert elsewhere.name == plain.name and elsewhere.job_id != plain.job_id
    assert expand("seed=1", FAKE) == [plain]


def test_points_that_make_the_same_rows_have_folders_of_their_own() -> None:
    one, two = expand("models.sampler.cpus=1,2", FAKE)
    assert one.run_dir != two.run_dir
    assert expand("models.sampler.cpus=1,2", FAKE) == [one, two]


def test_options_and_overrides() -> None:
    options, overrides = parse_options(
        ["profile=fake", "sweep=seed=1,2 a.b='x y'", "wait=false", "address=http://h:1", "run.dir=/x", "~evaluate"]
    )
    assert (options.sweep, options.wait, options.address, options.target) == ("seed=1,2 a.b='x y'", False, "http://h:1", "ray")
    assert overrides == ["profile=fake", "run.dir=/x", "~evaluate"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["target=slurm"], "target='slurm': input should be 'ray' or 'k8s'"),
        (["wait=maybe"], "wait='maybe': input should be a valid boolean"),
        (["wait=false", "retries=2"], "retries needs wait=true"),
        (["apply=true"], "apply belongs to target=k8s"),
        (["target=k8s", "address=http://h:1"], "address belongs to target=ray"),
        (["sweep"], "sweep: give sweep=VALUE"),
        (["-m", "seed=1,2"], "-m: arguments are key=value"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_options(arguments)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_folder_that_ray_deletes_with_the_job_is_refused() -> None:
    lost = "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_1/runs"
    with pytest.raises(ConfigError, match="Ray deletes this folder with the job"):
        expand("", ["profile=fake", f"run.dir={lost}"])
