"""How many shards of a late stage are in flight follows from the rows that come to it, not from those that were sampled."""

from pathlib import Path
from typing import Any

import pytest

from caco_ray import pipeline
from caco_ray.config import OpenAiModel
from caco_ray.ledger.lineage import read_config, source_of
from caco_ray.operators import shards_in_flight
from caco_ray.run import Run
from caco_ray.store import Folder, Totals

STEPS = {"reverse": pipeline.reverse_programs, "solve": pipeline.solve, "judge": pipeline.judge}


@pytest.mark.parametrize("stage", STEPS)
def test_shards_in_flight_follow_from_the_rows_that_are_left(finished_run: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = OpenAiModel(base_url="http://host/v1", model="any", max_concurrency=20)
    config = read_config(Folder(str(finished_run)))
    config = config.model_copy(update={"models": config.models.model_copy(update={stage: endpoint})})
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Run, "run_stage", lambda run, *arguments: given.append(arguments) or Totals())
    STEPS[stage](Run(config))
    ((_, source, _, operators),) = given
    left = source_of(stage, config, Folder(str(finished_run))).expected_rows // source.shards
    (engines,) = (operator for operator in operators if operator.name.endswith("_model"))
    assert engines.calls == shards_in_flight(endpoint, left) != shards_in_flight(endpoint, config.scale.shard_rows)
