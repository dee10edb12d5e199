"""What the driver says when a stage stands still. Its runs on a real Ray are in test_stage_failures.py."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from caco_ray.runtime import streaming
from caco_ray.runtime.gate import Pulse
from caco_ray.runtime.shard_work import Session
from caco_ray.runtime.streaming import Streaming
from caco_ray.runtime.telemetry import Live
from caco_ray.runtime.watchdog import Watchdog
from caco_ray.schema import PROGRAM
from caco_ray.source import SampleRange
from caco_ray.stage import Stage
from caco_ray.store import Folder, StageInfo


@pytest.mark.parametrize(("lines", "ends"), [(["  model: 1 running"], 1), (["  It waits for model: vLLM had not loaded it."], 0)])
def test_a_report_repeats_what_the_workers_said_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], ends: int) -> None:
    source = SampleRange("scale", 4, 4, PROGRAM)
    stage = Stage(StageInfo("scale", "f", {}, 1), Folder(str(tmp_path)), source, (), PROGRAM)
    pulse = Pulse(live=Live(waits="vLLM had not loaded it"))
    gate = SimpleNamespace(tell=SimpleNamespace(remote=lambda done, errors: "asked"))
    monkeypatch.setattr(streaming, "ray", SimpleNamespace(wait=lambda refs, timeout: (refs, []), get=lambda ref: pulse))
    watchdog = Watchdog(0)
    monkeypatch.setattr(watchdog, "report", lambda needs, records: list(lines))
    stands = Streaming(Session(stage, gate, ""), [0], None, watchdog, lambda live: None)
    for _ in range(2):  # ask, take the answer
        stands._tell()
    said = stands._stands("nothing moved for 9 s").splitlines()
    assert said[1:] == [*lines, *["  The last that was heard: vLLM had not loaded it"] * ends]
