"""A tiny Llama (head size 32, tied embeddings) with a tokenizer of its own, and a way to run the loop on several real ranks."""

import json
import multiprocessing
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caco_ray.config import TrainingConfig
from caco_ray.prompts import training_examples
from caco_ray.schema import Row
from caco_ray.training.base import load_tokenizer
from caco_ray.training.data import write_tokens
from caco_ray.training.examples import make_examples
from caco_ray.training.types import TrainingData, TrainLoopConfig
from tests.unit.training.rank import run_rank

ROLES = ("sample", "reverse", "solve")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
RANKS = multiprocessing.get_context("forkserver")  # imports torch and DeepSpeed once: a rank starts in milliseconds
RANKS.set_forkserver_preload(
    ["caco_ray.training.loop", "deepspeed.runtime.zero.muon.muon_optimizer", "transformers.models.llama.modeling_llama", "tensorboardX"]
)


def make_rows(count: int = 24) -> list[Row]:
    def row(i: int) -> Row:
        code = f"input = {{'a': {i}, 'b': {i + 2}}}\noutput = input['a'] * input['b']" + "\nprint(output)" * (1 + i % 3)
        return {
            "row_id": f"row-{i}",
            "question": f"What is {i} times {i + 2}?",
            "cot": f"It is {i * (i + 2)}.",
            "code": code,
            "answer": str(i * (i + 2)),
        }

    return [row(i) for i in range(count)]


def examples(row: Row) -> list[Any]:
    return training_examples(row, ROLES)


def made_up(rows: list[Row] | None = None, **changes: Any) -> TrainingData:
    training = settings(**changes)
    return TrainingData("made_up", lambda: make_rows() if rows is None else rows, make_examples(training), roles=training.roles)


def settings(**changes: Any) -> TrainingConfig:
    values = {
        "roles": ROLES,
        "epochs": 2,
        "learning_rate": 3e-3,
        "warmup_fraction": 0.1,
        "batch_rows": 8,
        "micro_batch_rows": 4,
        "max_length": 256,
        "dtype": "float32",
        "workers": 1,
        "min_steps": 1,
    }
    return TrainingConfig(**(values | changes))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [segment.text for row in make_rows() for sequence in examples(row) for segment in sequence]
    raw.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), head_dim=32, tie_word_embeddings=True, eos_token_id=0, **shape))
    folder = tmp_path_factory.mktemp("base") / "tiny-llama"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def markerless(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base` with a tokenizer that knows no turn markers and puts a BOS token first, as those of Llama 3 and DeepSeekMath."""
    folder = Path(shutil.copytree(base, tmp_path_factory.mktemp("markerless") / "tiny-llama"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if "im_" not in token["content"]]
    bos = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    special = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
    parts = {"single": [bos, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}]}
    tokenizer["post_processor"] = {"type": "TemplateProcessing", "special_tokens": special, **parts}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}))
    return folder


@pytest.fixture(scope="session")
def other_end(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base` whose own end is not that of our turns, which its vocabulary has all the same, as bases of Qwen2.5."""
    folder = Path(shutil.copytree(base, tmp_path_factory.mktemp("other_end") / "tiny-llama"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<|endoftext|>"}))
    return folder


@pytest.fixture(scope="session")
def smollm2(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers with the shapes of SmolLM2-135M, and the tokenizer of `base`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64}
    folder = Path(shutil.copytree(base, tmp_path_factory.mktemp("smollm2") / "smollm2"))
    torch.manual_seed(0)
    config = LlamaConfig(**shape, num_hidden_layers=2, vocab_size=49152, tie_word_embeddings=True, eos_token_id=0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokens(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.arrow"
    write_tokens([made_up()], load_tokenizer(base), settings(), path)
    return path


@pytest.fixture(scope="session")
def loop_config(base: Path, tokens: Path) -> Callable[..., TrainLoopConfig]:
    def make(output_dir: Path, **changes: Any) -> TrainLoopConfig:
        return TrainLoopConfig(settings(**changes), str(base), str(tokens), str(output_dir))

    return make


def run_ranks(configs: list[TrainLoopConfig], folder: Path, die_at_step: int = 0) -> list[int | None]:
    """Train the configs one after another on `workers` real processes; returns their exit codes.

    With `die_at_step` the last rank is killed while it writes the checkpoint of that step of the last config.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = configs[0].training.workers
    processes = [
        RANKS.Process(target=run_rank, args=(configs, rank, ranks, port, folder / f"rank-{rank}.log", die_at_step)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
    return [process.exitcode for process in processes]
