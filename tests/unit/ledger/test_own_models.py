"""A model that was deleted and trained again is not the one that the rows of the run were made by."""

import json
from pathlib import Path

import pytest

from caco_ray.config import Config, VllmModel
from caco_ray.engines.model_folder import model_id
from caco_ray.errors import RunDirError
from caco_ray.ledger.lineage import read_config
from caco_ray.own_models import check_done, weights_of
from caco_ray.schema import PROGRAM, row_id, to_table
from caco_ray.store import DatasetWriter, Folder, StageInfo

SAMPLER = VllmModel(path="run:codegen")


def train(run: Path, weights: bytes) -> str:
    """A closed training; returns the id that an engine gives its model."""
    folder = run / "models" / "codegen"
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(weights)
    (folder / "_SUCCESS").write_text(json.dumps({"weights": weights_of(Folder(str(folder)))}))
    return model_id(SAMPLER, str(folder / "model"))


@pytest.fixture
def config(finished_run: Path) -> Config:
    made_with = read_config(Folder(str(finished_run)))
    return made_with.model_copy(update={"models": made_with.models.model_copy(update={"sampler": SAMPLER})})


def sample(run: Path, model: str) -> None:
    writer = DatasetWriter(Folder(str(run / "programs")), StageInfo("scale", "f1", {}, 1), PROGRAM)
    writer.open()
    writer.commit(0, to_table([{"row_id": row_id("scale", "scale", 0), "parent_id": "scale", "sample_model": model}], PROGRAM), 1, 0.0)
    writer.close(0.0)


def test_rows_of_the_model_that_was_trained(tmp_path: Path, config: Config) -> None:
    sample(tmp_path, train(tmp_path, b"first"))
    check_done(Folder(str(tmp_path)), config, "scale", 1)


def test_rows_of_a_model_that_was_trained_again(tmp_path: Path, config: Config) -> None:
    sample(tmp_path, before := train(tmp_path, b"first"))
    after = train(tmp_path, b"second")
    with pytest.raises(RunDirError, match=f"made by the model {before}, but .*models/codegen holds {after} now; put the former"):
        check_done(Folder(str(tmp_path)), config, "scale", 1)
