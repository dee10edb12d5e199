"""A run's mistakes are found before anything is written; parts that are made already bind the config."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from caco_ray.config import Config, load_config
from caco_ray.errors import RunDirError, SeedError, UserError
from caco_ray.fingerprint import fingerprint
from caco_ray.jsonl import export_json_lines
from caco_ray.pipeline import run_loop
from caco_ray.run import Run
from caco_ray.schema import SHIPPED, to_table
from caco_ray.store import DatasetWriter

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Config]:
    def make(*overrides: str, profile: str = "fake") -> Config:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            added = [override if "@" in override else f"++{override}" for override in overrides]
            tree = compose("config", [f"profile={profile}", f"run.dir={tmp_path}/run", *added])
        return load_config(OmegaConf.to_container(tree, resolve=True))  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize(
    ("profile", "overrides", "said"),
    [
        ("quickstart", ["models.base=/"], r"/: no config\.json"),
        ("quickstart", ["models.judge.path=/", "judge.enabled=true"], r"/: no config\.json"),
        ("quickstart", ["models.solve.path=./here"], r"models\.solve\.path=\./here: give an absolute path"),
        ("quickstart", ["models.sampler.prompts=alpaca"], r"models\.sampler\.prompts=alpaca: the role sample has no prompt"),
        ("quickstart", ["training.student.enabled=false"], r"run:student: this run does not train it \(training\.student\.enabled=false\)"),
        ("quickstart", ["training.codegen.enabled=false"], r"models\.sampler\.path=run:codegen: this run does not train it"),
        ("quickstart", ["models.solve.path=run:other"], r"models\.solve\.path=run:other: a run trains run:codegen and run:student"),
        ("quickstart", ["model@models.evaluate=openai"], r"models\.evaluate\.engine=openai: cannot serve what this run trains"),
        ("quickstart", ["models.evaluate.path=/"], r"models\.evaluate\.path=/: give models\.student"),
        ("quickstart", ["models.sampler.max_model_len=9000"], r"models\.sampler\.max_model_len=9000: embedded has a context of 8192"),
        ("quickstart", ["training.codegen.max_length=9000"], r"training\.codegen\.max_length=9000: embedded has a context of 8192"),
        ("quickstart", ["models.judge.max_model_len=9000", "judge.enabled=true"], r"models\.judge\.max_model_len=9000: embedded has"),
        ("quickstart", ["models.solve.tensor_parallel=2"], r"models\.solve\.tensor_parallel=2: embedded has 9 attention heads"),
        ("quickstart", ["models.solve.path=Qwen/Qwen3-8X"], r"Qwen/Qwen3-8X: not a folder, and not in the Hugging Face cache"),
        ("quickstart", ["models.base=Qwen/Qwen3-8X"], r"Qwen/Qwen3-8X: not a folder, and not in the Hugging Face cache"),
        (
            "quickstart",
            ["models.solve.vllm_args={enforce_eagr:true}"],
            r"models\.solve\.vllm_args\.enforce_eagr: .*did you mean enforce_eager",
        ),
        (
            "quickstart",
            ["models.solve.vllm_args={max_model_len:7}"],
            r"models\.solve\.vllm_args\.max_model_len: set by the model's own keys",
        ),
        ("quickstart", ["solve.sampling.extra={bad_wrds:[x]}"], r"solve\.sampling\.extra\.bad_wrds: .*did you mean bad_words"),
        ("quickstart", ["sampling.extra={top_p:1}"], r"sampling\.extra\.top_p: set by a key of its own"),
        (
            "fake",
            ["model@models.solve=openai", "solve.sampling.extra={stream:true}"],
            r"^solve\.sampling\.extra\.stream: an endpoint gets it from a key of its own, or not at all",
        ),
        ("quickstart", ["models.solve.quantization=foo"], r"models\.solve\.quantization=foo: vLLM has no such method"),
        ("quickstart", ["run.dir=memory://run"], r"run\.dir=memory://run: the memory of one process, which workers do not see"),
        ("fake", ["models.solve.max_model_len=2048"], r"solve\.sampling\.max_tokens=2048: leaves no room for a prompt in models\.solve"),
        ("quickstart", ["models.judge.lora=/", "judge.enabled=true"], r"/: not a LoRA adapter"),
        ("fake", ["select.evaluation_paths=[/not/there.jsonl]"], r"/not/there\.jsonl: cannot be read"),
        ("fake", ["seeds.path=/not/there.jsonl"], r"/not/there\.jsonl: cannot be read"),
    ],
)
def test_found_before_anything_is_written(
    config: Callable[..., Config], tmp_path: Path, profile: str, overrides: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        run_loop(config(*overrides, profile=profile))
    assert not (tmp_path / "run").exists()


def test_an_endpoint_that_is_not_there_is_found_too(config: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m at http://127\.0\.0\.1:9/v1: cannot be reached"):
        run_loop(config("model@models.solve=openai", "models.solve.base_url='http://127.0.0.1:9/v1'", "models.solve.model=m"))
    assert not (tmp_path / "run").exists()


def test_what_is_made_already_binds_all_later_stages(config: Callable[..., Config]) -> None:
    run_loop(config("until=seeds"))
    with pytest.raises(RunDirError, match="seed"):
        run_loop(config("seed=7", "from=reverse"))
    with pytest.raises(RunDirError, match="seeds"):
        run_loop(config("seeds.limit=5", "from=reverse"))


@pytest.mark.parametrize(
    ("stage", "override"),
    [
        ("solve", "solve.samples=2"),
        ("unify", "filters.min_effective_lines=9"),
        ("scale", "sampling.temperature=0.1"),
        ("evaluate", "evaluate.sampling.max_tokens=9"),
    ],
)
def test_what_changes_rows_changes_the_fingerprint(config: Callable[..., Config], stage: str, override: str) -> None:
    assert fingerprint(config(override), stage) != fingerprint(config(), stage)
    assert fingerprint(config(override), "seeds") == fingerprint(config(), "seeds")


def test_a_file_counts_by_what_it_holds(config: Callable[..., Config], tmp_path: Path) -> None:
    file = tmp_path / "seeds.jsonl"

    def made(text: str, key: str, stage: str) -> str:
        file.write_text(text)
        return fingerprint(config(f"{key}={'[' if 'paths' in key else ''}{file}{']' if 'paths' in key else ''}"), stage)

    for key, stage in (("seeds.path", "seeds"), ("select.evaluation_paths", "select")):
        first = made('{"question": "1 + 1?", "answer": "2"}\n', key, stage)
        assert made('{"question": "1 + 1?", "answer": "3"}\n', key, stage) != first
        assert made('{"question": "1 + 1?", "answer": "2"}\n', key, stage) == first


@pytest.mark.parametrize(
    ("name", "content"),
    [("cut.jsonl.gz", b"\x1f\x8b\x08\x00\x00"), ("bad.jsonl.gz", b"no archive"), ("bad.parquet", b"PAR1 no table PAR1")],
)
def test_a_damaged_seed_file_is_one_line(config: Callable[..., Config], tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SeedError, match=name):
        run_loop(config(f"seeds.path={tmp_path / name}", "until=seeds"))


def test_a_closed_stage_is_looked_after(config: Callable[..., Config], tmp_path: Path) -> None:
    """A lost `stage.json` is written again and a killed commit's leftover swept, by the driver that holds the run; files of others are named."""
    run_loop(config("until=seeds"))
    folder = tmp_path / "run" / "seeds"
    left = folder / "data" / "part-000000-0123456789ab.parquet"
    left.write_bytes(b"a late commit")
    (folder / "stage.json").unlink()
    run_loop(config("until=seeds"))
    assert not left.exists() and '"fingerprint"' in (folder / "stage.json").read_text()
    (folder / "stage.json").write_text("{")
    run_loop(config("until=seeds", "repair=all"))
    assert '"fingerprint"' in (folder / "stage.json").read_text()
    (folder / "extra.parquet").write_bytes(b"rows?")
    with pytest.raises(RunDirError, match=r"seeds/extra\.parquet: no file of this stage"):
        run_loop(config("until=seeds"))
    run_loop(config("until=seeds", "repair=all"))
    assert (tmp_path / "run" / "set_aside" / "seeds" / "extra.parquet").read_bytes() == b"rows?"


def test_a_data_set_is_done_when_all_that_is_written_from_it_is_there(config: Callable[..., Config]) -> None:
    run = Run(config())
    writer = DatasetWriter(run.stage_folder("assemble"), run.info("assemble", 2), SHIPPED)
    writer.open()
    for shard, ids in enumerate((["a"], [])):
        writer.commit(shard, to_table([{"row_id": name, "parent_id": "p"} for name in ids], SHIPPED), len(ids), 0.0)
    writer.close(1.0)
    assert not run.is_done("assemble")
    export_json_lines(run.dataset("assemble"))
    run.stage_folder("assemble").write("README.md", b"card")
    assert run.is_done("assemble")
    run.stage_folder("assemble").delete("jsonl/part-000000.jsonl")
    assert not run.is_done("assemble")
    run.stage_folder("assemble").write("jsonl/part-000001.jsonl", b"{}")  # the shard had a row once
    export_json_lines(run.dataset("assemble"))
    assert run.is_done("assemble")
