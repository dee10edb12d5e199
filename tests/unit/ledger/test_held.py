"""What a run held, in whatever number of executions, and where it went."""

import json
from pathlib import Path

from caco_ray.ledger.held import HeldFile
from caco_ray.ledger.lineage import Cost, balance, held_by
from caco_ray.store import Folder


def test_executions_of_a_stage_add_up_and_a_killed_one_counts_until_its_last_save(tmp_path: Path) -> None:
    run, now = Folder(str(tmp_path)), [0.0]
    with HeldFile(run, "scale round 2") as first:
        first.add(10, 1)
        first.add(20, 2)
    killed = HeldFile(run, "scale round 2", clock=lambda: now[0])
    killed.add(100, 10)
    assert held_by(run) == {"scale round 2": Cost(cpu_s=30, gpu_s=3)}
    now[0] = 31
    killed.add(100, 10)
    killed.add(1000, 1000)  # and nobody hears of this
    with HeldFile(run, "train_codegen") as training:
        training.add(0, 7)
    assert held_by(run) == {"scale round 2": Cost(cpu_s=230, gpu_s=23), "train_codegen": Cost(gpu_s=7)}
    assert {json.loads(file.read_text())["label"] for file in tmp_path.rglob("*.json")} == {"scale round 2", "train_codegen"}


def test_a_stage_that_holds_nothing_leaves_no_file(tmp_path: Path) -> None:
    with HeldFile(Folder(str(tmp_path)), "assemble"):
        pass
    assert not list(tmp_path.iterdir()) and held_by(Folder(str(tmp_path))) == {}


def test_rows_trainings_and_the_rest_add_up_to_what_was_held() -> None:
    held = {"scale": Cost(cpu_s=1000, gpu_s=100), "train_codegen round 2": Cost(cpu_s=5, gpu_s=50)}
    assert balance(held, Cost(tokens=3, cpu_s=400.2, gpu_s=70)) == (
        "the run held 1,005 CPU s and 150 GPU s: 400 CPU s and 70 GPU s for these rows, 5 CPU s and 50 GPU s for trainings, "
        "600 CPU s and 30 GPU s lost or idle"
    )
