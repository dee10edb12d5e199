"""A folder that cannot be served is refused in one line, before anything is loaded."""

import json
from pathlib import Path

import pytest

from caco_ray.config import VllmModel
from caco_ray.engines.model_folder import adapter_rank, check_model, context_limit, model_id
from caco_ray.errors import ConfigError, ModelError

CONFIG = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512, "num_attention_heads": 8, "hidden_size": 512}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that passes, as far as can be told without loading it."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 4000)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return tmp_path


def check(folder: Path, **changes: object) -> Path:
    model = VllmModel.model_validate({"path": str(folder), "max_model_len": 256, **changes})
    return check_model(model, str(folder))


def test_takes_a_complete_folder(folder: Path) -> None:
    assert check(folder) == folder


def test_the_embedded_model_passes(smollm2: Path) -> None:
    assert check(smollm2, max_model_len=8192) == smollm2


def _remove(name: str):
    return lambda folder: (folder / name).unlink()


def _write(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_remove("config.json"), "no config.json"),
        (_write("config.json", "{"), "config.json: not valid JSON"),
        (_write("config.json", "{}"), "names no architecture"),
        (_write("config.json", "[]"), "not a JSON object"),
        (_remove("model.safetensors"), "no weights"),
        (_write("model.safetensors", ""), "model.safetensors is empty"),
        (_remove("tokenizer.json"), "no tokenizer"),
        (_remove("tokenizer_config.json"), "no chat template"),
        (_write("model.safetensors.index.json", '{"weight_map": {"a": "x-1.safetensors"}}'), "1 of 1 weight files are missing"),
        (_write("config.json", json.dumps({**CONFIG, "hidden_size": 128})), "attention heads of size 16 cannot run on CPU"),
    ],
)
def test_names_what_is_wrong_with_a_folder(folder: Path, damage, said: str) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=said) as caught:
        check(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ bos_token + messages[0].content }}", None),  # no tokenizer names the token
        ("{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}", "System role not supported"),
        ("{% if thinking %}{{ raise_exception('Thinks') }}{% endif %}", "Thinks"),
        ("{% if %}", "Expected an expression"),
    ],
)
def test_a_chat_template_that_refuses_our_messages_is_named(folder: Path, template: str, said: str | None) -> None:
    (folder / "chat_template.jinja").write_text(template)
    if said is None:
        check(folder)
        return
    with pytest.raises(ModelError, match=f"{folder}: its chat template refuses a system message") as caught:
        check(folder, chat_template_kwargs={"thinking": True})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_trained_model_needs_no_chat_template(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    assert check(folder, prompts="trained") == folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_model_len": 513}, "max_model_len=513: .* has a context of 512"),
        ({"tensor_parallel": 3}, "tensor_parallel=3: .* has 8 attention heads"),
    ],
)
def test_names_what_the_model_cannot_do(folder: Path, changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(folder, **changes)


def test_what_extends_the_context_is_left_to_vllm(folder: Path) -> None:
    check(folder, max_model_len=1024, vllm_args={"hf_overrides": {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}})


def test_an_index_of_weights_that_are_not_used_says_nothing(folder: Path) -> None:
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model-1.bin"}}')
    assert check(folder) == folder


def test_a_path_that_is_no_folder(folder: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        check(folder / "nowhere")
    with pytest.raises(ModelError, match="this is a file"):
        check(folder / "config.json")
    with pytest.raises(ModelError, match=r"not in the Hugging Face cache: run `hf download nobody/nothing`"):
        check_model(VllmModel(path="nobody/nothing"), "nobody/nothing")


def test_a_lora_adapter_is_called_one(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelError, match="LoRA adapter"):
        check(folder)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"text_config": {"max_position_embeddings": 4096}}, 4096),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"max_position_embeddings": 1024, "rope_parameters": {"rope_type": "default", "rope_theta": 1}}, 1024),
        ({"max_position_embeddings": 1024, "rope_scaling": {"type": "linear", "factor": 2}}, 2048),
        ({}, None),
    ],
)
def test_context_of_a_model(config: dict, limit: int | None) -> None:
    assert context_limit(config) == limit


def test_the_id_follows_the_weights_not_the_place(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy")
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    run_model = VllmModel(path="run:codegen")
    first = model_id(run_model, str(folder))
    assert first.startswith("run:codegen@") and model_id(run_model, str(copy)) == first
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[:] = bytes(byte ^ 1 for byte in weights)
    (copy / "model.safetensors").write_bytes(weights)
    assert model_id(run_model, str(copy)) != first
    assert model_id(VllmModel(path=str(folder)), str(folder)) == first.replace("run:codegen", folder.name)


ADAPTER = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "peft_type": "LORA"}


@pytest.fixture
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_an_adapter_is_part_of_the_model_s_name(folder: Path, adapter: Path) -> None:
    check(folder, lora=str(adapter))
    plain, adapted = (model_id(VllmModel(path=str(folder), lora=lora), str(folder)) for lora in (None, str(adapter)))
    assert adapted.startswith(f"{plain}+{adapter.name}@")
    (adapter / "adapter_model.safetensors").write_bytes(b"others!")
    assert model_id(VllmModel(path=str(folder), lora=str(adapter)), str(folder)) != adapted


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_remove("adapter_config.json"), "not a LoRA adapter"),
        (_remove("adapter_model.safetensors"), "not a LoRA adapter"),
        (_write("adapter_config.json", json.dumps({**ADAPTER, "r": 1024})), "r=1024; vLLM serves ranks from 1 to 512"),
        (_write("adapter_config.json", json.dumps({**ADAPTER, "bias": "all"})), "trains whole modules or biases"),
        (_write("adapter_config.json", json.dumps({**ADAPTER, "use_dora": True})), "is a DoRA adapter, which vLLM cannot serve"),
        (_write("adapter_config.json", json.dumps({**ADAPTER, "rank_pattern": {"q_proj": 600}})), "r=600; vLLM serves ranks"),
    ],
)
def test_an_adapter_that_cannot_be_served_is_refused(folder: Path, adapter: Path, damage, said: str) -> None:
    damage(adapter)
    with pytest.raises(ModelError, match=said):
        check(folder, lora=str(adapter))


def test_the_largest_rank_of_an_adapter_counts(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps({**ADAPTER, "rank_pattern": {"q_proj": 64}}))
    assert adapter_rank(str(adapter)) == 64


@pytest.mark.parametrize(
    ("config", "changes", "said"),
    [
        ({"model_type": "gemma2"}, {"dtype": "float16"}, "dtype=float16: .*gemma2.* overflows in it"),
        ({"quantization_config": {"quant_method": "awq"}}, {"dtype": "float32", "gpus": 1}, "dtype=float32: kernels for quantised"),
        ({"quantization_config": {"quant_method": "awq"}}, {"quantization": "gptq"}, "quantization=gptq: the weights in .* are awq"),
    ],
)
def test_number_formats_that_do_not_go_together_are_refused(folder: Path, config: dict, changes: dict, said: str) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    check(folder)
    with pytest.raises(ConfigError, match=said):
        check(folder, **changes)


def test_other_kernels_for_the_same_files_are_no_contradiction(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": {"quant_method": "awq"}}))
    check(folder, quantization="awq_marlin", gpus=1)
