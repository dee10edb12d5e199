"""A small whole run, made in this process: the real sources, operators, sandbox and commit layer with the fake engine, without Ray."""

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from caco_ray.config import Config, load_config
from caco_ray.jsonl import export_json_lines
from caco_ray.ledger.lineage import source_of
from caco_ray.run import FOLDERS
from caco_ray.schema import OF_STAGE, Row, to_table
from caco_ray.seeds import load_seeds
from caco_ray.stages import agreement, filters
from caco_ray.stages.execute import Execute
from caco_ray.stages.generate import Generate
from caco_ray.stages.question import check_questions
from caco_ray.store import Dataset, DatasetWriter, Folder, StageInfo

CONF = Path(__file__).resolve().parents[3] / "conf"
OVERRIDES = (
    "scale.samples=40", "scale.shard_rows=10", "seeds.limit=12", "seeds.shard_rows=20", "reverse.samples=2",
    "sandbox.require=L0", "sandbox.allow_unsafe=true", "sandbox.cpu_s=5",
)  # fmt: skip
Table = Callable[[pa.Table], pa.Table]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written once, never changed."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = load_config(
            OmegaConf.to_container(
                compose("config", ["profile=fake", *(f"++{override}" for override in OVERRIDES), f"run.dir={folder}"]), resolve=True
            )
        )  # type: ignore[arg-type]
    run = Folder(str(folder))
    run.write("config.json", config.model_dump_json(by_alias=True).encode())
    _write(run, "seeds", [(table, table.num_rows) for table in _seed_shards(config)])
    with Operators(config) as operators:
        for stage, functions in operators.stages().items():
            source = source_of(stage, config, run)
            given = [source.read(shard) for shard in range(source.shards)]
            _write(run, stage, [(_through(functions, shard.table), shard.rows_in) for shard in given], getattr(source, "fan_out", 1))
    export_json_lines(Dataset(run / FOLDERS["assemble"]))
    return folder


class Operators:
    """What `pipeline.py` gives each stage."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.execute = Execute(config.sandbox, check_determinism=True)
        self.agreement, self.known = agreement.Agreement(), agreement.MatchKnownAnswer()

    def __enter__(self) -> "Operators":
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self.execute, self.agreement, self.known):
            one.close()

    def stages(self) -> dict[str, tuple[Table, ...]]:
        config, models = self.config, self.config.models
        before, after = (partial(_apply, name, config.filters) for name in (filters.before_execution, filters.after_execution))
        return {
            "unify": (before, self.execute, after, self.known),
            "scale": (Generate("sample", models.sampler, None, config.sampling, 0), before, self.execute, after),
            "select": (),
            "reverse": (
                Generate("reverse", models.reverse, None, config.reverse.sampling, 0),
                partial(_apply, check_questions, config.reverse),
            ),
            "solve": (Generate("solve", models.solve, None, config.solve.sampling, 0), self.agreement),
            "judge": (Generate("judge", models.judge, None, config.judge.sampling, 0),),
            "assemble": (),
        }


def _apply(function: Callable[..., pa.Table], argument: object, table: pa.Table) -> pa.Table:
    return function(table, argument)


def _through(functions: tuple[Table, ...], table: pa.Table) -> pa.Table:
    for function in functions:
        table = function(table)
    return table


def _seed_shards(config: Config) -> list[pa.Table]:
    rows = list(load_seeds(config.seeds))
    return [to_table(rows[first : first + 20], OF_STAGE["seeds"]) for first in range(0, len(rows), 20)]


def _write(run: Folder, stage: str, shards: list[tuple[pa.Table, int]], fan_out: int = 1) -> None:
    writer = DatasetWriter(run / FOLDERS[stage], StageInfo(stage, f"fp-{stage}", {}, len(shards), fan_out), OF_STAGE[stage])
    writer.open()
    for shard, (table, rows_in) in enumerate(shards):
        writer.commit(shard, table, rows_in, 0.1)
    writer.close(1.0)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture(scope="session")
def kept() -> Callable[[Path, str], list[Row]]:
    """Kept rows of a stage."""
    return lambda run, stage: list(Dataset(Folder(str(run / FOLDERS[stage]))).rows())


@pytest.fixture(scope="session")
def tamper() -> Callable[..., None]:
    """Change the rows of shard 0 of a stage as a careful liar would: file, hash and size fit each other again, the counts stay."""

    def change(run: Path, stage: str, rows_changed: Callable[[list[Row]], list[Row]]) -> None:
        import pyarrow.parquet as pq

        folder = run / FOLDERS[stage]
        body = json.loads((folder / "_SUCCESS").read_text())
        entry = body["entries"][0]
        file = folder / entry["file"]
        table = pq.read_table(file)
        pq.write_table(pa.Table.from_pylist(rows_changed(table.to_pylist()), schema=table.schema), file)
        entry |= {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size_bytes": file.stat().st_size}
        (folder / "_SUCCESS").write_text(json.dumps(body))
        (folder / f"manifest/{entry['shard']:06d}.json").write_text(json.dumps(entry))
        if stage == "assemble":
            export_json_lines(Dataset(Folder(str(folder))))

    return change
