"""All attacks again as an unprivileged user without capabilities and with namespaces denied: what a default Kubernetes pod gives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from caco_ray.sandbox.guest import landlock

ROOT = Path(__file__).resolve().parents[2]


pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root"),
    pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock"),
]


def emulated(*arguments: str) -> dict[str, Any]:
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(ROOT / "tests/hostile/pod.py"), *arguments]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=500)
    if done.returncode and "mount" in done.stderr:
        pytest.skip(f"no mount namespace here, so another user cannot reach the interpreter: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    return cast(dict[str, Any], json.loads(done.stdout.splitlines()[-1]))


def test_attacks_are_contained_in_a_default_pod() -> None:
    report = emulated()
    assert report["level"] == "L2"
    assert "unshare" in report["refused"]
    assert report["problems"] == {}


def test_neither_a_folder_nor_a_network_is_needed() -> None:
    levels = emulated("bare")["levels"]
    assert levels["L1"] == levels["L2"] == 1000  # nothing bounds these but the pod
    if "unshare" in str(levels["L3"]):
        pytest.skip(f"this kernel gives user namespaces to root alone: {levels['L3']}")
    assert 50 < levels["L3"] < 256
