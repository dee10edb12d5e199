"""What is vLLM's own: its processes, its arguments, its failures, and `vllm serve` behind the endpoint engine."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from caco_ray.config import OpenAiModel, SamplingConfig, VllmModel
from caco_ray.engines import Engine, build_engine, vllm_names
from caco_ray.engines.base import sample_seed
from caco_ray.engines.endpoint import check_endpoint
from caco_ray.engines.vllm_sampling import _STOP_TOKENS, _TABLES, sampling_params
from caco_ray.engines.vllm_settings import engine_arguments, environ, environment
from caco_ray.errors import ClusterError, ConfigError, EngineError, ModelError

SmallVllm = Callable[..., VllmModel]
GREEDY = SamplingConfig(temperature=0, max_tokens=8)
DEADLINE_S = 120


def test_a_stop_string_that_is_a_special_token_stops_too(vllm_engine: Engine) -> None:
    tokenizer = vllm_engine._tokenizer  # type: ignore[attr-defined]
    params = sampling_params(SamplingConfig(temperature=0, stop=("<|im_end|>", "END")), tokenizer)
    assert (params.stop, params.stop_token_ids) == (["END"], [2])


def test_a_special_token_that_no_map_names_stops_too() -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed here")
    from tokenizers import AddedToken, Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    inner.add_special_tokens([AddedToken("<|eot|>", special=True), AddedToken("<|end|>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")
    params = sampling_params(SamplingConfig(temperature=0, stop=("<|eot|>", "END"), extra={"stop_token_ids": [0]}), tokenizer)
    assert (params.stop, params.stop_token_ids) == (["END"], [2, 0])


def test_says_what_stopped_a_reply(vllm_engine: Engine) -> None:
    """A number of the list, and the same number's token."""
    prompt = "1, 2, 3, 4, 5,"
    ((whole,),) = vllm_engine.generate([prompt], GREEDY)
    ((cut,),) = vllm_engine.generate([prompt], GREEDY.model_copy(update={"stop": ("7",)}))
    ids = vllm_engine._tokenizer.convert_tokens_to_ids(["7"])  # type: ignore[attr-defined]
    ((at_token,),) = vllm_engine.generate([prompt], GREEDY.model_copy(update={"extra": {"stop_token_ids": ids}}))
    assert (whole.finish_reason, whole.stop_reason) == ("length", None)
    assert (cut.finish_reason, cut.stop_reason, at_token.finish_reason, at_token.stop_reason) == ("stop", "7", "stop", "7")


def test_a_reply_that_goes_round_in_circles_is_cut_off_and_not_the_engine_s_failure(vllm_engine: Engine) -> None:
    """One token is allowed, so that it can write nothing else."""
    word = vllm_engine._tokenizer.encode(" no", add_special_tokens=False)  # type: ignore[attr-defined]
    extra = {"allowed_token_ids": word, "repetition_detection": {"max_pattern_size": 2, "min_pattern_size": 1, "min_count": 4}}
    ((reply,),) = vllm_engine.generate(["Say no"], SamplingConfig(temperature=0, max_tokens=100, extra=extra))
    assert (reply.text, reply.finish_reason, reply.stop_reason, reply.error) == (" no no no no", "length", "repetition", None)


def test_calls_that_wait_when_the_engine_is_closed_end(smollm2: Path, small_vllm: SmallVllm) -> None:
    """Some in the batch, some inside vLLM without a place in it, some before it."""
    engine = build_engine(small_vllm(max_num_seqs=2), path=str(smollm2), seed=0)
    long = SamplingConfig(temperature=1, max_tokens=200, min_tokens=200)
    with ThreadPoolExecutor(4) as pool:
        try:
            calls = [pool.submit(engine.generate, ["Once upon a time"] * 4, long) for _ in range(4)]
            deadline = time.monotonic() + DEADLINE_S
            while engine.stats().running < 2 or engine.stats().waiting < 4:
                assert time.monotonic() < deadline and not any(call.done() for call in calls)
                time.sleep(0.01)
        finally:
            engine.close()
        for call in calls:
            with pytest.raises(EngineError, match="the engine (was|is) closed"):
                call.result(timeout=DEADLINE_S)
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.generate(["x"], GREEDY)


