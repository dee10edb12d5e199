"""How much of a bare DeepSpeed loop's speed is left in ours: `python -m tests.benchmarks.bench_training [--rounds 3] [--gpu]`.

On CPU the embedded model (SmolLM2-135M, bf16, ZeRO-2) on the built-in seeds; with --gpu a randomly initialised Qwen2 of 1.5 billion
parameters on one GPU, with sequences of many lengths, packed to 4,096 tokens a pass, at ZeRO-2 and then ZeRO-3. In one process of each
stage, taking turns, on the same batches:

    bare     deepspeed.initialize, and per step: forward with labels, backward, step; the tensors are made before
    ours     `Stepper.step`: the plan, its share, the tensors, loss at learned positions, guard, counts
    packed   ours, with batching=packed over the same steps' examples

The last line is JSON: `throughput_ratio` (ours over bare), `packed_ratio` (packed over bare), `packing_efficiency` (useful tokens over the
tokens that 8 ranks of the paper's student config would have time for, on the seeds' lengths), `by_length_efficiency` (the same, padded),
`tokens_per_s` (ours), `rows_ratio` (the loop's own CPU time for a step among 300,000 rows, over that among 3,000), and on a GPU whose peak is
known `mfu` (of packed, without the round that warms up). The figures of ZeRO-3 begin with `zero3_`. Other work on the machine spoils all but the efficiencies.
"""

import argparse
import json
import os
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from caco_ray.config import TrainingConfig
from caco_ray.embedded import embedded_model
from caco_ray.seeds.builtin import builtin_seeds
from caco_ray.training.base import load_tokenizer
from caco_ray.training.batches import packed_batch, padded_batch
from caco_ray.training.data import TokenFile, write_tokens
from caco_ray.training.engine import deepspeed_config, prepare_process
from caco_ray.training.examples import make_examples
from caco_ray.training.plan import StepPlan, make_share
from caco_ray.training.stepping import Stepper
from caco_ray.training.types import TrainingData, TrainLoopConfig

