"""A stage whose engine misbehaves ends, and accounts for every row. Ray and the commit layer are real."""

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from caco_ray.config import OpenAiModel, QuarantineConfig, SamplingConfig, WatchdogConfig
from caco_ray.errors import CacoError, EngineError, StageStalledError
from caco_ray.schema import PROGRAM
from caco_ray.source import SampleRange
from caco_ray.stage import Operator, Stage, run_stage
from caco_ray.stages.generate import Generate
from caco_ray.store import Dataset, Folder, StageInfo, Totals

pytestmark = pytest.mark.usefixtures("ray_cluster")
ROWS = 24
NOW = {"retry-after-ms": "5"}
TROUBLE = {
    "429": (429, NOW, '{"error": {"message": "slow down"}}'),
    "500": (500, NOW, '{"error": {"message": "the server caught fire"}}'),
    "garbage": (200, {}, "{not json"),
    "half": (200, {"Content-Length": "4000"}, '{"id": "1", "choices": [{"text": "and th'),
}


def run(folder: Path, make: Any, timeout_s: float = 120) -> Totals:
    source = SampleRange("scale", ROWS, 4, PROGRAM)
    operator = Operator("engine", make, actors=1, calls=2)
    limits = QuarantineConfig(max_infra_error_fraction=1), WatchdogConfig(timeout_s=timeout_s)
    plan = Stage(StageInfo("scale", "f" * 16, {}, source.shards), Folder(str(folder)), source, (operator,), PROGRAM, *limits)
    return run_stage(plan, lambda entry: None)


def client(url: str) -> partial[Generate]:
    model = OpenAiModel(base_url=url, model="fake", prompts="trained", max_model_len=256, max_retries=1, max_concurrency=4)
    return partial(Generate, "sample", model, None, SamplingConfig(temperature=0.9, max_tokens=200), 0)


@pytest.mark.parametrize("kind", TROUBLE)
def test_rows_of_a_flaky_endpoint_are_kept_rejected_or_quarantined(endpoint: Any, tmp_path: Path, kind: str) -> None:
    """Every second prompt fails whenever it is asked for, the others are served."""
    serve, unlucky = endpoint.answer, TROUBLE[kind]
    endpoint.answer = lambda request: unlucky if request["seed"] % 2 else serve(request)
    totals = run(tmp_path, client(endpoint.url))
    rows = pa.concat_tables(Dataset(Folder(str(tmp_path))).tables(kept_only=False)).to_pylist()
    assert len(rows) == ROWS == totals.kept + sum(totals.rejected.values()) + totals.quarantined
    assert {row["row_id"] for row in rows if row["infra_error"]} == {row["row_id"] for row in rows if row["sample_seed"] % 2}
    assert 0 < totals.quarantined < ROWS and totals.kept > 0
    assert all(row["code"] is None and row["reject_reason"] is None for row in rows if row["infra_error"])


def test_an_endpoint_that_is_down_ends_the_stage_and_costs_no_row(endpoint: Any, tmp_path: Path) -> None:
    endpoint.always = TROUBLE["500"]
    with pytest.raises(StageStalledError, match=r"(?s)nothing moved for . s .* It waits for engine: fake at .* failed in a row"):
        run(tmp_path, client(endpoint.url), timeout_s=5)
    endpoint.always = None
    assert run(tmp_path, client(endpoint.url)).quarantined == 0


def cannot_start() -> Any:
    raise EngineError("no device")


def test_an_engine_that_dies_at_load_ends_the_stage(tmp_path: Path) -> None:
    with pytest.raises(CacoError, match="no device"):
        run(tmp_path, cannot_start)
