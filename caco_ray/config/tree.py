"""The whole tree."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import (
    Field,
    PositiveFloat,
    model_validator,
)

from caco_ray.config.base import Strict
from caco_ray.config.machinery import ClusterConfig, QuarantineConfig, SandboxConfig, WatchdogConfig
from caco_ray.config.models import FakeModel, ModelsConfig, SamplingConfig, VllmModel
from caco_ray.config.stages import (
    STAGES,
    EvaluateConfig,
    FiltersConfig,
    JudgeConfig,
    RepairName,
    ReportConfig,
    ReverseConfig,
    ScaleConfig,
    SeedsConfig,
    SelectConfig,
    SolveConfig,
    StageName,
    UnifyConfig,
)
from caco_ray.config.training import TrainingsConfig
from caco_ray.config.validation import validate
from caco_ray.errors import ConfigError


class RunConfig(Strict):
    """Where a run lives. `dir` is absolute or an fsspec URL, shared by all nodes."""

    dir: str = Field(min_length=1)


class Config(Strict):
    """The whole tree. `from`/`until` bound the stages of this invocation and do not change what they make."""

    profile: str
    seed: int = Field(0, ge=0)
    from_stage: StageName | None = Field(None, alias="from")
    until: StageName | None = None
    rounds: int = Field(1, ge=1, le=100)  # of self-improvement, see rounds.py
    own_weight: PositiveFloat = 1  # from round 2 on: how many times an epoch holds each program of the rounds before; each seed once
    repair: RepairName | None = None  # make damaged shards of this stage's data set again, see repair.py
    run: RunConfig
    cluster: ClusterConfig = ClusterConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    quarantine: QuarantineConfig = QuarantineConfig()
    seeds: SeedsConfig
    models: ModelsConfig
    sampling: SamplingConfig  # of `scale`: the Caco sampler
    sandbox: SandboxConfig = SandboxConfig()
    filters: FiltersConfig
    unify: UnifyConfig
    scale: ScaleConfig
    select: SelectConfig = SelectConfig()
    reverse: ReverseConfig
    solve: SolveConfig
    judge: JudgeConfig
    training: TrainingsConfig
    evaluate: EvaluateConfig
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _stages_in_order(self) -> "Config":
        if self.from_stage and self.until and STAGES.index(self.from_stage) > STAGES.index(self.until):
            raise ValueError(f"from={self.from_stage} comes after until={self.until}")
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> "Config":
        """Where one prompt is asked again and again. Questions of instruct models are asked for in one style each."""
        asked = [("scale", self.scale.samples, "sampling", self.sampling)]
        if self.models.reverse.prompts == "trained":
            asked.append(("reverse", self.reverse.samples, "reverse.sampling", self.reverse.sampling))
        for stage, samples, key, sampling in asked:
            if samples > 1 and sampling.temperature == 0:
                raise ValueError(f"{key}.temperature 0: the {samples} of {stage}.samples would all be the same; give a temperature")
        return self

    @model_validator(mode="after")
    def _loads_end_before_the_watchdog(self) -> "Config":
        """While a model loads nothing else moves: the watchdog would end one that is well, and say nothing of what vLLM said."""
        for key, model in self.models:
            if isinstance(model, VllmModel) and model.load_timeout_s >= self.watchdog.timeout_s:
                raise ValueError(
                    f"models.{key}.load_timeout_s {model.load_timeout_s}: the watchdog stops a stage in which nothing moves for "
                    f"watchdog.timeout_s {self.watchdog.timeout_s:g}; give it longer than a model may take to load"
                )
        return self

    @model_validator(mode="after")
    def _rounds_have_a_learner(self) -> "Config":
        sampler = self.models.sampler
        learns = isinstance(sampler, VllmModel) and sampler.path == "run:codegen" and self.training.codegen.enabled
        if self.rounds > 1 and not learns and not isinstance(sampler, FakeModel):
            raise ValueError(
                f"rounds={self.rounds} needs a sampler that learns: models.sampler.path=run:codegen and training.codegen.enabled=true"
            )
        return self


def load_config(tree: Mapping[str, Any]) -> Config:
    """Validate a composed tree (plain containers).

    Raises:
        ConfigError: one line per mistake with the key, the value and what is allowed.
    """
    config = validate(Config, tree)
    if "://" not in config.run.dir and not Path(config.run.dir).is_absolute():
        raise ConfigError(f"run.dir={config.run.dir}: give an absolute path or a URL, so that every node means the same place")
    if "working_dir_files" in Path(config.run.dir).parts:
        raise ConfigError(f"run.dir={config.run.dir}: Ray deletes this folder with the job; give a path that all nodes share, or a URL")
    return config
