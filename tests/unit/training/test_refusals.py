"""What cannot be trained, gone on with or exported is one line, before the first step where it can be known."""

import json
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from deepspeed.ops.op_builder import AsyncIOBuilder

from caco_ray.errors import ClusterError, ConfigError, ModelError, StorageError, UserError
from caco_ray.metrics import TRAINING
from caco_ray.prompts import student_example, training_examples
from caco_ray.training.base import load_tokenizer
from caco_ray.training.chat import replaces_template
from caco_ray.training.data import TokenFile, write_tokens
from caco_ray.training.engine import build_engine, check_nvme, prepare_process
from caco_ray.training.examples import make_examples
from caco_ray.training.export import _stop_at_turn_end, _write, complete, model_card
from caco_ray.training.prepare import prepare
from caco_ray.training.types import Step, TrainingData
from tests.unit.training.conftest import made_up, make_rows, settings


def test_the_tokenizer_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    with pytest.raises(ModelError, match=r"its tokenizer has \d+ tokens, the model 100: copy the model's own tokenizer"):
        prepare(settings(), str(folder), [made_up()], tmp_path / "out")


def test_sequences_longer_than_the_context_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_length=4096: .* has a context of 2048 tokens; give at most that"):
        prepare(settings(max_length=4096), str(base), [made_up()], tmp_path / "out")


@pytest.mark.parametrize(
    ("folder", "message"),
    [("base", "has neither a pad_token nor an eos_token"), ("markerless", "has neither the token <.im_end.> nor an eos_token")],
)
def test_a_tokenizer_that_ends_nothing_is_refused(folder: str, message: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(request.getfixturevalue(folder), tmp_path / "model"))
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": None}))
    with pytest.raises(ModelError, match=message):
        prepare(settings(), str(copy), [made_up()], tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "made"),
    [
        ({"batch_rows": 48}, r"48 examples in batches of batch_rows=48 for epochs=2 make 2"),
        ({"epochs": 0.5}, r"48 examples in batches of batch_rows=8 for epochs=0.5 make 3"),
        ({"heldout_fraction": 0.3}, r"[23]\d examples in batches of batch_rows=8 for epochs=2 make (?:6|8|10)"),  # those are not trained on
    ],
)
def test_a_training_of_next_to_no_steps_is_refused(changes: dict[str, Any], made: str, base: Path, tmp_path: Path) -> None:
    message = rf"training data made_up: {made} optimizer steps, fewer than min_steps=11: .*lower batch_rows, raise epochs, give more data, or"
    with pytest.raises(UserError, match=message) as raised:
        prepare(settings(**changes, min_steps=11), str(base), [made_up()], tmp_path / "out")
    assert "\n" not in str(raised.value)
    for meant in ({"min_steps": 2}, {"min_steps": 11, "max_steps": 1}):
        prepare(settings(**changes, **meant), str(base), [made_up()], tmp_path / "out")


def test_the_steps_of_a_mixture_are_those_of_its_weights(base: Path, tmp_path: Path) -> None:
    data = replace(made_up(), weight=1 / 6)
    with pytest.raises(UserError, match="8 examples in batches of batch_rows=8 for epochs=19 make 19 optimizer steps"):
        prepare(settings(epochs=19, min_steps=20), str(base), [data], tmp_path / "out")
    prepare(settings(epochs=20, min_steps=20), str(base), [data], tmp_path / "out")


def test_another_model_of_the_same_shape_is_another_training(base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "model"))
    names = [prepare(settings(), str(folder), [made_up()], tmp_path / "out").name for folder in (base, copy)]
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    other = prepare(settings(), str(copy), [made_up()], tmp_path / "out").name
    assert names[0] == names[1] != other