def test_the_chat_template_reads_its_values(vllm_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{{ messages[-1].content }}{% if enable_thinking is defined and not enable_thinking %} briefly{% endif %}"
    tokenizer, model = vllm_engine._tokenizer, vllm_engine._model  # type: ignore[attr-defined]
    for values, text in (({}, "Think"), ({"enable_thinking": False}, "Think briefly")):
        kwargs = {"chat_template": template, **values}
        monkeypatch.setattr(vllm_engine, "_model", model.model_copy(update={"chat_template_kwargs": kwargs}))
        assert tokenizer.decode(vllm_engine._token_ids([{"role": "user", "content": "Think"}])) == text  # type: ignore[attr-defined]


def test_running_are_those_in_the_batch(vllm_engine: Engine) -> None:
    """Eight places in the batch, and as many requests again inside vLLM."""
    seen: list[tuple[int, int]] = []
    long = SamplingConfig(temperature=1, max_tokens=100, min_tokens=100)
    with ThreadPoolExecutor() as pool:
        work = pool.submit(vllm_engine.generate, ["Once upon a time"] * 40, long)
        while not work.done():
            stats = vllm_engine.stats()
            seen.append((stats.running, stats.running + stats.waiting))
            time.sleep(0.01)
    assert max(running for running, _ in seen) == 8 and max(whole for _, whole in seen) > 16
    assert (vllm_engine.stats().running, vllm_engine.stats().waiting) == (0, 0)


def test_special_tokens_that_a_row_spells_stay_text(vllm_engine: Engine) -> None:
    ids = vllm_engine._token_ids("<|im_start|>question\nSay <|endoftext|><|im_end|>")  # type: ignore[attr-defined]
    tokenizer = vllm_engine._tokenizer  # type: ignore[attr-defined]
    assert [tokenizer.decode([token]) for token in ids if token in tokenizer.added_tokens_decoder] == ["<|im_start|>", "<|im_end|>"]
    assert tokenizer.decode(ids) == "<|im_start|>question\nSay <|endoftext|><|im_end|>"


def test_sampling_values_are_checked_against_vllm(vllm_engine: Engine) -> None:
    tokenizer = vllm_engine._tokenizer  # type: ignore[attr-defined]
    params = sampling_params(SamplingConfig(temperature=1, repetition_penalty=1.1, extra={"bad_words": ["x"]}), tokenizer)
    assert (params.repetition_penalty, params.bad_words) == (1.1, ["x"])
    for extra, said in (
        ({"bad_wrds": ["x"]}, "extra.bad_wrds: .* did you mean bad_words"),
        ({"top_p": 0.5}, "extra.top_p: set by a key of its own"),
        ({"n": 2}, "extra.n: set by a key"),
        ({"logprobs": -5}, "vLLM refuses it"),
        ({"ignore_eos": 1}, "extra.ignore_eos=1: vLLM refuses it: Expected `bool`, got `int`"),
        ({"logprobs": 1.0}, "extra.logprobs=1.0: vLLM refuses it: Expected `int"),
        ({"skip_special_tokens": "false"}, "extra.skip_special_tokens='false': vLLM refuses it"),
        ({"structured_outputs": {"regex": 1}}, "vLLM refuses it: Expected `str"),
    ):
        with pytest.raises(ConfigError, match=said):
            sampling_params(SamplingConfig(temperature=1, extra=extra), tokenizer)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"extra": {"allowed_token_ids": list(range(1025))}}, "sampling.extra.allowed_token_ids: 1025 tokens; .* room for 1024"),
        ({"extra": {"logit_bias": dict.fromkeys(range(1025), 1.0)}}, "sampling.extra.logit_bias: 1025 tokens; .* room for 1024"),
        ({"min_tokens": 1, "extra": {"stop_token_ids": list(range(100, 228))}}, "sampling.min_tokens: with 129 tokens that end a reply"),
    ],
)
def test_what_is_too_long_for_the_tables_of_gpus_is_refused(vllm_engine: Engine, values: dict[str, Any], said: str) -> None:
    tokenizer = vllm_engine._tokenizer  # type: ignore[attr-defined]
    sampling = SamplingConfig(temperature=1, **values)
    sampling_params(sampling, tokenizer)  # on CPU
    with pytest.raises(ConfigError, match=said):
        sampling_params(sampling, tokenizer, gpus=1)


