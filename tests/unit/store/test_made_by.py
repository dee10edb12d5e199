"""One model makes all shards of a stage: a path that holds another model by now is noticed before its rows are mixed in."""

from pathlib import Path

import pyarrow as pa
import pytest

from caco_ray import __version__
from caco_ray.errors import RunDirError
from caco_ray.schema import PROGRAM, row_id, to_table
from caco_ray.store import DatasetWriter, Folder, StageInfo


def programs(shard: int, *models: str | None) -> pa.Table:
    rows = [
        {"row_id": row_id("scale", "scale", 10 * shard + index), "parent_id": "scale", "sample_model": model, "sample_prompt": "trained@1"}
        for index, model in enumerate(models)
    ]
    return to_table(rows, PROGRAM)


def writer(folder: Folder) -> DatasetWriter:
    return DatasetWriter(folder, StageInfo("scale", "f1", {}, 3), PROGRAM)


def test_an_entry_names_model_prompt_and_code(tmp_path: Path) -> None:
    made = writer(Folder(str(tmp_path)))
    made.open()
    entry = made.commit(0, programs(0, None, "m@1", "m@1"), 3, 0.0)
    assert (entry.model, entry.prompt, entry.code_version) == ("m@1", "trained@1", __version__)
    assert made.open()[0] == entry


def test_a_run_goes_on_with_the_model_that_it_began_with(tmp_path: Path) -> None:
    begun = writer(Folder(str(tmp_path)))
    begun.open()
    begun.commit(0, programs(0, "m@1"), 1, 0.0)
    resumed = writer(Folder(str(tmp_path)))
    resumed.open()
    with pytest.raises(RunDirError, match=r"shard 1 were made by the model m@2, those of other shards by m@1; put the former model back"):
        resumed.commit(1, programs(1, "m@2"), 1, 0.0)
    assert list(writer(Folder(str(tmp_path))).open()) == [0]
    resumed.commit(1, programs(1, None), 1, 0.0)  # no model had a part in these
    resumed.commit(2, programs(2, "m@1"), 1, 0.0)


def test_a_model_that_changes_while_a_shard_is_made(tmp_path: Path) -> None:
    made = writer(Folder(str(tmp_path)))
    made.open()
    with pytest.raises(RunDirError, match=r"made by the model m@1\|m@2; put"):
        made.commit(0, programs(0, "m@1", "m@2"), 2, 0.0)


def test_the_driver_hears_of_two_models_in_one_execution(tmp_path: Path) -> None:
    driver = writer(Folder(str(tmp_path)))
    driver.open()
    entries = []
    for shard, model in enumerate(("m@1", "m@2")):
        worker = writer(Folder(str(tmp_path)))
        entries.append(worker.commit(shard, programs(shard, model), 1, 0.0))
    driver.note(entries[0])
    with pytest.raises(RunDirError, match="m@2"):
        driver.note(entries[1])
