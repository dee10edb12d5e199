"""How much of raw vLLM's speed is left when a stage runs it: `python -m tests.benchmarks.bench_generation [--rows 256] [--tokens 32]`.

The same prompts, lengths and engine settings, one after the other in one run, with the embedded model on CPU:

    raw         AsyncLLM alone, all requests at once; before and after the stage, so that a machine that slows down does not decide: the mean counts
    stage       the product: Ray Data, `Generate`, commit layer; from the moment its engine is ready to the last commit
    skewed      both again, where each tenth row is ten times longer
    ray_llm     `ray.data.llm.build_processor`, plain lengths; when its engine is ready does not show, so both are timed as a whole

The last line is JSON: `goodput_ratio`, `skewed_goodput_ratio` (stage over raw), `ray_data_llm_ratio` (stage over ray_llm, each with its
start-up), `startup_s` (of the stage's engine), `tokens_per_s` (of the stage). Other work on the machine spoils all of them.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from caco_ray.cluster import connected
from caco_ray.config import ClusterConfig, SamplingConfig, VllmModel
from caco_ray.embedded import embedded_model
from caco_ray.engines.vllm import VllmEngine
from caco_ray.engines.vllm_settings import engine_arguments, environ, environment
from caco_ray.operators import shards_in_flight
from caco_ray.prompts import PROGRAM_TURN
from caco_ray.schema import PROGRAM
from caco_ray.source import SampleRange
from caco_ray.stage import Operator, Stage, run_stage
from caco_ray.stages.generate import Generate, row_seed
from caco_ray.store import Dataset, Folder, StageInfo

MODEL = VllmModel(path="embedded", prompts="trained", max_model_len=1024, max_num_seqs=64, enforce_eager=True, cpu_threads="all")
SHARD_ROWS, SKEW = 32, 10
WARM = 8  # requests before the clock starts, of either side


class LongTenth(VllmEngine):
    """Makes the rows whose seed divides by ten `SKEW` times longer."""

    def _seeded(self, params: Any, seed: int | None, index: int) -> Any:
        return _length(params.clone(), seed or 0)


class TimedGenerate(Generate):
    """The product's operator; it notes when its engine is ready."""

    def __init__(self, path: str, sampling: SamplingConfig, note: Path, skewed: bool) -> None:
        started = time.time()
        super().__init__("sample", MODEL, path, sampling, 0)
        self._engine.generate([PROGRAM_TURN] * WARM, sampling, seeds=[1] * WARM)  # of the usual length
        if skewed:
            self._engine.__class__ = LongTenth
        note.write_text(json.dumps({"ready": time.time(), "startup_s": time.time() - started}))


def _length(params: Any, seed: int) -> Any:
    if seed % 10 == 0:
        params.max_tokens, params.min_tokens = params.max_tokens * SKEW, params.min_tokens * SKEW
    return params


def source(rows: int) -> SampleRange:
    return SampleRange("scale", rows, SHARD_ROWS, PROGRAM)


def seeds(rows: int) -> list[int]:
    whole = source(rows)
    return [row_seed(0, "sample", row) for shard in range(whole.shards) for row in whole.read(shard).table["row_id"].to_pylist()]


async def raw(path: str, rows: int, tokens: int) -> tuple[float, float]:
    """Tokens per second of plain and of skewed requests."""
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(MODEL, path, 0)))
    prompt = tokens_input(llm.get_tokenizer().encode(PROGRAM_TURN))
    base = SamplingParams(temperature=0.9, max_tokens=tokens, min_tokens=tokens, output_kind=RequestOutputKind.FINAL_ONLY)

    async def one(name: str, params: Any) -> int:
        async for output in llm.generate(prompt, params, name):
            count = len(output.outputs[0].token_ids)
        return count

    async def speed(skewed: bool) -> float:
        params = [_length(base.clone(), seed) if skewed else base for seed in seeds(rows)]
        started = time.time()
        counts = await asyncio.gather(*[one(f"{skewed}-{number}", own) for number, own in enumerate(params)])
        return sum(counts) / (time.time() - started)

    await asyncio.gather(*[one(f"warm-{number}", base) for number in range(WARM)])
    speeds = await speed(False), await speed(True)
    llm.shutdown()
    return speeds


