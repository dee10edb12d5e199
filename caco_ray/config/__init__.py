"""The configuration tree: Hydra composes YAML from `conf/`, this module validates it once, nothing later sees a DictConfig.

Every model is frozen and refuses unknown keys; every number has bounds; units are in the names. `load_config` turns any mistake
into one `ConfigError` line that names the key, the value and what is allowed, before Ray starts.
"""

from caco_ray.config.base import Strict
from caco_ray.config.machinery import ClusterConfig, LabelSelector, QuarantineConfig, SandboxConfig, WatchdogConfig
from caco_ray.config.models import (
    VARIANTS,
    FakeModel,
    ModelConfig,
    ModelsConfig,
    OpenAiModel,
    SamplingConfig,
    TemplateValues,
    VllmModel,
    is_hub_id,
)
from caco_ray.config.stages import (
    STAGES,
    EvaluateConfig,
    FiltersConfig,
    JudgeConfig,
    ReasoningGymConfig,
    RepairName,
    ReportConfig,
    ReverseConfig,
    ScaleConfig,
    SeedFields,
    SeedsConfig,
    SelectConfig,
    SolveConfig,
    StageName,
    UnifyConfig,
)
from caco_ray.config.training import LoraConfig, TrainingConfig, TrainingsConfig
from caco_ray.config.tree import Config, RunConfig, load_config
from caco_ray.config.validation import Model, validate

__all__ = [
    "STAGES",
    "VARIANTS",
    "ClusterConfig",
    "Config",
    "EvaluateConfig",
    "FakeModel",
    "FiltersConfig",
    "JudgeConfig",
    "LabelSelector",
    "LoraConfig",
    "Model",
    "ModelConfig",
    "ModelsConfig",
    "OpenAiModel",
    "QuarantineConfig",
    "ReasoningGymConfig",
    "RepairName",
    "ReportConfig",
    "ReverseConfig",
    "RunConfig",
    "SamplingConfig",
    "SandboxConfig",
    "ScaleConfig",
    "SeedFields",
    "SeedsConfig",
    "SelectConfig",
    "SolveConfig",
    "StageName",
    "Strict",
    "TemplateValues",
    "TrainingConfig",
    "TrainingsConfig",
    "UnifyConfig",
    "VllmModel",
    "WatchdogConfig",
    "is_hub_id",
    "load_config",
    "validate",
]
