"""What a model takes is told from its files, and so is what would fit."""

import json
from pathlib import Path

import pytest

from caco_ray.config import VllmModel
from caco_ray.engines.memory import check_cache, check_room, describe, needs
from caco_ray.errors import ConfigError, ModelError

GIB = 1 << 30
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """16 GiB of weights that take no room on disk."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(16 * GIB)
    return tmp_path


def model(**changes: object) -> VllmModel:
    return VllmModel.model_validate({"path": "x", "max_model_len": 8192, **changes})


def test_weights_and_cache_follow_from_the_files(folder: Path) -> None:
    need = needs(model(), folder)
    assert (need.weights, need.cache_token) == (16 * GIB, 2 * 32 * 8 * 128 * 2)
    double = needs(model(dtype="float32"), folder)
    assert (double.weights, double.cache_token) == (32 * GIB, 2 * need.cache(1))
    assert needs(model(quantization="bitsandbytes"), folder).weights == 4 * GIB  # while it is loaded, to 4 bits at the least
    (folder / "config.json").write_text(json.dumps({**LLAMA_8B, "quantization_config": {"quant_method": "awq"}}))
    assert needs(model(quantization="awq"), folder).weights == 16 * GIB


def test_weights_that_are_there_twice_count_once(folder: Path) -> None:
    with (folder / "consolidated.safetensors").open("wb") as file:
        file.truncate(16 * GIB)
    assert needs(model(), folder).weights == 16 * GIB
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "other.safetensors").write_bytes(bytes(1000))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert needs(model(), folder).weights == 16 * GIB


def test_models_with_other_caches_are_left_to_vllm(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**LLAMA_8B, "sliding_window": 4096}))
    assert needs(model(), folder).cache_token is None
    check_cache(model(max_model_len=10_000_000), "m", {**LLAMA_8B, "sliding_window": 4096})


def test_a_cpu_cache_too_small_for_one_sequence_is_refused_with_what_fits() -> None:
    check_cache(model(), "m", LLAMA_8B)  # exactly 1 GiB
    with pytest.raises(
        ConfigError, match=r"kv_cache_gb=1: .*max_model_len=20000 .*takes 2\.4 GiB; give kv_cache_gb=3, or max_model_len=8192"
    ):
        check_cache(model(max_model_len=20000), "m", LLAMA_8B)


@pytest.mark.parametrize(
    ("changes", "device", "said"),
    [
        ({}, 24, None),
        ({}, 16, "weights 16.0 GiB.*give tensor_parallel x pipeline_parallel = gpus = 2"),
        ({"max_model_len": 65536}, 24, r"give max_model_len=45875, or more GPUs per replica"),
        ({"gpus": 2, "tensor_parallel": 2}, 16, None),
    ],
)
def test_a_gpu_too_small_is_refused_with_what_fits(folder: Path, changes: dict, device: int, said: str | None) -> None:
    asked = model(**{"gpus": 1, **changes})
    if said is None:
        check_room(asked, folder, device * GIB)
        return
    with pytest.raises(ModelError, match=said) as caught:
        check_room(asked, folder, device * GIB)
    assert "\n" not in str(caught.value)


def test_a_node_too_small_is_refused_before_anything_is_loaded(folder: Path) -> None:
    (folder / "model.safetensors").open("r+b").truncate(4000 * GIB)
    with pytest.raises(ModelError, match=r"does not fit: weights 4000\.0 GiB \+ kv_cache_gb=1, .* are free on this node"):
        check_room(model(), folder, None)


def test_says_what_else_helps_where_weights_and_cache_would_fit(folder: Path) -> None:
    assert "enforce_eager=true" in describe(model(gpus=1), folder, 80 * GIB)
