"""How much of raw vLLM's speed is left when a stage runs it: `python -m tests.benchmarks.bench_generation [--rows 256] [--tokens 32] [--turns 3] [--cpu-threads 1]`.

The same prompts, lengths and engine settings, one after the other in one run, with the embedded model on CPU. The prompts are those of
the back-translator for the built-in programs, some 100 tokens each. In each turn:

    raw         AsyncLLM alone, all requests at once; before and after each turn, so that a machine that slows down does not decide: the mean counts
    stage       the product: Ray Data, `Generate`, commit layer; from the moment its engine is ready to the last commit
    skewed      both again, where each tenth row is ten times longer
    ray_llm     `ray.data.llm.build_processor`, plain lengths; when its engine is ready does not show, so both are timed as a whole (but for the
                stage's warm requests, which ray_llm does not make)

The engine computes on `--cpu-threads` cores (1, as a model's default is; or `all`). With `all` it has no device of its own: what Ray's dozen
processes use, some 7% of two cores, is missing to it, and so is whatever disturbs one of its threads.

The last line is JSON: `goodput_ratio`, `skewed_goodput_ratio` (stage over raw), `ray_data_llm_ratio` (stage over ray_llm, each with its
start-up), `startup_s` (of the stage's engine), `tokens_per_s` (of the stage): each the median of its turns. Other work on the machine
spoils all of them.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from caco_ray.cluster.session import connected
from caco_ray.config import ClusterConfig, SamplingConfig, VllmModel
from caco_ray.embedded import embedded_model
from caco_ray.engines.vllm import VllmEngine
from caco_ray.engines.vllm_settings import engine_arguments, environ, environment
from caco_ray.operators import shards_in_flight
from caco_ray.prompts import render
from caco_ray.schema import PROBLEM, Row, to_table
from caco_ray.seeds.builtin import builtin_seeds
from caco_ray.source import SampleRange, ShardInput
from caco_ray.stage import Operator, Stage, run_stage
from caco_ray.stages.generate import Generate, row_seed
from caco_ray.store import Dataset, Folder, StageInfo

MODEL = VllmModel(path="embedded", prompts="trained", max_model_len=1024, max_num_seqs=64, enforce_eager=True)
SHARD_ROWS, SKEW = 32, 10
WARM, WARM_PROMPT = 8, "Once upon a time"  # requests before the clock starts, of either side


@dataclass(frozen=True)
class Work:
    """`rows` prompts of `tokens` new tokens each, for a model that lies in the folder `path`."""

    model: VllmModel
    path: str
    rows: int
    tokens: int


@dataclass(frozen=True)
class Turn:
    """Tokens per second: of the stage (plain, skewed, plain with start-up) and of ray.data.llm with start-up; seconds of the stage's engine."""

    speed: float
    skewed: float
    whole: float
    startup_s: float
    ray_llm: float


class Programs(SampleRange):
    """Rows that have a program each."""

    def read(self, shard: int) -> ShardInput:
        given, codes = super().read(shard), [seed["code"] for seed in builtin_seeds("train")]
        rows = [{**row, "code": codes[row["sample_index"] % len(codes)]} for row in given.table.to_pylist()]
        return ShardInput(to_table(rows, self.schema), given.rows_in)


class LongTenth(VllmEngine):
    """Makes the rows whose seed divides by ten `SKEW` times longer."""

    def _seeded(self, params: Any, seed: int | None, index: int) -> Any:
        return _length(params.clone(), seed or 0)


class TimedGenerate(Generate):
    """The product's operator; it notes when its engine is ready."""

    def __init__(self, model: VllmModel, path: str, sampling: SamplingConfig, note: Path, skewed: bool) -> None:
        started = time.time()
        super().__init__("reverse", model, path, sampling, 0)
        loaded = time.time()
        self._engine.generate([WARM_PROMPT] * WARM, sampling, seeds=[1] * WARM)  # of the usual length
        if skewed:
            self._engine.__class__ = LongTenth
        note.write_text(json.dumps({"ready": time.time(), "startup_s": loaded - started, "warm_s": time.time() - loaded}))


def _length(params: Any, seed: int) -> Any:
    if seed % 10 == 0:
        params.max_tokens, params.min_tokens = params.max_tokens * SKEW, params.min_tokens * SKEW
    return params


def source(rows: int) -> Programs:
    return Programs("reverse", rows, SHARD_ROWS, PROBLEM)


def asked(rows: int) -> list[tuple[str, int]]:
    """Prompt and seed of each row."""
    whole = source(rows)
    given: list[Row] = [row for shard in range(whole.shards) for row in whole.read(shard).table.to_pylist()]
    return [(str(render("reverse", "trained", row)), row_seed(0, "reverse", row["row_id"])) for row in given]


async def raw(work: Work) -> tuple[float, float]:
    """Tokens per second of plain and of skewed requests."""
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(work.model, work.path, 0)))
    encode = llm.get_tokenizer().encode
    base = SamplingParams(temperature=0.9, max_tokens=work.tokens, min_tokens=work.tokens, output_kind=RequestOutputKind.FINAL_ONLY)

    async def one(name: str, prompt: str, params: Any) -> int:
        async for output in llm.generate(tokens_input(encode(prompt)), params, name):
            count = len(output.outputs[0].token_ids)
        return count

    async def speed(skewed: bool) -> float:
        await llm.reset_prefix_cache()  # the stage meets each prompt for the first time
        given = [(prompt, _length(base.clone(), seed) if skewed else base) for prompt, seed in asked(work.rows)]
        started = time.time()
        counts = await asyncio.gather(*[one(f"{skewed}-{number}", *own) for number, own in enumerate(given)])
        return sum(counts) / (time.time() - started)

    await asyncio.gather(*[one(f"warm-{number}", WARM_PROMPT, base) for number in range(WARM)])
    speeds = await speed(False), await speed(True)
    llm.shutdown()
    return speeds


