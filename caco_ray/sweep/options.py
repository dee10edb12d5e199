"""The arguments of `jobs/submit.py` that say how to submit; every other one is an override for all points."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from caco_ray.config import Strict, validate
from caco_ray.errors import ConfigError


class SweepOptions(Strict):
    """`sweep` is written as behind Hydra's `-m`. Points on one Ray cluster share it, so by default one runs at a time."""

    sweep: str = ""
    target: Literal["ray", "k8s"] = "ray"
    address: str | None = None  # of the job server, http://HEAD:8265; null = as `ray job submit` finds it
    wait: bool = True  # false: submit all points and return
    parallel: PositiveInt | None = None  # points at a time; null = one on Ray, all on Kubernetes
    retries: int = Field(0, ge=0, le=20)  # of a point that fails while we wait; mistakes of the config are not tried again
    k8s: str | None = None  # folder or rendered file with the RayJob to copy; null = k8s/base
    manifests: str | None = None  # folder for the manifests; null = runs/manifests/NAME
    apply: bool = False  # kubectl apply

    @model_validator(mode="after")
    def _parts_fit(self) -> "SweepOptions":
        if self.retries and not self.wait:
            raise ValueError("retries needs wait=true: somebody must see the failure")
        only_k8s = [name for name in ("k8s", "manifests", "apply") if getattr(self, name)]
        if self.target == "ray" and only_k8s:
            raise ValueError(f"{only_k8s[0]} belongs to target=k8s")
        if self.target == "k8s" and self.address:
            raise ValueError("address belongs to target=ray; kubectl's current context says where Kubernetes is")
        return self


def parse_options(arguments: Sequence[str]) -> tuple[SweepOptions, list[str]]:
    """The options, and the overrides for all points.

    Raises:
        ConfigError: one line.
    """
    options: dict[str, str] = {}
    overrides: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            raise ConfigError(f"{argument}: arguments are key=value; options: {', '.join(SweepOptions.model_fields)}")
        if key not in SweepOptions.model_fields:
            overrides.append(argument)
        elif not equals:
            raise ConfigError(f"{argument}: give {key}=VALUE")
        else:
            options[key] = value
    return validate(SweepOptions, options), overrides
