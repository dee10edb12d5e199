"""The memory of GPUs as `nvidia-smi` tells it: a script in its place answers in its format."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from caco_ray.config import VllmModel
from caco_ray.engines import build_engine
from caco_ray.engines.devices import Device, visible_devices, wait_for_memory
from caco_ray.errors import ClusterError, ConfigError

SCRIPT = """#!/bin/sh
echo "$@" >> {folder}/asked
case "$*" in
    *--query-gpu*) cat {folder}/gpus; [ -e {folder}/later ] && mv {folder}/later {folder}/gpus; exit 0 ;;
    *--query-compute-apps*) cat {folder}/processes ;;
esac
"""
FREE, TAKEN = "GPU-a, NVIDIA H100 80GB HBM3, 80000, 81559, 551\n", "GPU-b, NVIDIA H100 80GB HBM3, 20480, 81559, 551\n"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with what the driver would tell: `gpus`, `processes`, and `later`, which it tells of GPUs from the second time on."""
    script = tmp_path / "nvidia-smi"
    script.write_text(SCRIPT.format(folder=tmp_path))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    (tmp_path / "gpus").write_text(FREE + TAKEN)
    (tmp_path / "processes").write_text("GPU-b, 4711, python, 61000\nGPU-c, 12, other, 5\n")
    return tmp_path


def test_asks_for_the_devices_of_this_process_alone(driver: Path) -> None:
    assert visible_devices()[1] == Device("GPU-b", "NVIDIA H100 80GB HBM3", 20480 << 20, 81559 << 20, 551 << 20)
    assert (driver / "asked").read_text().startswith("-i 3,5 --query-gpu")


def test_a_device_that_is_not_free_is_named_with_who_holds_it(driver: Path) -> None:
    said = r"GPU GPU-b .*: 20.0 GiB of 79.6 GiB are free after 0 s, gpu_memory_fraction=0.9 wants 71.7 GiB; held by pid 4711 \(python, 61000 MiB\)\."
    with pytest.raises(ClusterError, match=said):  # may pass: the run may be tried again
        wait_for_memory(0.9, timeout_s=0)
    wait_for_memory(0.25, timeout_s=0)  # that much is free


def test_what_the_driver_keeps_is_never_free(driver: Path) -> None:
    (driver / "gpus").write_text(FREE)
    with pytest.raises(ConfigError, match=r"gpu_memory_fraction=1: the driver keeps 0.5 GiB of the 79.6 GiB .*; give at most 0.99$"):
        wait_for_memory(1, timeout_s=60)
    (driver / "gpus").write_text(FREE.replace("551", "[N/A]"))
    with pytest.raises(ClusterError):
        wait_for_memory(1, timeout_s=0)


def test_a_process_that_lets_go_is_waited_for(driver: Path) -> None:
    (driver / "later").write_text(FREE)
    wait_for_memory(0.9, timeout_s=60)
    assert (driver / "asked").read_text().count("--query-gpu") == 2


@pytest.mark.parametrize("mine", ["MIG-4711", ""])
def test_slices_and_no_devices_are_left_to_vllm(driver: Path, monkeypatch: pytest.MonkeyPatch, mine: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mine)
    wait_for_memory(0.9, timeout_s=0)
    assert not (driver / "asked").exists()


def test_without_a_driver_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert visible_devices() == []


def test_no_model_is_loaded_beside_what_holds_the_device(
    driver: Path, smollm2: Path, small_vllm: Callable[..., VllmModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caco_ray.engines.vllm._HANDOVER_S", 0)
    monkeypatch.setattr("caco_ray.engines.vllm._check_device", lambda model: None)  # the vLLM here is the CPU wheel
    monkeypatch.setattr("caco_ray.engines.vllm._device_bytes", lambda model: 80 << 30)
    monkeypatch.setattr("caco_ray.engines.vllm._start", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(ClusterError, match=r"GPU GPU-b .* held by pid 4711"):
        build_engine(small_vllm(gpus=1), path=str(smollm2), seed=0)