def raw_alone(work: Work) -> tuple[float, float]:
    """In a process of its own: what is left of vLLM there cannot disturb what comes next."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        speeds = pool.submit(_run_raw, work).result()
    print(f"raw      {speeds[0]:7.1f} tokens/s, skewed {speeds[1]:7.1f}", flush=True)
    return speeds


def _run_raw(work: Work) -> tuple[float, float]:
    return asyncio.run(raw(work))


def staged(work: Work, folder: Path, skewed: bool) -> tuple[float, float, float]:
    """Tokens per second of the product's stage without and with start-up, and its engine's start-up in seconds."""
    started = time.time()
    sampling = SamplingConfig(temperature=0.9, max_tokens=work.tokens, min_tokens=work.tokens)
    note, data = folder / "ready.json", Folder(str(folder / "programs"))
    make = partial(TimedGenerate, work.model, work.path, sampling, note, skewed)
    commits: list[float] = []
    given = source(work.rows)
    operator = Operator("reverse", make, cpus=1, actors=1, calls=shards_in_flight(work.model, SHARD_ROWS))
    plan = Stage(StageInfo("reverse", "bench", {}, given.shards), data, given, (operator,), PROBLEM)
    run_stage(plan, lambda _: commits.append(time.time()))
    table = pa.concat_tables([Dataset(data).read(shard, kept_only=False) for shard in range(given.shards)])
    times = json.loads(note.read_text())
    written = sum(table["reverse_tokens"].to_pylist())
    return written / (commits[-1] - times["ready"]), written / (commits[-1] - started - times["warm_s"]), times["startup_s"]


def ray_llm(work: Work) -> float:
    """Tokens per second of ray.data.llm, start-up and all."""
    import ray.data
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    arguments = {name: value for name, value in engine_arguments(work.model, work.path, 0).items() if name not in ("model", "disable_log_stats")}
    config = vLLMEngineProcessorConfig(
        model_source=work.path,
        engine_kwargs=arguments,
        batch_size=SHARD_ROWS,
        concurrency=1,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
        placement_group_config={"bundles": [{"CPU": 1}]},
    )

    ask = {"temperature": 0.9, "max_tokens": work.tokens, "min_tokens": work.tokens}
    started = time.time()
    processor = build_processor(config, preprocess=lambda row: {"prompt": row["item"], "sampling_params": ask})
    prompts = [prompt for prompt, _ in asked(work.rows)]
    done = processor(ray.data.from_items(prompts, override_num_blocks=-(-work.rows // SHARD_ROWS))).take_all()
    took = time.time() - started
    assert [row["num_generated_tokens"] for row in done] == [work.tokens] * work.rows
    return work.rows * work.tokens / took


def turn(work: Work, folder: Path) -> Turn:
    """All but the raw engine, once."""
    for part in ("plain", "skewed"):
        (folder / part).mkdir(parents=True)
    with connected(ClusterConfig(num_cpus=2)):
        speed, whole, startup_s = staged(work, folder / "plain", skewed=False)
        skewed, _, _ = staged(work, folder / "skewed", skewed=True)
    print(f"stage    {speed:7.1f} tokens/s, skewed {skewed:7.1f}, start-up {startup_s:.1f} s", flush=True)
    with connected(ClusterConfig(num_cpus=2)):
        theirs = ray_llm(work)
    print(f"ray_llm  {theirs:7.1f} tokens/s with start-up, stage {whole:7.1f}", flush=True)
    return Turn(speed, skewed, whole, startup_s, theirs)


def ratios(raws: list[tuple[float, float]], turns: list[Turn]) -> dict[str, float]:
    """Medians over the turns; each is compared with the raw engine just before and just after it."""
    around = [((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in pairwise(raws)]
    return {
        "goodput_ratio": median(turn.speed / plain for turn, (plain, _) in zip(turns, around, strict=True)),
        "skewed_goodput_ratio": median(turn.skewed / skewed for turn, (_, skewed) in zip(turns, around, strict=True)),
        "ray_data_llm_ratio": median(turn.whole / turn.ray_llm for turn in turns),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32, help="of each row")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--cpu-threads", default="1", help="cores that the engine computes on, or `all`")
    options = parser.parse_args()
    path = str(embedded_model(Path(os.environ.get("CACO_RAY_CACHE", ".cache")).absolute() / "models"))
    model = VllmModel.model_validate({**MODEL.model_dump(), "cpu_threads": options.cpu_threads})
    work = Work(model, path, options.rows, options.tokens)
    turns: list[Turn] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "log").mkdir()
        with environ(environment(model, folder / "log")):
            raws = [raw_alone(work)]
            for number in range(options.turns):
                turns.append(turn(work, folder / str(number)))
                raws.append(raw_alone(work))
    result = {key: round(value, 3) for key, value in ratios(raws, turns).items()}
    startup_s, speed = median(turn.startup_s for turn in turns), median(turn.speed for turn in turns)
    print(json.dumps({**result, "startup_s": round(startup_s, 1), "tokens_per_s": round(speed, 1)}))


if __name__ == "__main__":
    main()
