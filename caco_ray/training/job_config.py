"""The configuration of `jobs/train.py` (`conf/train.yaml`): one fine-tuning outside a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, field_validator, model_validator

from caco_ray.config import ClusterConfig, Strict, TrainingConfig, validate
from caco_ray.config.training import TrainedRole
from caco_ray.errors import ConfigError


class DataConfig(Strict):
    """One data set of a mixture. An epoch holds `weight` times its training rows: 0.5 a half (another one each epoch), 2 each row twice."""

    path: str = Field(min_length=1)  # folder or URL of a committed data set, or a .parquet or .jsonl file
    weight: PositiveFloat = 1
    domain: str | None = None  # of its rows that name none; for training.domain_tags
    roles: tuple[TrainedRole, ...] | None = Field(None, min_length=1)  # of training.roles that it teaches; null = all of them


class TrainJobConfig(Strict):
    """`jobs/train.py`: fine-tune `base` on a mixture of data sets and leave the model in `output/model`."""

    base: str = Field(min_length=1)  # folder, hub id in the local cache, or `embedded`
    output: str = Field(min_length=1)
    data: tuple[DataConfig, ...] = Field(min_length=1)
    training: TrainingConfig
    cluster: ClusterConfig = ClusterConfig()

    @field_validator("data", mode="before")
    @classmethod
    def _paths_alone(cls, data: Any) -> Any:
        """`data=/path` and `data=[/a,/b]` for data sets of weight 1."""
        entries = [data] if isinstance(data, str | Mapping) else data
        return [{"path": entry} if isinstance(entry, str) else entry for entry in entries] if isinstance(entries, list) else entries

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainJobConfig":
        if not self.training.enabled:
            raise ValueError("training.enabled false leaves nothing to do here: it is for a stage of a run")
        named = next((entry for entry in self.data if entry.domain), None)
        if named and not self.training.domain_tags:
            raise ValueError(f"data domain {named.domain} of {named.path} needs training.domain_tags true: nothing else reads it")
        for entry in self.data:
            if strange := sorted(set(entry.roles or ()) - set(self.training.roles)):
                raise ValueError(f"data roles {strange[0]} of {entry.path}: training.roles are {', '.join(self.training.roles)}")
        return self


def load_train_job(tree: Mapping[str, Any]) -> TrainJobConfig:
    """Validate the composed tree of `conf/train.yaml`.

    Raises:
        ConfigError: one line per mistake with the key, the value and what is allowed.
    """
    config = validate(TrainJobConfig, tree)
    for key, path in (("output", config.output), *(("data", entry.path) for entry in config.data)):
        if not Path(path).is_absolute() and not (key == "data" and "://" in path):
            raise ConfigError(f"{key}={path}: give an absolute path, so that every node means the same place")
    return config


