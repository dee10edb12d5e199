"""The stages of the loop and what each takes."""

from typing import Literal, get_args

from pydantic import (
    Field,
    PositiveInt,
    model_validator,
)

from caco_ray.config.base import Strict
from caco_ray.config.models import SamplingConfig

StageName = Literal[
    "seeds", "unify", "train_codegen", "scale", "select", "reverse", "solve", "judge", "assemble", "train_student", "evaluate", "report"
]


STAGES: tuple[str, ...] = get_args(StageName)


RepairName = Literal["all", "seeds", "unify", "scale", "select", "reverse", "solve", "judge", "assemble", "evaluate"]


class SeedFields(Strict):
    """Names of the fields in the user's seed file. Null = the file has no such field."""

    question: str = "question"
    answer: str = "answer"
    cot: str | None = None
    code: str | None = None
    domain: str | None = None
    difficulty: str | None = None
    id: str | None = None


class ReasoningGymConfig(Strict):
    """Procedural problems of `reasoning-gym` (https://github.com/open-thought/reasoning-gym): `size` of each task."""

    tasks: tuple[str, ...] = ("chain_sum", "gcd", "lcm", "simple_equations")
    size: PositiveInt = 50
    seed: int = Field(0, ge=0)


class SeedsConfig(Strict):
    """Which solved problems to start from: any of the named sources, and a file or URL of one's own."""

    sources: tuple[Literal["builtin", "reasoning_gym"], ...] = ("builtin",)
    path: str | None = None  # .jsonl or .parquet, local or any fsspec URL
    fields: SeedFields = SeedFields()
    reasoning_gym: ReasoningGymConfig = ReasoningGymConfig()
    domains: tuple[str, ...] | None = None  # of the built-in problems; null = all
    max_difficulty: PositiveInt | None = None  # of the built-in problems: 1 to 3
    limit: PositiveInt | None = None  # of each source
    shard_rows: PositiveInt = 64

    @model_validator(mode="after")
    def _some_source(self) -> "SeedsConfig":
        if not self.sources and self.path is None:
            raise ValueError("no seeds: give seeds.sources or seeds.path")
        return self


class FiltersConfig(Strict):
    """Rule filters on programs (paper section on rule filters; the names are keys of `stages.filters.FILTERS`)."""

    enabled: tuple[str, ...]
    check_determinism: bool = True  # a second run, reason `not_deterministic`
    min_effective_lines: PositiveInt = 6
    max_answer_chars: PositiveInt = 200


class UnifyConfig(Strict):
    sampling: SamplingConfig


class ScaleConfig(Strict):
    """How many programs to sample, and in shards of how many.

    With `accept`, sample in rounds of at most `samples` until so many programs are kept, or `budget` samples are spent.
    """

    samples: PositiveInt
    shard_rows: PositiveInt = 256
    accept: PositiveInt | None = None
    budget: PositiveInt | None = None

    @model_validator(mode="after")
    def _target_has_a_budget(self) -> "ScaleConfig":
        if (self.accept is None) != (self.budget is None):
            raise ValueError("accept and budget go together: give both, or neither")
        if self.accept is not None and self.budget is not None and self.accept > self.budget:
            raise ValueError(f"accept={self.accept} programs cannot be kept of budget={self.budget} samples")
        return self


class SelectConfig(Strict):
    """Duplicates and decontamination. `evaluation_paths` are files (jsonl, parquet; fsspec URLs) whose `question_field` is protected;
    the held-out built-in seeds always are. Programs, questions and the seeds themselves are compared with them."""

    ngram: int = Field(13, ge=3, le=100)
    evaluation_paths: tuple[str, ...] = ()
    question_field: str = "question"


class ReverseConfig(Strict):
    sampling: SamplingConfig
    samples: PositiveInt = 1  # questions per program
    min_words: PositiveInt = 6
    max_words: PositiveInt = 300
    max_missing_values: int = Field(0, ge=0)  # scalar values of `input` that the question may leave out


class SolveConfig(Strict):
    """`stop_when_agreed`: draw the samples of a question one after the other, and no more once one has agreed."""

    sampling: SamplingConfig
    samples: PositiveInt = 1  # solutions per question
    stop_when_agreed: bool = False

    @model_validator(mode="after")
    def _something_to_stop(self) -> "SolveConfig":
        if self.stop_when_agreed and self.samples == 1:
            raise ValueError("stop_when_agreed needs samples 2 or more")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(f"samples {self.samples} at sampling.temperature 0 would all be the same: give samples 1, or a temperature")
        return self


class JudgeConfig(Strict):
    enabled: bool
    sampling: SamplingConfig


class EvaluateConfig(Strict):
    """pass@1 of base and student on the held-out built-in seeds, greedy unless `sampling` says otherwise."""

    sampling: SamplingConfig
    models: tuple[Literal["base", "student"], ...] = ("base", "student")


class ReportConfig(Strict):
    samples: int = Field(10, ge=0)
