"""A tiny Llama (head size 32, tied embeddings) with a tokenizer of its own, and a way to run the loop on several real ranks."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from caco_ray.config import TrainingConfig
from caco_ray.prompts import training_examples
from caco_ray.schema import Row
from caco_ray.training.base import load_tokenizer
from caco_ray.training.data import write_tokens
from caco_ray.training.types import TrainLoopConfig

ROLES = ("sample", "reverse", "solve")
WORKER = Path(__file__).with_name("rank.py")


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
        tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"
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
def tokens(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.arrow"
    write_tokens(make_rows, examples, load_tokenizer(base), 256, path)
    return path


@pytest.fixture(scope="session")
def loop_config(base: Path, tokens: Path) -> Callable[..., TrainLoopConfig]:
    def make(output_dir: Path, **changes: Any) -> TrainLoopConfig:
        return TrainLoopConfig(settings(**changes), str(base), str(tokens), str(output_dir))

    return make


def run_ranks(configs: list[TrainLoopConfig], folder: Path, **options: Any) -> list[int]:
    """Run the configs one after another on `workers` real processes; returns their exit codes."""
    ranks = configs[0].training.workers
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps([{**asdict(config), "training": config.training.model_dump()} for config in configs]))
    processes = []
    for rank in range(ranks):
        places = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": ranks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": 1,
        }
        environment = {**os.environ, **{key: str(value) for key, value in places.items()}, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(WORKER), str(jobs), json.dumps(options)]
        processes.append(subprocess.Popen(command, env=environment, stderr=(folder / f"rank-{rank}.log").open("w")))
    return [process.wait(timeout=240) for process in processes]