def test_tables_of_gpus_are_as_long_as_vllm_has_them() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or not found.origin:
        pytest.skip("vLLM is not installed here")
    source = (Path(found.origin).parent / "v1/worker/gpu/sample/logit_bias.py").read_text()
    sizes = {name: int(size) for name, size in re.findall(r"^MAX_NUM_(\w+) = (\d+)$", source, re.MULTILINE)}
    ours = {"ALLOWED_TOKEN_IDS": _TABLES["allowed_token_ids"], "LOGIT_BIAS_TOKENS": _TABLES["logit_bias"], "STOP_TOKEN_IDS": _STOP_TOKENS}
    assert sizes == ours


def test_a_nested_sampling_value_is_what_it_stands_for(vllm_engine: Engine) -> None:
    digits = GREEDY.model_copy(update={"extra": {"structured_outputs": {"regex": "[0-9]{3}"}}})
    ((reply,),) = vllm_engine.generate(["The capital of France is"], digits)
    assert re.fullmatch("[0-9]{3}", reply.text), reply


def test_on_gpu_each_sample_has_a_seed_of_its_own(vllm_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    params = sampling_params(SamplingConfig(temperature=1), vllm_engine._tokenizer)  # type: ignore[attr-defined]
    seeded = vllm_engine._seeded  # type: ignore[attr-defined]
    assert seeded(params, 7, 0).seed is None  # on CPU
    model = vllm_engine._model.model_copy(update={"gpus": 1})  # type: ignore[attr-defined]
    monkeypatch.setattr(vllm_engine, "_model", model)
    seeds = [seeded(params, seed, index).seed for seed in (7, 8) for index in range(3)]
    assert seeds == [sample_seed(seed, index) for seed in (7, 8) for index in range(3)] and len(set(seeds)) == 6
    assert params.seed is None and seeded(params, None, 0).seed is None


def test_a_shared_prompt_is_read_from_the_prefix_cache(vllm_engine: Engine) -> None:
    before = vllm_engine.stats()
    vllm_engine.generate(["word " * 200] * 4, GREEDY)
    vllm_engine.generate(["word " * 200] * 4, GREEDY)
    after = vllm_engine.stats()
    assert after.cache_queries > before.cache_queries
    assert 0 < after.cache_hits - before.cache_hits <= after.cache_queries - before.cache_queries


def test_a_prompt_longer_than_a_step_is_read_in_chunks(vllm_engine: Engine) -> None:
    scheduler = vllm_engine._llm.vllm_config.scheduler_config  # type: ignore[attr-defined]
    assert scheduler.enable_chunked_prefill and scheduler.max_num_batched_tokens == 128
    ((reply,),) = vllm_engine.generate(["The capital of France is Paris. " * 25 + "The capital of France is"], GREEDY)
    assert reply.n_prompt_tokens > 128 and "Paris" in reply.text


def test_two_ranks_compute_what_one_does(smollm2: Path, small_vllm: SmallVllm, tmp_path: Path) -> None:
    """A small model with random weights, split over two processes; transformers says what it should write."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    reference = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, initializer_range=0.2, **sizes)).eval()
    reference.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer("Once upon a time there was a small model with random weights.").input_ids
    written = reference.generate(torch.tensor([ids]), max_new_tokens=8, min_new_tokens=8, do_sample=False)[0, len(ids) :]
    model = small_vllm(path=str(tmp_path), tensor_parallel=2, dtype="float32", prompts="trained")
    engine = build_engine(model, path=str(tmp_path), seed=0)
    try:
        ((reply,),) = engine.generate([ids], GREEDY.model_copy(update={"min_tokens": 8}))
    finally:
        engine.close()
    assert reply.text == tokenizer.decode(written)


def test_an_adapter_changes_what_is_written(smollm2: Path, small_vllm: SmallVllm, vllm_engine: Engine, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    sizes = json.loads((smollm2 / "config.json").read_text())
    heads, width = sizes["num_attention_heads"], sizes["hidden_size"]
    torch.manual_seed(0)
    name = "base_model.model.model.layers.0.self_attn.o_proj"
    weights = {f"{name}.lora_A.weight": torch.randn(4, width), f"{name}.lora_B.weight": torch.randn(width, 4)}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    config = {"r": 4, "lora_alpha": 4 * heads, "target_modules": ["o_proj"], "peft_type": "LORA", "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    engine = build_engine(small_vllm(lora=str(tmp_path)), path=str(smollm2), seed=0)
    try:
        assert engine.model_id.startswith(f"{vllm_engine.model_id}+{tmp_path.name}@")
        prompt = ["The capital of France is"]
        assert engine.generate(prompt, GREEDY)[0][0].text != vllm_engine.generate(prompt, GREEDY)[0][0].text
    finally:
        engine.close()


def test_an_adapter_of_another_model_is_refused_before_the_first_request(smollm2: Path, small_vllm: SmallVllm, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    name = "base_model.model.model.layers.0.self_attn.o_proj"
    save_file(
        {f"{name}.lora_A.weight": torch.zeros(4, 64), f"{name}.lora_B.weight": torch.zeros(64, 4)}, tmp_path / "adapter_model.safetensors"
    )
    config = {"r": 4, "lora_alpha": 4, "target_modules": ["o_proj"], "peft_type": "LORA", "init_lora_weights": "pissa"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"^{tmp_path}: vLLM cannot serve this adapter of embedded: .*pissa") as caught:
        build_engine(small_vllm(lora=str(tmp_path)), path=str(smollm2), seed=0)
    assert "\n" not in str(caught.value)


def test_refuses_arguments_that_vllm_does_not_know(smollm2: Path, small_vllm: SmallVllm) -> None:
    with pytest.raises(ConfigError, match="vllm_args.enforce_eagr: .* did you mean enforce_eager"):
        build_engine(small_vllm(vllm_args={"enforce_eagr": True}), path=str(smollm2), seed=0)
    with pytest.raises(ConfigError, match="vllm_args.max_model_len: set by the model's own keys"):
        build_engine(small_vllm(vllm_args={"max_model_len": 7}), path=str(smollm2), seed=0)


def test_gpus_belong_to_the_gpu_wheel(smollm2: Path, small_vllm: SmallVllm) -> None:
    from vllm.platforms import current_platform

    gpus = 1 if current_platform.is_cpu() else 0
    with pytest.raises(ConfigError, match=f"gpus={gpus}: the vLLM on this node is the [CG]PU wheel; give gpus="):
        build_engine(small_vllm(gpus=gpus), path=str(smollm2), seed=0)


def test_names_are_those_of_vllm_itself(vllm_engine: Engine) -> None:
    """They are read from its sources; here it is imported too."""
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    assert vllm_names.engine_arguments() == set(AsyncEngineArgs.__dataclass_fields__)
    assert vllm_names.sampling_fields() == set(SamplingParams.__struct_fields__)
    assert vllm_names.quantization_methods() == set(QUANTIZATION_METHODS)


def test_a_model_that_vllm_cannot_load_is_named_with_the_cause(
    smollm2: Path, small_vllm: SmallVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = shutil.copytree(smollm2, tmp_path / "broken")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"broken: vLLM cannot load it: .*[Ss]afetensor") as caught:
        build_engine(small_vllm(), path=str(folder), seed=0)
    assert "\n" not in str(caught.value)


def test_no_two_engines_on_cpu_sample_the_same(smollm2: Path, small_vllm: SmallVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    monkeypatch.setattr("caco_ray.engines.vllm.VllmEngine._load", lambda self, arguments, folder: started.append(arguments["seed"]))
    for gpus in (0, 0, 1, 1):
        with pytest.raises(AttributeError, match="get_tokenizer"):  # nothing was loaded
            build_engine(small_vllm(gpus=gpus), path=str(smollm2), seed=5)
    assert len(set(started[:2])) == 2 and started[2:] == [5, 5]  # on GPU each request has a seed of its own


def test_the_recorded_seed_is_the_one_that_vllm_draws_from(vllm_engine: Engine) -> None:
    assert vllm_engine.seed_used(3) == vllm_engine._llm.vllm_config.model_config.seed != 0  # type: ignore[attr-defined]


def test_arguments_follow_the_configuration(small_vllm: SmallVllm) -> None:
    cpu = engine_arguments(small_vllm(kv_cache_gb=2), "/models/m", seed=5)
    assert (cpu["kv_cache_memory_bytes"], cpu["seed"], cpu["max_model_len"]) == (2 << 30, 5, 256)
    assert "distributed_executor_backend" not in cpu
    gpu = engine_arguments(small_vllm(gpus=4, tensor_parallel=4, vllm_args={"enable_prefix_caching": False}), "/models/m", seed=5)
    assert (gpu["gpu_memory_utilization"], gpu["distributed_executor_backend"]) == (0.9, "mp")
    assert gpu["enable_prefix_caching"] is False and "kv_cache_memory_bytes" not in gpu


def test_a_folder_in_mistral_s_layout_too_keeps_its_own_tokenizer(smollm2: Path, small_vllm: SmallVllm, tmp_path: Path) -> None:
    from vllm.tokenizers.registry import resolve_tokenizer_args

    def chosen(**changes: object) -> str:
        mode = engine_arguments(small_vllm(**changes), str(tmp_path), seed=5).get("tokenizer_mode", "auto")
        return str(resolve_tokenizer_args(str(tmp_path), tokenizer_mode=mode)[0])

    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(smollm2 / name, tmp_path)
    assert "tokenizer_mode" not in engine_arguments(small_vllm(), str(tmp_path), seed=5)  # vLLM's to choose
    for name in ("consolidated.safetensors", "tekken.json"):
        (tmp_path / name).touch()
    assert resolve_tokenizer_args(str(tmp_path))[0] == "mistral"  # what it does by itself
    assert chosen() == "hf" and chosen(vllm_args={"tokenizer_mode": "mistral"}) == "mistral"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    assert chosen() == "mistral"


def test_memory_that_another_process_holds_may_come_back(vllm_engine: Engine, smollm2: Path) -> None:
    said = "Free memory on device cuda:0 (20.1/79.6 GiB) on startup is less than desired GPU memory utilization (0.9, 71.7 GiB)."
    error = vllm_engine._load_error(ValueError(said), smollm2)  # type: ignore[attr-defined]
    assert isinstance(error, ClusterError) and said in str(error) and "It takes: weights" in str(error)
    assert isinstance(vllm_engine._load_error(ValueError("No such layer"), smollm2), ModelError)  # type: ignore[attr-defined]


def test_threads_are_those_that_the_process_may_use(small_vllm: SmallVllm, tmp_path: Path) -> None:
    mine = len(os.sched_getaffinity(0))
    assert environment(small_vllm(cpu_threads="all"), tmp_path)["OMP_NUM_THREADS"] == str(mine)
    assert environment(small_vllm(cpu_threads=1), tmp_path)["OMP_NUM_THREADS"] == "1"
    assert environment(small_vllm(cpu_threads=1000), tmp_path)["OMP_NUM_THREADS"] == str(mine)
    assert "OMP_NUM_THREADS" not in environment(small_vllm(gpus=1), tmp_path)


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACO_A", "1")
    monkeypatch.delenv("CACO_B", raising=False)
    with environ({"CACO_A": "2", "CACO_B": "3"}):
        assert (os.environ["CACO_A"], os.environ["CACO_B"]) == ("2", "3")
    assert os.environ["CACO_A"] == "1" and "CACO_B" not in os.environ


# A process of its own with an engine. It reports vLLM's processes, kills the engine core under a running call, and closes; on "stay" it
# waits with a working engine instead; on "freeze" the core stops without dying, on "freeze at load" while it starts.
OWNER = """
import json, multiprocessing, os, signal, sys, threading, time
from caco_ray.config import SamplingConfig, VllmModel
from caco_ray.engines import build_engine
from caco_ray.errors import EngineError

if __name__ == "__main__":
    path, what = sys.argv[1:]
    limits = {"stall_timeout_s": 2 if what == "freeze" else 600, "load_timeout_s": 8 if what == "freeze at load" else 600}
    model = VllmModel(path="embedded", max_model_len=256, max_num_seqs=8, enforce_eager=True, **limits)
    if what.endswith("at load"):
        def signal_first_child():
            while not (children := multiprocessing.active_children()):
                time.sleep(0.05)
            os.kill(children[0].pid, signal.SIGSTOP if what == "freeze at load" else signal.SIGKILL)

        threading.Thread(target=signal_first_child, daemon=True).start()
        try:
            build_engine(model, path=path, seed=0)
        except EngineError as error:
            print(json.dumps({"said": str(error), "left": [child.pid for child in multiprocessing.active_children()]}), flush=True)
        sys.exit()
    engine = build_engine(model, path=path, seed=0)
    cores = [child.pid for child in multiprocessing.active_children()]
    print(json.dumps({"cores": cores}), flush=True)
    if what == "stay":
        time.sleep(600)
    if what == "freeze":
        engine.generate(["Once upon a time"], SamplingConfig(temperature=1, max_tokens=2))
    threading.Timer(0.5, os.kill, (cores[0], signal.SIGSTOP if what == "freeze" else signal.SIGKILL)).start()
    try:
        engine.generate(["Once upon a time"] * 64, SamplingConfig(temperature=1, max_tokens=200, min_tokens=200))
        said = None
    except EngineError as error:
        said = str(error)
    engine.close()
    print(json.dumps({"said": said, "left": [child.pid for child in multiprocessing.active_children()]}), flush=True)
"""


def _owner(path: Path, what: str, tmp_path: Path) -> subprocess.Popen[str]:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    root = Path(__file__).resolve().parents[3]
    return subprocess.Popen(
        [sys.executable, str(script), str(path), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(tmp_path)},
    )


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_dead_engine_is_an_engine_error_and_closes_without_noise(smollm2: Path, tmp_path: Path) -> None:
    owner = _owner(smollm2, "kill the core", tmp_path)
    out, err = owner.communicate(timeout=DEADLINE_S)
    first, last = (json.loads(line) for line in out.splitlines() if line.startswith("{"))
    assert owner.returncode == 0 and len(first["cores"]) == 1
    assert last["said"].startswith("embedded: vLLM died") and last["left"] == []
    log = Path(last["said"].rsplit("(log: ", 1)[1].removesuffix(")"))
    assert log.is_file()
    assert "EngineDeadError" not in err and "Traceback" not in err and "leaked" not in err
    assert not [line for line in (out + err).splitlines() if "INFO" in line or "ERROR" in line]


def test_an_engine_that_hangs_is_an_engine_error_and_is_ended(smollm2: Path, tmp_path: Path) -> None:
    owner = _owner(smollm2, "freeze", tmp_path)
    out, err = owner.communicate(timeout=DEADLINE_S)
    first, last = (json.loads(line) for line in out.splitlines() if line.startswith("{"))
    assert owner.returncode == 0, err
    assert last["said"].startswith("embedded: vLLM hangs: made no step for") and last["left"] == []
    assert not _is_alive(first["cores"][0])


def test_a_load_that_hangs_is_an_engine_error_and_is_ended(smollm2: Path, tmp_path: Path) -> None:
    owner = _owner(smollm2, "freeze at load", tmp_path)
    out, err = owner.communicate(timeout=DEADLINE_S)
    assert owner.returncode == 0, err
    (last,) = (json.loads(line) for line in out.splitlines() if line.startswith("{"))
    assert re.search(r"vLLM had not loaded it after 8 s \(load_timeout_s\) and was ended \(log: .*vllm\.log\)$", last["said"])
    assert last["left"] == [] and "Traceback" not in err


def test_a_core_that_is_killed_while_it_starts_is_an_engine_error(smollm2: Path, tmp_path: Path) -> None:
    """What the kernel does to a process that takes too much memory: the numbers are said, and another try may go well."""
    owner = _owner(smollm2, "die at load", tmp_path)
    out, err = owner.communicate(timeout=DEADLINE_S)
    assert owner.returncode == 0, err
    (last,) = (json.loads(line) for line in out.splitlines() if line.startswith("{"))
    assert re.search("vLLM was killed( by signal 9)? while it started: .* GiB of memory are free", last["said"])


def test_vllm_dies_with_a_killed_owner(smollm2: Path, tmp_path: Path) -> None:
    owner = _owner(smollm2, "stay", tmp_path)
    assert owner.stdout is not None
    (core,) = json.loads(next(line for line in owner.stdout if line.startswith("{")))["cores"]
    assert _is_alive(core)
    owner.kill()
    owner.communicate()
    deadline = time.monotonic() + DEADLINE_S
    while _is_alive(core) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(core)


@pytest.fixture
def vllm_server(smollm2: Path, small_vllm: SmallVllm, tmp_path: Path) -> Iterator[str]:
    """vLLM's own server with the embedded model: what `vllm serve` starts. (That command itself looks for a package named vllm, which
    the CPU wheel is not.)"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(smollm2), "--served-model-name", "smollm2"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "256", "--max-num-seqs", "8", "--enforce-eager"]
    command += ["--max-num-batched-tokens", "128"]
    command += ["--dtype", "bfloat16", "--kv-cache-memory-bytes", str(1 << 30), "--disable-uvicorn-access-log"]
    log = (tmp_path / "serve.log").open("w")
    server = subprocess.Popen(
        command, stdout=log, stderr=log, env={**os.environ, **environment(small_vllm(), tmp_path)}, start_new_session=True
    )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "serve.log").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()
        log.close()