ROLES = ("sample", "reverse", "solve")
QWEN2_1B5 = {  # Qwen2.5-1.5B
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


def seed_rows() -> list[dict[str, Any]]:
    return [{**row, "row_id": row["source_id"]} for row in builtin_seeds("train")]


def settings(gpu: bool, **changes: Any) -> TrainingConfig:
    """What is timed."""
    small = {"batch_rows": 8, "micro_batch_rows": 8, "max_length": 1024, "cpus_per_worker": os.cpu_count() or 1}
    large = {"batch_rows": 128, "micro_batch_rows": 4, "max_length": 4096, "gpus_per_worker": 1, "activation_checkpointing": False}
    return TrainingConfig(roles=ROLES, epochs=1000, learning_rate=1e-5, **((large if gpu else small) | changes))


def random_qwen2(folder: Path, tokenizer: Any) -> Path:
    """A model folder with the shape of Qwen2.5-1.5B and random weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    Qwen2ForCausalLM(Qwen2Config(**QWEN2_1B5)).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def made_up_tokens(path: Path, rows: int, longest: int) -> Path:
    """Sequences of many lengths, half of each learned."""
    generator, batches = np.random.default_rng(0), []
    for start in range(0, rows, 1000):
        lengths = np.clip(generator.lognormal(np.log(longest / 8), 0.6, min(1000, rows - start)).astype(int), 16, longest)
        ids = pa.ListArray.from_arrays(np.r_[0, lengths.cumsum()], pa.array(generator.integers(0, 40_000, lengths.sum()), pa.int32()))
        learn = pa.ListArray.from_arrays(np.r_[0, lengths.cumsum()], pa.array(np.concatenate([np.arange(n) >= n // 2 for n in lengths])))
        columns = {
            "row_id": pa.array([str(start + row) for row in range(len(lengths))]),
            "source": pa.array(np.zeros(len(lengths)), pa.int16()),
            "heldout": pa.array(np.zeros(len(lengths), bool)),
            "input_ids": ids,
            "learn": learn,
            "learned": pa.array(lengths - lengths // 2, pa.int32()),
        }
        batches.append(pa.record_batch(columns))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path


class Bare:
    """The loop that anybody would write with DeepSpeed, on tensors made before."""

    def __init__(self, training: TrainingConfig, base: str, file: TokenFile, device: str) -> None:
        import deepspeed
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, local_files_only=True).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, fused=True)
        passes = training.batch_rows // training.micro_batch_rows
        config = {**deepspeed_config(training), "train_batch_size": training.batch_rows, "gradient_accumulation_steps": passes}
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
        self._file, self._device, self._passes = file, device, passes

    def batches(self, examples: np.ndarray) -> list[dict[str, torch.Tensor]]:
        """Padded tensors of one step, on the device."""
        return [self._tensors(part.tolist()) for part in np.array_split(examples, self._passes)]

    def _tensors(self, members: list[int]) -> dict[str, torch.Tensor]:
        batch = padded_batch(self._file, members, self._device)
        labels = torch.full_like(batch.inputs["input_ids"], -100)
        labels.view(-1)[batch.positions + 1] = batch.targets
        return {**batch.inputs, "labels": labels}

    def step(self, batches: list[dict[str, torch.Tensor]]) -> float:
        for batch in batches:
            loss = self._engine(**batch, use_cache=False).loss
            self._engine.backward(loss)
            self._engine.step()
        return float(loss.item())


def timed(options: argparse.Namespace, stage: int, base: Path, tokens: Path, folder: Path) -> dict[str, float]:
    """Seconds of each loop over the same steps, in turns."""
    training = settings(options.gpu, zero_stage=stage)
    file, device = TokenFile(str(tokens)), "cuda" if options.gpu else "cpu"
    prepare_process(device, training.cpus_per_worker)
    plan = StepPlan(file.lengths, training)
    ours = Stepper(TrainLoopConfig(training, str(base), str(tokens), str(folder)), file, plan, None)
    packing = settings(options.gpu, zero_stage=stage, batching="packed", micro_batch_rows=1)
    packed = Stepper(TrainLoopConfig(packing, str(base), str(tokens), str(folder)), file, plan, None)  # the plan of `ours`: the same examples in each step
    bare = Bare(training, str(base), file, device)
    spent = dict.fromkeys(("bare", "ours", "packed"), 0.0)
    for round_number in range(options.rounds + 1):
        if round_number == 1:
            packed.totals.flops = packed.totals.seconds = 0.0
        steps = range(round_number * options.steps, (round_number + 1) * options.steps)
        prepared = [bare.batches(plan[step]) for step in steps]
        for name in spent:
            started = time.perf_counter()
            for batches in prepared:
                if name == "bare":
                    bare.step(batches)
                else:
                    (ours if name == "ours" else packed).step()
            seconds = time.perf_counter() - started
            if round_number:  # the first round warms up
                spent[name] += seconds
            print(f"ZeRO-{stage}  round {round_number}  {name:<7} {seconds:6.2f} s", flush=True)
    tokens_timed = sum(int(file.lengths[plan[step]].sum()) for step in range(options.steps, (options.rounds + 1) * options.steps))
    figures = {"throughput_ratio": spent["bare"] / spent["ours"], "packed_ratio": spent["bare"] / spent["packed"]}
    return figures | {"tokens_per_s": tokens_timed / spent["ours"]} | ({"mfu": packed.mfu} if packed.mfu else {})


def efficiency(file: TokenFile, batching: str) -> float:
    """Of one epoch with the paper's student config on 8 ranks."""
    training = TrainingConfig(roles=ROLES, batching=batching, batch_rows=128, micro_batch_rows=8, max_length=4096, workers=8)
    plan = StepPlan(file.lengths, training)
    slots = sum(make_share(plan[step], file.lengths, training, 8, 0).slots for step in range(plan.steps_per_epoch))
    return float(file.lengths.sum()) / slots


def own_seconds(tokens: Path) -> float:
    """CPU time of a step without the model: shuffle (spread over the epoch), plan, share, tensors."""
    file, training = TokenFile(str(tokens)), settings(False, batching="packed", batch_rows=128)
    plan = StepPlan(file.lengths, training)
    started = time.process_time()
    plan[0]
    shuffle, steps = time.process_time() - started, min(100, plan.steps_per_epoch)
    started = time.process_time()
    for step in range(steps):
        for members in make_share(plan[step], file.lengths, training, 1, 0).passes:
            packed_batch(file, members, "cpu")
    return shuffle / plan.steps_per_epoch + (time.process_time() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="of each round and loop")
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    cached = embedded_model(Path(os.environ.get("CACO_RAY_CACHE", ".cache")).absolute() / "models")
    with tempfile.TemporaryDirectory() as name:
        folder, training = Path(name), settings(options.gpu)
        seeds, tokenizer = folder / "seeds.arrow", load_tokenizer(cached)
        write_tokens([TrainingData("seeds", seed_rows, make_examples(training))], tokenizer, training, seeds)
        tokens = made_up_tokens(folder / "long.arrow", 4000, 4096) if options.gpu else seeds
        base = random_qwen2(folder / "qwen2", tokenizer) if options.gpu else cached
        figures: dict[str, float] = {}
        for stage in (2, 3) if options.gpu else (2,):
            with get_context("spawn").Pool(1) as process:  # whose end gives all memory back
                measured = process.apply(timed, (options, stage, base, tokens, folder))
            figures |= {key if stage == 2 else f"zero{stage}_{key}": value for key, value in measured.items()}
        for batching, key in (("packed", "packing_efficiency"), ("by_length", "by_length_efficiency")):
            figures[key] = efficiency(TokenFile(str(seeds)), batching)
        few, many = (own_seconds(made_up_tokens(folder / f"{rows}.arrow", rows, 1024)) for rows in (3_000, 300_000))
        figures["rows_ratio"] = many / few
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
