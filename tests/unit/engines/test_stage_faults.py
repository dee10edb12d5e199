"""A stage whose engine misbehaves ends, and accounts for every row. Ray and the commit layer are real."""

import json
import multiprocessing
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from caco_ray.config import OpenAiModel, QuarantineConfig, SamplingConfig, VllmModel, WatchdogConfig
from caco_ray.errors import CacoError, EngineError, StageStalledError
from caco_ray.schema import PROGRAM
from caco_ray.source import SampleRange
from caco_ray.stage import Operator, Stage, run_stage
from caco_ray.stages.generate import Generate
from caco_ray.store import Dataset, Folder, StageInfo, Totals

pytestmark = pytest.mark.usefixtures("ray_cluster")
ROWS = 24
NOW = {"retry-after-ms": "5"}
BUSY = (429, NOW, '{"error": {"message": "slow down"}}')
TROUBLE = {
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


def test_an_endpoint_that_limits_requests_for_a_while_costs_no_row(endpoint: Any, tmp_path: Path) -> None:
    """It serves two, and then none for longer than all tries of any of the four requests at a time."""
    serve, limited = endpoint.answer, iter([False] * 2 + [True] * 12)
    endpoint.answer = lambda request: BUSY if next(limited, False) else serve(request)
    totals = run(tmp_path, client(endpoint.url))
    assert totals.quarantined == 0 and totals.kept + sum(totals.rejected.values()) == ROWS


def test_an_endpoint_whose_ingress_does_not_know_it_for_a_while_costs_no_row_and_no_reply_twice(endpoint: Any, tmp_path: Path) -> None:
    """As while a server behind it starts again."""
    serve, unknown = endpoint.answer, iter([False] * 8 + [True] * 3)
    served = []

    def answer(request: dict) -> tuple:
        if next(unknown, False):
            return 404, {}, "no such host"
        served.append(request["seed"])
        return serve(request)

    endpoint.answer = answer
    totals = run(tmp_path, client(endpoint.url))
    assert totals.quarantined == 0 and totals.kept + sum(totals.rejected.values()) == ROWS
    assert len(set(served)) == ROWS and len(served) <= ROWS + 3 * 3  # but for those that were being written just then


def test_an_endpoint_that_is_down_ends_the_stage_and_costs_no_row(endpoint: Any, tmp_path: Path) -> None:
    endpoint.always = TROUBLE["500"]
    with pytest.raises(StageStalledError, match=r"(?s)nothing moved for . s .* It waits for engine: fake at .* failed in a row"):
        run(tmp_path, client(endpoint.url), timeout_s=5)
    endpoint.always = None
    assert run(tmp_path, client(endpoint.url)).quarantined == 0


class Killed(Generate):
    """Its engine's core is killed when the third shard has begun, once: of two at a time one is through by then."""

    def __init__(self, model: VllmModel, flag: Path) -> None:
        super().__init__("sample", model, model.path, SamplingConfig(temperature=0.9, max_tokens=16), 0)
        ((reply,),) = self._engine.generate(["The capital of France is"], SamplingConfig(temperature=0, max_tokens=4))
        assert "Paris" in reply.text
        self._flag, self._calls = flag, 0

    def __call__(self, table: pa.Table) -> pa.Table:
        self._calls += 1
        if self._calls == 3 and not self._flag.exists():
            self._flag.touch()
            (core,) = multiprocessing.active_children()
            os.kill(core.pid or 0, signal.SIGKILL)
        return super().__call__(table)


def quantised(source: Path, folder: Path) -> Path:
    """Weights of the linear layers as 8-bit integers with a scale for each row, in the format of compressed-tensors."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    weights: dict[str, torch.Tensor] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        weights[name] = weight
        if name.endswith("_proj.weight"):
            scale = weight.float().abs().amax(dim=1, keepdim=True) / 127
            weights |= {name: (weight.float() / scale).round().to(torch.int8), f"{name}_scale": scale.to(weight.dtype)}
    save_file(weights, folder / "model.safetensors")
    numbers = {"num_bits": 8, "type": "int", "symmetric": True}
    group: dict[str, Any] = {"targets": ["Linear"], "weights": {**numbers, "strategy": "channel", "dynamic": False}}
    group["input_activations"] = {**numbers, "strategy": "token", "dynamic": True}
    how = {"quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ["lm_head"], "config_groups": {"group_0": group}}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": how}))
    return folder


def test_a_vllm_that_is_killed_is_replaced_and_no_row_is_lost(smollm2: Path, small_vllm: Any, tmp_path: Path) -> None:
    """With a quantised model: the CPU wheel serves 8-bit integers."""
    folder = quantised(smollm2, tmp_path / "quantised")
    model = small_vllm(path=str(folder), prompts="trained", cpu_threads=1)
    totals = run(tmp_path / "out", partial(Killed, model, tmp_path / "flag"), timeout_s=500)
    assert (tmp_path / "flag").exists()
    rows = pa.concat_tables(Dataset(Folder(str(tmp_path / "out"))).tables(kept_only=False)).to_pylist()
    assert len(rows) == len({row["row_id"] for row in rows}) == ROWS == totals.kept + sum(totals.rejected.values())
    assert all(row["sample_tokens"] > 0 for row in rows)
    assert len({row["sample_seed"] for row in rows}) == 2  # of the engine that was killed, and of the next


def cannot_start() -> Any:
    raise EngineError("no device")


def test_an_engine_that_dies_at_load_ends_the_stage(tmp_path: Path) -> None:
    with pytest.raises(CacoError, match="no device"):
        run(tmp_path, cannot_start)
