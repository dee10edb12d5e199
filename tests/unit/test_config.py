"""Every file under conf/ composes into a valid tree, and every mistake is one line that names key, value and what is allowed."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from caco_ray.config import STAGES, Config, load_config
from caco_ray.errors import ConfigError
from caco_ray.fingerprint import PARENTS, fingerprint

CONF = Path(__file__).resolve().parents[2] / "conf"
PROFILES = sorted(path.stem for path in (CONF / "profile").glob("*.yaml"))


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_config(OmegaConf.to_container(compose("config", ["run.dir=/runs/x", *overrides]), resolve=True))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid(profile: str) -> None:
    assert composed(f"profile={profile}", *(["seeds.path=/data/s.jsonl"] if profile == "cluster" else [])).profile == profile


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_group_option_is_used_or_composes(path: Path) -> None:
    group, name = path.parent.name, path.stem
    places = {"model": "model@models.solve", "sampling": "sampling@solve.sampling", "training": "training@training.student"}
    more = ["seeds.path=/data/s.jsonl"] if name in ("file", "cluster") else []
    assert composed(f"{places.get(group, group)}={name}", *more)


def test_the_paper_s_hyper_parameters_are_the_defaults_of_large_profiles() -> None:
    config = composed("profile=cluster", "seeds.path=/data/seeds.jsonl")
    assert (config.sampling.temperature, config.sampling.max_tokens) == (0.9, 1024)
    assert (config.unify.sampling.temperature, config.filters.min_effective_lines, config.sandbox.cpu_s) == (0.6, 6, 10)
    for training, epochs, cutoff in ((config.training.codegen, 1, 2048), (config.training.student, 3, 4096)):
        assert (training.learning_rate, training.batch_rows, training.warmup_fraction, training.weight_decay) == (5e-6, 128, 0.03, 0.1)
        assert (training.epochs, training.max_length, training.zero_stage) == (epochs, cutoff, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("++scale.sample=4", "scale.sample: no such key; did you mean samples?"),
        ("++nonsense=4", "nonsense: no such key"),
        ("scale.samples=many", "scale.samples='many': input should be a valid integer"),
        ("scale.samples=0", "scale.samples=0: input should be greater than 0"),
        ("sampling.temperature=-1", "sampling.temperature=-1"),
        ("++sampling.min_tokens=5000", "min_tokens 5000 is over max_tokens"),
        ("++models.solve.max_tokens=4", "models.solve.max_tokens: no such key"),
        ("training.codegen.batch_rows=13", "batch_rows 13 is not a multiple"),
        ("seeds.sources=[]", "no seeds: give seeds.sources or seeds.path"),
        ("++sampling.stop=['']", "sampling.stop.0='': string should have at least 1 character"),
        ("++models.solve.gpus=1 ++models.solve.tensor_parallel=2", "models.solve: gpus 1: tensor_parallel x pipeline_parallel is 2"),
        ("++models.solve.pipeline_parallel=2", "models.solve: pipeline_parallel 2 needs gpus"),
        ("++models.solve.revision=v1", "models.solve: revision v1: only a hub id has revisions, path run:codegen is none"),
        ("model@models.solve=openai models.solve.base_url=localhost:8000", "models.solve.base_url: localhost:8000: give a URL such as http"),
        ("++solve.samples=2 sampling@solve.sampling=greedy", "solve: samples 2 at sampling.temperature 0 would all be the same"),
        ("sampling.temperature=0 scale.samples=400", "config: sampling.temperature 0: the 400 of scale.samples would all be the same"),
        ("++reverse.samples=2 reverse.sampling.temperature=0", "config: reverse.sampling.temperature 0: the 2 of reverse.samples"),
        ("++models.solve.chat_template_kwargs={tokenize:true}", "models.solve.chat_template_kwargs: tokenize is set by the call itself"),
        (
            "model@models.solve=openai ++models.solve.chat_template_kwargs={add_generation_prompt:true}",
            "models.solve.chat_template_kwargs: add_generation_prompt is set by the call itself",
        ),
        ("model@models.solve=openai models.solve.model=''", "models.solve.model='': string should have at least 1 character"),
        (
            "++models.solve.load_timeout_s=7200",
            "config: models.solve.load_timeout_s 7200: the watchdog stops a stage in which nothing moves for watchdog.timeout_s 3600; give",
        ),
        ("watchdog.timeout_s=1800", "load_timeout_s 1800: the watchdog stops a stage in which nothing moves for watchdog.timeout_s 1800"),
        ("run.dir=relative", "run.dir=relative: give an absolute path"),
        ("until=nowhere", "until='nowhere': input should be 'seeds'"),
    ],
)
def test_a_mistake_is_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        composed(*override.split())
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["++models.solve.api_key_env=sk-proj-SECRET"], "models.solve.api_key_env: give the name of the environment variable"),
        (["++models.solve.api_key_env=5EC2E7"], "models.solve.api_key_env: give the name of the environment variable"),
        (["++models.solve.api_key_env={SECRET:1}"], "models.solve.api_key_env: give the name of the environment variable"),
        (["models.solve.base_url='http://user:SECRET@host/v1'"], "models.solve.base_url: give the URL without user, password or query"),
        (["models.solve.base_url='user:SECRET@host/v1'"], "models.solve.base_url: give the URL without user, password or query"),
        (["models.solve.base_url='https://host/v1?key=SECRET'"], "models.solve.base_url: give the URL without user, password or query"),
        (["models.solve.base_url='http://user:SECRET[@host/v1'"], "models.solve.base_url: no URL"),
        (["models.solve.engine=opnai", "++models.solve.api_key_env=SECRET"], "models.solve: input tag 'opnai'"),
        (["++models.solve.api_key=SECRET"], "models.solve.api_key: no such key; did you mean api_key_env?"),
    ],
)
def test_what_may_be_a_key_is_never_repeated(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        composed("model@models.solve=openai", *overrides)
    assert said in str(raised.value)
    assert "SECRET" not in str(raised.value) and "5EC2E7" not in str(raised.value)


def test_from_after_until_is_refused() -> None:
    with pytest.raises(ConfigError, match="from=solve comes after until=seeds"):
        composed("from=solve", "until=seeds")


def test_numbers_in_scientific_notation_are_counts_too() -> None:
    assert composed("scale.samples=1e5").scale.samples == 100_000


def test_a_fingerprint_changes_with_what_matters_and_only_then() -> None:
    plain = composed()
    for override in ("sandbox.workers=4", "models.sampler.max_num_seqs=8", "until=select", "run.dir=/elsewhere", "training.codegen.cpus_per_worker=1"):
        assert fingerprint(composed(override), "evaluate") == fingerprint(plain, "evaluate"), override
    for override in ("sampling.temperature=0.5", "seed=1", "scale.samples=401", "++sandbox.cpu_s=1"):
        assert fingerprint(composed(override), "evaluate") != fingerprint(plain, "evaluate"), override
    assert fingerprint(composed("sampling.temperature=0.5"), "unify") == fingerprint(plain, "unify")
    here, moved = (
        composed(*f"model@models.solve=openai models.solve.model=m models.solve.base_url=http://{host}/v1".split()) for host in "ab"
    )
    assert fingerprint(here, "solve") == fingerprint(moved, "solve") != fingerprint(plain, "solve")  # an endpoint may move


def test_every_stage_with_rows_has_a_place_in_the_lineage() -> None:
    assert set(PARENTS) == set(STAGES) - {"report"}


def test_a_watchdog_waits_for_loads_of_vllm_alone() -> None:
    assert composed("profile=fake", "watchdog.timeout_s=9").watchdog.timeout_s == 9
    assert composed("++models.solve.load_timeout_s=7200", "watchdog.timeout_s=7201")