def test_the_endpoint_engine_speaks_to_a_real_server(vllm_server: str, vllm_engine: Engine) -> None:
    engine = build_engine(OpenAiModel(base_url=vllm_server, model="smollm2", max_retries=1), path=None, seed=0)
    prompts = ["The capital of France is", [{"role": "user", "content": "What is 2+2?"}], [1, 2, 3], "word " * 400]
    remote, local = engine.generate(prompts, GREEDY, n=2), vllm_engine.generate(prompts, GREEDY, n=2)
    assert [[reply.finish_reason for reply in row] for row in remote] == [[reply.finish_reason for reply in row] for row in local]
    assert [row[0].n_prompt_tokens for row in remote[:3]] == [row[0].n_prompt_tokens for row in local[:3]]
    assert [row[0].n_tokens for row in remote] == [row[0].n_tokens for row in local]
    assert "Paris" in remote[0][0].text and "Paris" in local[0][0].text
    sampled = SamplingConfig(temperature=0.9, max_tokens=4)
    unseeded = build_engine(OpenAiModel(base_url=vllm_server, model="smollm2", max_retries=1, send_seeds=False), path=None, seed=0)
    rows = unseeded.generate(["word " * 200, "Once upon a time"], sampled, seeds=[3, 4])  # a seed and a prompt in chunks end a server on CPU
    unseeded.close()
    assert all(row[0].n_tokens >= 1 and row[0].error is None for row in rows)
    with pytest.raises(ModelError, match=r"refuses max_tokens, whatever the row: .*max_tokens=300 cannot be greater than max_model_len=256"):
        engine.generate(["x"], GREEDY.model_copy(update={"max_tokens": 300}))
    with pytest.raises(ModelError, match="smollm2 at http.*: serves a context of 256 tokens; give max_model_len=256, not 4096"):
        check_endpoint(OpenAiModel(base_url=vllm_server, model="smollm2"))
    with pytest.raises(ModelError, match="does not know this model"):
        build_engine(OpenAiModel(base_url=vllm_server, model="other"), path=None, seed=0).generate(["x"], GREEDY)
    engine.close()
