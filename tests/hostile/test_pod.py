"""All attacks again as an unprivileged user without capabilities and with namespaces denied: what a default Kubernetes pod gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caco_ray.sandbox.guest import landlock

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root")
@pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock")
def test_attacks_are_contained_in_a_default_pod() -> None:
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/hostile/pod.py")], cwd="/", env=environment, capture_output=True, text=True, timeout=500
    )
    if done.returncode and "mount" in done.stderr:
        pytest.skip(f"no mount namespace here, so another user cannot reach the interpreter: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["level"] == "L2"
    assert "unshare" in report["refused"]
    assert report["problems"] == {}
