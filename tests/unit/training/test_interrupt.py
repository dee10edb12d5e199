"""Ctrl-C while a run trains: Ray Train takes the signal over where it can."""

import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def stopped_when(made: Path, arguments: tuple[str, ...]) -> tuple[int, str]:
    """Exit code and errors of a run that is sent one Ctrl-C as soon as `made` has something in it."""
    run = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs/run.py"), *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not (made.exists() and made.stat().st_size):
        assert run.poll() is None and time.monotonic() < deadline, run.stderr and run.stderr.read()
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=120)
    return run.returncode, errors


def test_ctrl_c_in_a_training(base: Path, tmp_path: Path) -> None:
    training = ("enabled=true", "epochs=20", "batch_rows=8", "micro_batch_rows=8", "workers=1", "gpus_per_worker=0", "cpus_per_worker=1")
    arguments = (
        "profile=fake",
        "until=train_codegen",
        f"run.dir={tmp_path}",
        "seeds.limit=16",
        f"models.base={base}",
        *(f"training.codegen.{setting}" for setting in training),
    )
    codegen = tmp_path / "models" / "codegen"
    code, errors = stopped_when(codegen / "progress.jsonl", arguments)
    assert code == 130 and "the same command goes on" in errors
    assert not (codegen / "_SUCCESS").exists()
