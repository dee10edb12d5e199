"""Ask a model about every live row: render -> engine -> parse. All LLM stages are this class with another role."""

import hashlib
from collections.abc import Callable

import pyarrow as pa

from caco_ray.config import ModelConfig, SamplingConfig
from caco_ray.engines import build_engine
from caco_ray.engines.base import Completion, EngineStats
from caco_ray.prompts import STOPS, Role, prompt_name, render, shown
from caco_ray.schema import Row, is_live, reject, to_table
from caco_ray.stages import judge, reverse, sample, solve, unify
from caco_ray.stages.meter import Meter

Parse = Callable[[Row, str], None]

PARSERS: dict[Role, Parse] = {
    "unify": unify.parse,
    "sample": sample.parse,
    "reverse": reverse.parse,
    "solve": solve.parse,
    "judge": judge.parse,
}
# What a role writes. A row that has it already (a seed that brings its code) is passed on without a generation.
RESULT: dict[Role, str] = {
    "unify": "code",
    "sample": "code",
    "reverse": "question",
    "solve": "solution",
    "judge": "judgement",
}
_FINISH_REASONS = {"length": "truncated", "prompt_too_long": "prompt_too_long"}


class Generate:
    """One operator that owns an engine; `__call__` may run in several threads at once.

    Each row is sampled with a seed of its own, drawn from its id, the role and the run's seed: a retried task asks for
    the same thing. Recorded is what the engine used: its own where it has one for all rows, none where it is sent none.
    A row that the engine failed gets `infra_error`; it is not at fault.

    Raises:
        ConfigError: the model's prompt family has no prompt for the role.
        ModelError: the model cannot be loaded.
    """

    def __init__(
        self,
        role: Role,
        model: ModelConfig,
        path: str | None,
        sampling: SamplingConfig,
        seed: int,
        parse: Parse | None = None,
    ) -> None:
        """`path`: the resolved model folder (what `model.path` stands for); `parse`: by default the role's parser."""
        self._role: Role = role
        self._family = model.prompts
        self._prompt_name = prompt_name(role, model.prompts)
        self._shows_answer = "program_answer" in shown(role, model.prompts)
        self._sampling = sampling.model_copy(update={"stop": (*sampling.stop, *STOPS[model.prompts])})
        self._seed = seed
        self._parse = parse or PARSERS[role]
        self._meter, self._cpus, self._gpus = Meter(), model.cpus, model.gpus
        self._engine = build_engine(model, path=path, seed=seed)

    def needs(self, table: pa.Table) -> list[bool]:
        """Of each row, whether the engine is asked about it."""
        return [self._is_asked(row) for row in table.select(["reject_reason", "infra_error", RESULT[self._role]]).to_pylist()]

    def _is_asked(self, row: Row) -> bool:
        return is_live(row) and row[RESULT[self._role]] is None

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        if self._shows_answer:
            for row in filter(self._is_asked, rows):
                _check_answer(row)
        asked = [row for row in rows if self._is_asked(row)]
        if asked:
            prompts = [render(self._role, self._family, row) for row in asked]
            seeds = [row_seed(self._seed, self._role, row["row_id"]) for row in asked]
            with self._meter.call(len(asked)) as call:
                replies = self._engine.generate(prompts, self._sampling, n=1, seeds=seeds)
            for row, own_seed, (completion,) in zip(asked, seeds, replies, strict=True):
                row[f"{self._role}_seed"] = self._engine.seed_used(own_seed)
                self._fill(row, completion)
            self._charge(asked, call.seconds)
        return to_table(rows, table.schema)

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def close(self) -> None:
        self._engine.close()

    def _charge(self, rows: list[Row], seconds: float) -> None:
        """Divide what the engine held for `seconds` among the rows, by their tokens."""
        tokens = [1 + row[f"{self._role}_prompt_tokens"] + row[f"{self._role}_tokens"] for row in rows]
        for row, count in zip(rows, tokens, strict=True):
            share = seconds * count / sum(tokens)
            row[f"{self._role}_cpu_s"] = share * self._cpus
            row[f"{self._role}_gpu_s"] = share * self._gpus

    def _fill(self, row: Row, completion: Completion) -> None:
        row[f"{self._role}_model"] = self._engine.model_id
        row[f"{self._role}_prompt"] = self._prompt_name
        row[f"{self._role}_finish"] = completion.finish_reason
        row[f"{self._role}_stop"] = completion.stop_reason
        row[f"{self._role}_prompt_tokens"] = completion.n_prompt_tokens
        row[f"{self._role}_tokens"] = completion.n_tokens
        if completion.finish_reason == "error":
            row["infra_error"] = f"{self._role}: {completion.error or 'the engine failed without a message'}"
        elif completion.finish_reason in _FINISH_REASONS:
            reject(row, _FINISH_REASONS[completion.finish_reason])
        elif not completion.text.strip():
            reject(row, "empty_generation")
        else:
            self._parse(row, completion.text)


def _check_answer(row: Row) -> None:
    """A program's answer may be empty, or too long for a text. Where no filter minds, a prompt that shows it still does."""
    answer: str | None = row["program_answer"]
    if answer is None:
        reject(row, "output_too_large")
    elif not answer.strip():
        reject(row, "output_empty")


def row_seed(run_seed: int, role: str, row_id: str) -> int:
    """Sampling seed of one row: 31 bits, which every engine and endpoint accepts."""
    digest = hashlib.blake2b(f"{run_seed}\x1f{role}\x1f{row_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") & 0x7FFFFFFF
