"""Small runs, written with the real commit layer: rows, seconds and engine times that a test chooses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from caco_ray.cli import allow_new_key
from caco_ray.config import Config, load_config
from caco_ray.fingerprint import settings
from caco_ray.run import FOLDERS
from caco_ray.schema import OF_STAGE, row_id, to_table
from caco_ray.store import DatasetWriter, Folder, StageInfo

CONF = Path(__file__).resolve().parents[3] / "conf"


@pytest.fixture(scope="session")
def config_of() -> Callable[..., Config]:
    def composed(*overrides: str) -> Config:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            tree = compose("config", ["run.dir=/runs/x", *(allow_new_key(override) for override in overrides)])
            return load_config(OmegaConf.to_container(tree, resolve=True))  # type: ignore[arg-type]

    return composed


class WrittenRun:
    """Stages are written one by one; `kept` and `rows` are those of each shard."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path, self.folder, self.config = path, Folder(str(path)), config
        self.folder.write("config.json", config.model_dump_json(by_alias=True).encode())

    def stage(
        self, label: str, shards: list[tuple[int, int]], seconds: float, shard_s: float = 0.1, fan_out: int = 1, **columns: Any
    ) -> None:
        """`shards`: (rows, kept) of each; every row has `columns`."""
        stage, _, model = label.partition(" ")
        folder = self.folder / (f"{FOLDERS[stage]}/{model}" if model else FOLDERS[stage])
        writer = DatasetWriter(folder, StageInfo(stage, f"fp-{stage}", settings(self.config, stage), len(shards), fan_out), OF_STAGE[stage])
        writer.open()
        for shard, (rows, kept) in enumerate(shards):
            made = [
                {
                    "row_id": row_id(label, stage, 10_000 * shard + number),
                    "parent_id": label,
                    "reject_reason": None if number < kept else "does_not_run",
                    "infra_error": None,
                    **columns,
                }
                for number in range(rows)
            ]
            writer.commit(shard, to_table(made, OF_STAGE[stage]), rows // fan_out, shard_s)
        writer.close(seconds)

    def training(self, stage: str, seconds: float, metrics: dict[str, float]) -> None:
        folder = self.folder / FOLDERS[stage]
        folder.write("model/model.safetensors", b"x" * 1000)
        body = {"stage": stage, "settings": settings(self.config, stage), "seconds": seconds, "metrics": metrics}
        folder.write("_SUCCESS", json.dumps(body).encode())


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Config], WrittenRun]:
    return lambda config: WrittenRun(tmp_path / "measured", config)


@pytest.fixture
def small_run(written: Callable[[Config], WrittenRun], config_of: Callable[..., Config]) -> WrittenRun:
    """A fake run with one replica of one core: 10 s of start and 0.1 busy seconds for each row in `scale`."""
    run = written(config_of("profile=fake", "scale.samples=40", "scale.shard_rows=10"))
    run.stage("seeds", [(20, 20)], 0.4, split="train", code="x = 1")
    run.stage("unify", [(15, 12)], 6.0, wall_s=0.02, cpu_s=0.01)
    columns = {"wall_s": 0.01, "cpu_s": 0.01, "sample_prompt_tokens": 2, "sample_tokens": 50}
    run.stage("scale", [(10, 8)] * 4, 14.0, sample_cpu_s=0.1, sample_gpu_s=0.0, **columns)
    run.stage("select", [(8, 8), (8, 8), (8, 4), (8, 4)], 1.0)
    reverse = {"reverse_prompt_tokens": 80, "reverse_tokens": 20, "reverse_cpu_s": 0.2, "reverse_gpu_s": 0.0}
    run.stage("reverse", [(6, 5)] * 4, 10.0, **reverse)
    run.stage("solve", [(5, 2)] * 4, 7.0, solve_prompt_tokens=20, solve_tokens=30, solve_cpu_s=0.1, solve_gpu_s=0.0)
    run.stage("judge", [(2, 1)] * 4, 3.0, judge_prompt_tokens=9, judge_tokens=1, judge_cpu_s=0.125, judge_gpu_s=0.0)
    run.stage("assemble", [(1, 1)] * 4, 2.0)
    run.stage("evaluate base", [(5, 5)], 4.0, solve_prompt_tokens=9, solve_tokens=9, solve_cpu_s=0.2, solve_gpu_s=0.0)
    return run