def raw_alone(path: str, rows: int, tokens: int) -> tuple[float, float]:
    """In a process of its own: what is left of vLLM there cannot disturb what comes next."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        speeds = pool.submit(_run_raw, path, rows, tokens).result()
    print(f"raw      {speeds[0]:7.1f} tokens/s, skewed {speeds[1]:7.1f}", flush=True)
    return speeds


def _run_raw(path: str, rows: int, tokens: int) -> tuple[float, float]:
    return asyncio.run(raw(path, rows, tokens))


def staged(path: str, rows: int, tokens: int, folder: Path, skewed: bool) -> tuple[float, float, float]:
    """Tokens per second of the product's stage without and with start-up, and its engine's start-up in seconds."""
    started = time.time()
    sampling = SamplingConfig(temperature=0.9, max_tokens=tokens, min_tokens=tokens)
    note, data = folder / "ready.json", Folder(str(folder / "programs"))
    make = partial(TimedGenerate, path, sampling, note, skewed)
    commits: list[float] = []
    operator = Operator("sample", make, cpus=1, actors=1, calls=shards_in_flight(MODEL, SHARD_ROWS))
    plan = Stage(StageInfo("scale", "bench", {}, source(rows).shards), data, source(rows), (operator,), PROGRAM)
    run_stage(plan, lambda _: commits.append(time.time()))
    table = pa.concat_tables([Dataset(data).read(shard, kept_only=False) for shard in range(source(rows).shards)])
    times = json.loads(note.read_text())
    written = sum(table["sample_tokens"].to_pylist())
    return written / (commits[-1] - times["ready"]), written / (commits[-1] - started), times["startup_s"]


def ray_llm(path: str, rows: int, tokens: int) -> float:
    """Tokens per second of ray.data.llm, start-up and all."""
    import ray.data
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    arguments = {name: value for name, value in engine_arguments(MODEL, path, 0).items() if name not in ("model", "disable_log_stats")}
    config = vLLMEngineProcessorConfig(
        model_source=path,
        engine_kwargs=arguments,
        batch_size=SHARD_ROWS,
        concurrency=1,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
        placement_group_config={"bundles": [{"CPU": 1}]},
    )

    ask = {"temperature": 0.9, "max_tokens": tokens, "min_tokens": tokens}
    started = time.time()
    processor = build_processor(config, preprocess=lambda _: {"prompt": PROGRAM_TURN, "sampling_params": ask})
    done = processor(ray.data.range(rows, override_num_blocks=-(-rows // SHARD_ROWS))).take_all()
    took = time.time() - started
    assert [row["num_generated_tokens"] for row in done] == [tokens] * rows
    return rows * tokens / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32, help="of each row")
    options = parser.parse_args()
    path = str(embedded_model(Path(os.environ.get("CACO_RAY_CACHE", ".cache")).absolute() / "models"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("plain", "skewed", "log"):
            (folder / part).mkdir()
        with environ(environment(MODEL, folder / "log")):
            before = raw_alone(path, options.rows, options.tokens)
            with connected(ClusterConfig(num_cpus=2)):
                speed, whole, startup_s = staged(path, options.rows, options.tokens, folder / "plain", skewed=False)
                skewed, _, _ = staged(path, options.rows, options.tokens, folder / "skewed", skewed=True)
            print(f"stage    {speed:7.1f} tokens/s, skewed {skewed:7.1f}, start-up {startup_s:.1f} s", flush=True)
            after = raw_alone(path, options.rows, options.tokens)
            with connected(ClusterConfig(num_cpus=2)):
                theirs = ray_llm(path, options.rows, options.tokens)
            print(f"ray_llm  {theirs:7.1f} tokens/s with start-up, stage {whole:7.1f}", flush=True)
    raw_speed, raw_skewed = ((one + other) / 2 for one, other in zip(before, after, strict=True))
    result = {"goodput_ratio": speed / raw_speed, "skewed_goodput_ratio": skewed / raw_skewed, "ray_data_llm_ratio": whole / theirs}
    print(
        json.dumps(
            {**{key: round(value, 3) for key, value in result.items()}, "startup_s": round(startup_s, 1), "tokens_per_s": round(speed, 1)}
        )
    )


if __name__ == "__main__":
    main()