def test_the_card_names_the_base_as_it_was_given(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caco_ray.training.prepare.check_base", lambda name: base)  # else a hub cache is needed
    for given, named, title in (("Qwen/Qwen2.5-Math-7B", "Qwen/Qwen2.5-Math-7B", "Qwen2.5-Math-7B-caco"), (str(base), "tiny-llama", "tiny-llama-caco")):
        config = prepare(settings(), given, [made_up()], tmp_path / "out").config
        card = model_card(config, load_tokenizer(base), 48, 12, {})
        assert f"base_model: {named}\n" in card and f"# {title}\n{named} fine-tuned" in card


@pytest.mark.skipif(find_spec("liger_kernel") is not None, reason="liger-kernel is installed")
def test_liger_without_its_package_is_refused_before_workers_start(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="liger=true needs the package liger-kernel: install the extra `liger`"):
        prepare(settings(liger=True, gpus_per_worker=1), str(base), [made_up()], tmp_path / "out")


def test_liger_is_refused_for_a_family_that_it_leaves_alone(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table of families alone: the package needs a GPU to be imported."""
    from transformers import AutoModelForCausalLM

    from caco_ray.training.engine import _use_liger

    package, patches = ModuleType("liger_kernel.transformers"), ModuleType("liger_kernel.transformers.monkey_patch")
    package._apply_liger_kernel_to_instance = patches.MODEL_TYPE_TO_APPLY_LIGER_FN = {"qwen2": None, "gemma": None}
    for module in (package, patches):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(ModelError, match=r"liger-kernel has no kernels for llama .it has: qwen2, gemma."):
        _use_liger(AutoModelForCausalLM.from_pretrained(base))


def test_flash_attention_alone_is_refused_for_a_model_that_chooses_for_itself(base: Path) -> None:
    from transformers import AutoModelForCausalLM

    from caco_ray.training.attention import require_flash

    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    with pytest.raises(ModelError, match="flash_attention=true: LlamaForCausalLM has an attention of its own"):
        require_flash(model)


def test_a_gpu_that_is_not_there_is_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ClusterError, match=r"no GPU on this node .* give training.gpus_per_worker=0 for CPU"):
        prepare_process("cuda", 1)


@pytest.mark.parametrize(("lora", "room_mb", "fits"), [(None, 460, False), (None, 5000, True), ({"rank": 4}, 460, True)])
def test_checkpoints_of_adapters_need_less_room(
    lora: dict[str, int] | None, room_mb: int, fits: bool, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=room_mb << 20))
    monkeypatch.setattr("caco_ray.training.prepare.weight_bytes", lambda folder: 64 << 20)
    training = settings(checkpoint_every_steps=2, lora=lora)
    if fits:
        assert prepare(training, str(base), [made_up()], tmp_path / "out").stats.examples == 48
        return
    with pytest.raises(StorageError, match=r"460 MB free, the model and its checkpoints need 2,141 MB"):
        prepare(training, str(base), [made_up()], tmp_path / "out")


def test_checkpoints_that_a_killed_training_left_are_room_that_it_has(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=460 << 20))
    monkeypatch.setattr("caco_ray.training.prepare.weight_bytes", lambda folder: 64 << 20)
    state = tmp_path / "work" / "training-x" / "checkpoint_1" / "state"
    state.mkdir(parents=True)
    for place, megabytes in ((state / "0.pt", 1681), (tmp_path / "work" / "tokens.arrow", 1681)):  # tokens come beside them
        with place.open("wb") as file:
            file.truncate(megabytes << 20)
    prepare(settings(checkpoint_every_steps=2), str(base), [made_up()], tmp_path)
    with (state / "0.pt").open("wb") as file:
        file.truncate(1680 << 20)
    with pytest.raises(StorageError, match=r"2,140 MB free, .* need 2,141 MB"):
        prepare(settings(checkpoint_every_steps=2), str(base), [made_up()], tmp_path)


def with_generation(base: Path, folder: Path, **flags: object) -> Path:
    copy = Path(shutil.copytree(base, folder))
    (copy / "generation_config.json").write_text(json.dumps(flags))
    return copy


def test_a_base_whose_flags_of_sampling_stand_alone_is_exported_as_one_that_samples(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, GenerationConfig

    folder = with_generation(base, tmp_path / "model", temperature=0.9, top_p=0.6, eos_token_id=0)
    prepare(settings(), str(folder), [made_up()], tmp_path / "out")
    model, target = AutoModelForCausalLM.from_pretrained(folder), tmp_path / "export"
    with pytest.raises(ValueError, match="do_sample"):
        model.save_pretrained(target)
    _write(model, model.state_dict(), load_tokenizer(folder), target, settings())
    exported = GenerationConfig.from_pretrained(target)
    assert (exported.do_sample, exported.temperature, exported.top_p) == (True, 0.9, 0.6)


@pytest.mark.parametrize("flags", [{"length_penalty": 0.5}, {"early_stopping": "sometimes"}, {"temperature": 0.0}])
def test_generation_settings_that_no_export_could_write_are_refused(flags: dict[str, object], base: Path, tmp_path: Path) -> None:
    folder = with_generation(base, tmp_path / "model", **flags)
    message = rf"generation_config.json: transformers refuses it .*{next(iter(flags))}.*mend the file, or delete"
    with pytest.raises(ModelError, match=message) as raised:
        prepare(settings(), str(folder), [made_up()], tmp_path / "out")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("family", ["alpaca", "trained"])
def test_an_export_renders_chats_as_the_training_saw_them(family: str, base: Path) -> None:
    tokenizer, row = load_tokenizer(base), make_rows(1)[0]
    assert tokenizer.chat_template and replaces_template(tokenizer, settings(prompts=family, roles=["solve"]))
    tokenizer.pad_token = None
    training = settings(prompts=family, roles=["solve"])
    complete(tokenizer, training)
    example = student_example({"instruction": row["question"], "output": row["cot"]})
    segments = example if family == "alpaca" else training_examples({**row, "answer": None}, ("solve",))[0]
    question = [{"role": "user", "content": row["question"]}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": row["cot"]}], tokenize=False)
    assert prompt == segments[0].text and whole == "".join(segment.text for segment in segments)
    assert tokenizer.pad_token == tokenizer.eos_token
    assert not replaces_template(tokenizer, training)


@pytest.mark.parametrize("folder", ["markerless", "other_end"])
@pytest.mark.parametrize("family", ["alpaca", "trained"])
def test_a_rendered_chat_has_the_ids_of_the_training(family: str, folder: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tokenizer, row, training = load_tokenizer(request.getfixturevalue(folder)), make_rows(1)[0], settings(prompts=family, roles=["solve"])
    rows = [{**row, "instruction": row["question"], "output": row["cot"], "answer": None}]
    write_tokens([TrainingData("one", lambda: rows, make_examples(training))], tokenizer, training, tmp_path / "tokens.arrow")
    complete(tokenizer, training)
    chat = [{"role": "user", "content": f"{row['question']} "}, {"role": "assistant", "content": row["cot"]}]
    ids = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
    assert ids == TokenFile(str(tmp_path / "tokens.arrow"))[0][0].tolist()
    generation = SimpleNamespace(eos_token_id=7)
    _stop_at_turn_end(generation, tokenizer)
    assert generation.eos_token_id == [7, tokenizer.eos_token_id]
    assert tokenizer.decode(tokenizer.eos_token_id) == "<|endoftext|>"


def test_a_pad_token_and_the_template_of_what_never_solves_are_left_alone(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    template, tokenizer.pad_token = tokenizer.chat_template, "<|im_end|>"
    complete(tokenizer, settings(roles=["sample", "reverse"]))
    assert (tokenizer.chat_template, tokenizer.pad_token) == (template, "<|im_end|>")


def test_every_metric_of_a_training_is_a_figure_of_a_step() -> None:
    step = Step(4, 8, 0.5, 2.0, 1e-4, 0.7, 100, 50.0, 2.0)
    names = [metric.name.removeprefix("caco_training_") for metric in TRAINING]
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_s", "mfu", "seconds_left"} <= set(names)
    assert all(hasattr(step, name) for name in names)


def test_a_disk_that_cannot_take_states_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_process("cpu", 1)
    with pytest.raises(StorageError, match="nvme_dir=/nowhere: no folder that can be written"):
        check_nvme(Path("/nowhere"), 1 << 20)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="1 MB free, parameters and states need 70 MB"):
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
        check_nvme(tmp_path, 10 << 20)
    if not AsyncIOBuilder().is_compatible(verbose=False):
        with pytest.raises(ClusterError, match="offload=nvme: DeepSpeed needs libaio on each node; install libaio-dev"):
            check_nvme(tmp_path, 1 << 20)


def test_a_base_with_dropout_is_trained_without(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    prepare_process("cpu", 1)
    model, ids = build_engine(settings(), str(folder)).module, torch.arange(20)[None]
    assert model.training and torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
