"""The loop on real processes: gloo, DeepSpeed ZeRO, kill -9."""

import json
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.cpp_extension import _get_build_directory

from caco_ray.errors import CacoError, StorageError, UserError
from caco_ray.training.checkpoint import FolderCheckpoints, Loadable, NoCheckpoints, _convert, load_state
from caco_ray.training.loop import train_loop
from caco_ray.training.progress import read_progress
from caco_ray.training.stepping import learning_rate
from caco_ray.training.types import TrainLoopConfig
from tests.unit.training.conftest import RANKS, run_ranks, settings
from tests.unit.training.rank import HEARD, hear_of_failure

Make = Callable[..., TrainLoopConfig]
FEW = {"max_steps": 3, "learning_rate": 1e-3}
BF16 = {"dtype": "bfloat16", "activation_checkpointing": True, "checkpoint_every_steps": 6}
PACKED = {"batching": "packed", "max_length": 128}


def curve(folder: Path) -> list[float]:
    return [step.loss for step in read_progress(folder)]


def resumed(config: TrainLoopConfig) -> list[float]:
    """Continue from the folder's last checkpoint on one rank, this process."""
    train_loop(config, FolderCheckpoints(Path(config.output_dir) / "checkpoints"))
    return curve(Path(config.output_dir))


@pytest.fixture(scope="module")
def runs(loop_config: Make, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank with one pass a step, and two ranks with two passes at every ZeRO stage; the last training is killed at step 6."""
    root = tmp_path_factory.mktemp("runs")
    for name, changes in {"alone": {"micro_batch_rows": 8}, "packed_alone": {**PACKED, "micro_batch_rows": 8}}.items():
        (root / name).mkdir()
        train_loop(loop_config(root / name, zero_stage=0, **changes), NoCheckpoints())
    (root / "smollm2_alone").mkdir()
    train_loop(replace(loop_config(root / "smollm2_alone", zero_stage=0, micro_batch_rows=8, **FEW), base=str(smollm2)), NoCheckpoints())
    two = {"workers": 2, "micro_batch_rows": 2}
    configs = [
        *[replace(loop_config(root / f"smollm2_{stage}", zero_stage=stage, **FEW, **two), base=str(smollm2)) for stage in (1, 2, 3)],
        *[loop_config(root / f"zero{stage}", zero_stage=stage, checkpoint_every_steps=6, **two) for stage in (0, 1, 2, 3)],
        *[loop_config(root / f"bf16_{stage}", zero_stage=stage, **BF16, **two) for stage in (0, 2)],
        *[loop_config(root / f"packed{stage}", zero_stage=stage, **PACKED, workers=2, micro_batch_rows=1) for stage in (1, 3)],
        loop_config(root / "offload", zero_stage=3, offload="cpu", **two),
        loop_config(root / "cut", zero_stage=2, checkpoint_every_steps=3, **two),
    ]
    codes = run_ranks(configs, root, die_at_step=6)
    assert -9 in codes and 0 not in codes, "".join(path.read_text() for path in root.glob("rank-*.log"))
    return root


@pytest.mark.parametrize(
    ("name", "reference", "tolerance"),
    [
        ("zero0", "alone", 1e-3),
        ("zero1", "alone", 1e-3),
        ("zero2", "alone", 1e-3),
        ("zero3", "alone", 1e-3),
        ("bf16_0", "alone", 5e-2),
        ("bf16_2", "alone", 5e-2),
        ("offload", "alone", 1e-3),
        ("packed1", "packed_alone", 1e-3),
        ("packed3", "packed_alone", 1e-3),
    ],
)
def test_the_loss_curve_does_not_depend_on_how_the_work_is_cut(runs: Path, name: str, reference: str, tolerance: float) -> None:
    expected = curve(runs / reference)
    assert len(expected) == 12
    assert expected[-1] < expected[0] - 0.5  # it learns
    assert curve(runs / name) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_train_the_shapes_of_smollm2_as_one_does(stage: int, runs: Path) -> None:
    expected = curve(runs / "smollm2_alone")
    assert len(expected) == 3 and expected[-1] < expected[0] - 0.5
    assert curve(runs / f"smollm2_{stage}") == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2", "zero3", "offload"])
def test_the_norm_of_the_gradient_is_that_of_all_ranks_at_every_stage(runs: Path, name: str) -> None:
    expected, norms = ([step.grad_norm for step in read_progress(runs / folder)] for folder in ("alone", name))
    assert min(expected) > 0 and norms == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_gradients_are_clipped(stage: int, loop_config: Make, base: Path, tmp_path: Path) -> None:
    """AdamW forgets the size of gradients, but not beside its epsilon of 1e-8."""
    from transformers import AutoModelForCausalLM

    train_loop(loop_config(tmp_path, zero_stage=stage, max_grad_norm=1e-12, weight_decay=0, max_steps=2), NoCheckpoints())
    assert min(step.grad_norm for step in read_progress(tmp_path)) > 0.1  # as it was before
    before, after = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (base, tmp_path / "model"))
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-5)


def test_a_training_on_a_disk_is_the_same(loop_config: Make, smollm2: Path, tmp_path: Path) -> None:
    if not Path(_get_build_directory("async_io", verbose=False), "async_io.so").exists():
        pytest.skip("compile DeepSpeed's async_io first: libaio-dev, then AsyncIOBuilder().load(), which takes five minutes")
    (disk := tmp_path / "disk").mkdir()
    for name, changes in {"memory": {}, "nvme": {"offload": "nvme", "nvme_dir": str(disk)}}.items():
        (tmp_path / name).mkdir()
        train_loop(replace(loop_config(tmp_path / name, zero_stage=3, **FEW, **changes), base=str(smollm2)), NoCheckpoints())
    assert [path for path in disk.rglob("*") if path.is_file()], list(disk.rglob("*"))
    assert curve(tmp_path / "nvme") == pytest.approx(curve(tmp_path / "memory"), rel=1e-3)


@pytest.mark.parametrize("name", ["alone", "zero1", "zero2", "zero3"])
def test_the_exported_folder_holds_the_trained_model(runs: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, reference = runs / name / "model", runs / "zero0" / "model"
    model, same = (AutoModelForCausalLM.from_pretrained(path) for path in (folder, reference))
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    text = "<|im_start|>question\nWhat is 3 times 5?<|im_end|>\n"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(text, return_tensors="pt").input_ids
    torch.testing.assert_close(model(inputs).logits, same(inputs).logits, rtol=2e-2, atol=2e-2)
    assert tokenizer.chat_template
    assert model.generation_config.eos_token_id == [0, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert model.config.use_cache
    assert "final_loss" in (folder / "README.md").read_text()


def test_a_packed_training_leaves_an_ordinary_model(runs: Path) -> None:
    assert "caco" not in (runs / "packed3" / "model" / "config.json").read_text()


def test_a_killed_rank_costs_nothing_but_time(runs: Path, loop_config: Make, tmp_path: Path) -> None:
    shutil.copytree(runs / "cut", cut := tmp_path / "cut")
    before = read_progress(cut)
    assert [step.step for step in before] == [1, 2, 3, 4, 5, 6]
    assert not (cut / "model").exists()
    assert run_ranks([loop_config(cut, zero_stage=2, checkpoint_every_steps=3, workers=2, micro_batch_rows=2)], tmp_path) == [0, 0]
    after = read_progress(cut)
    assert after[:3] == before[:3]  # went on from step 3, the last whole checkpoint
    assert [step.step for step in after] == list(range(1, 13))
    assert curve(cut) == pytest.approx(curve(runs / "zero2"), rel=1e-5)
    assert after[-1].tokens == read_progress(runs / "zero2")[-1].tokens


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_checkpoint_of_two_ranks_goes_on_with_one(stage: int, runs: Path, loop_config: Make, tmp_path: Path) -> None:
    shutil.copytree(runs / f"zero{stage}", smaller := tmp_path / "smaller")
    before = read_progress(smaller)
    assert resumed(loop_config(smaller, zero_stage=stage, checkpoint_every_steps=6)) == pytest.approx(curve(runs / "alone"), rel=1e-3)
    after = read_progress(smaller)
    assert after[:6] == before[:6]
    assert after[6].seconds != before[6].seconds  # these were trained anew
    assert not list(smaller.rglob("universal"))


@pytest.mark.parametrize("stage", [0, 2])
def test_a_bf16_checkpoint_of_two_ranks_goes_on_with_one_and_with_two(stage: int, runs: Path, loop_config: Make, tmp_path: Path) -> None:
    """Its master weights are its own, in float32."""
    undisturbed = read_progress(runs / f"bf16_{stage}")
    for name in ("one", "two"):
        shutil.copytree(runs / f"bf16_{stage}", tmp_path / name)
    assert resumed(loop_config(tmp_path / "one", zero_stage=stage, **BF16)) == pytest.approx(curve(runs / "alone"), rel=5e-2)
    assert run_ranks([loop_config(tmp_path / "two", zero_stage=stage, workers=2, micro_batch_rows=2, **BF16)], tmp_path) == [0, 0]
    assert curve(tmp_path / "two") == pytest.approx(curve(runs / f"bf16_{stage}"), rel=1e-3)
    for name in ("one", "two"):
        after = read_progress(tmp_path / name)
        assert after[:6] == undisturbed[:6] and after[6].seconds != undisturbed[6].seconds


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_converted_checkpoint_restores_adamw_of_each_group(
    stage: int, runs: Path, loop_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrices decay and vectors do not; each state counts its own steps, beside its parameter."""

    def load_and_look(engine: Any, checkpoint: Loadable) -> None:
        assert checkpoint.universal
        load_state(engine, checkpoint)
        states = engine.optimizer.optimizer.state
        assert [group["weight_decay"] for group in engine.optimizer.param_groups] == [0.1, 0.0]
        assert [float(state["step"]) for state in states.values()] == [6.0, 6.0]
        assert len({id(state["step"]) for state in states.values()}) == 2
        assert all(state["step"].device == parameter.device for parameter, state in states.items())
        raise KeyboardInterrupt  # seen enough

    monkeypatch.setattr("caco_ray.training.stepping.load_state", load_and_look)
    with pytest.raises(KeyboardInterrupt):
        train_loop(loop_config(tmp_path, zero_stage=stage), FolderCheckpoints(runs / f"zero{stage}" / "checkpoints"))


def test_a_checkpoint_that_cannot_be_converted_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir()
    monkeypatch.setattr(sys, "executable", "/bin/false")  # as a converter that the kernel ends: it says nothing
    with pytest.raises(CacoError, match=r"cannot be converted for another number of workers \(exit code 1\)"):
        _convert(tmp_path, tmp_path / "universal")
    (tmp_path / "state" / "zero_pp_rank_0_optim_states.pt").write_bytes(bytes(1 << 20))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(StorageError, match="1 MB free, .* needs 2 MB"):
        _convert(tmp_path, tmp_path / "universal")


def test_a_checkpoint_of_another_model_is_one_line(runs: Path, base: Path, loop_config: Make, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    other = shutil.copytree(base, tmp_path / "other")
    LlamaForCausalLM(LlamaConfig.from_pretrained(base, intermediate_size=96)).save_pretrained(other)
    config = replace(loop_config(tmp_path, zero_stage=0, checkpoint_every_steps=6), base=str(other))
    with pytest.raises(CacoError, match=r"step-00000006: cannot be loaded into this model \(Error\(s\) in loading state_dict") as raised:
        train_loop(config, FolderCheckpoints(runs / "zero0" / "checkpoints"))
    assert "\n" not in str(raised.value)


def test_what_goes_wrong_on_the_first_rank_alone_stops_all_of_them() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [RANKS.Process(target=hear_of_failure, args=(rank, 2, port)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
    assert [process.exitcode for process in processes] == [HEARD, HEARD]


def test_a_diverged_step_stops_with_its_rows(loop_config: Make, tmp_path: Path) -> None:
    config = loop_config(tmp_path, learning_rate=1e30, zero_stage=0, warmup_fraction=0)
    with pytest.raises(UserError, match=r"training diverged at step \d+ of 12 .*rows of the step: row-\d+, row-"):
        train_loop(config, NoCheckpoints())
    assert not (tmp_path / "model").exists()
    assert len(json.loads((tmp_path / "diverged.json").read_text())["row_ids"]) == 8


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    training = settings(learning_rate=1.0, warmup_fraction=0.1)
    rates = [learning_rate(step, 100, training) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001
