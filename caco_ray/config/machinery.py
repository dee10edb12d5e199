"""Where and how the work is carried out: cluster, watchdog, quarantine, sandbox."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from caco_ray.config.base import Strict
from caco_ray.sandbox.limits import MAX_WORKERS, RANGES, Limits

# For each label of a node a value, `!value`, `in(a, b)` or `!in(a, b)`, as Ray has it.
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"


LabelSelector = dict[str, Annotated[str, Field(pattern=rf"^!?(?:{_LABEL}|in\({_LABEL}(?:, ?{_LABEL})*\))$")]]


class ClusterConfig(Strict):
    """The Ray cluster. `address: local` starts one in this process; `auto` joins the one of the job; else an address."""

    address: str = "local"
    num_cpus: PositiveInt | None = None  # of the local cluster; null = what the machine has
    object_store_mb: int = Field(512, ge=80)
    connect_timeout_s: PositiveFloat = 30
    allow_downloads: bool = False  # of models that a hub id names and that are not in the cache of the node that loads them
    gpu_labels: LabelSelector | None = None  # of the nodes for what holds GPUs, see placement.py; null = any
    cpu_labels: LabelSelector | None = None  # of the nodes for everything else
    handover_timeout_s: NonNegativeFloat = 120  # in which what held GPUs before lets them go, see handover.py
    preflight_timeout_s: PositiveFloat = 120  # for each node to say what it offers, see nodes.py
    wait_for_nodes_s: NonNegativeFloat = 900  # for an autoscaler, or for one that comes back; then on with fewer actors, see room.py


class WatchdogConfig(Strict):
    """`timeout_s`: longer than the slowest shard takes, and than any model may take to load (`load_timeout_s`)."""

    timeout_s: PositiveFloat = 3600


class QuarantineConfig(Strict):
    """What becomes of rows on which the machinery fails. None of it changes the other rows."""

    after_kills: int = Field(2, ge=2)  # a row is given up when it killed its worker so many times, alone in it
    row_retries: int = Field(1, ge=0, le=10)  # of a row that an operator returns with `infra_error`
    max_infra_error_fraction: float = Field(0.05, ge=0, le=1)  # of a stage's rows; above it the stage stops


class SandboxConfig(Strict):
    """Isolation and limits of every program (paper section on filtering: 10 s). Allowed ranges: `caco_ray/sandbox/limits.py`."""

    require: Literal["L0", "L1", "L2", "L3"] = "L2"
    allow_unsafe: bool = False
    cpu_s: float = Field(5, ge=RANGES["cpu_s"][0], le=RANGES["cpu_s"][1])  # a program that is kept needed at most 80 % of it
    wall_s: float | None = Field(None, ge=RANGES["wall_s"][0], le=RANGES["wall_s"][1])  # null = 3x cpu_s
    memory_mb: int = Field(512, ge=RANGES["memory_mb"][0], le=RANGES["memory_mb"][1])
    output_kb: int = Field(64, ge=RANGES["output_kb"][0], le=RANGES["output_kb"][1])
    stdout_kb: int = Field(64, ge=RANGES["stdout_kb"][0], le=RANGES["stdout_kb"][1])
    actors: PositiveInt = 1  # sandbox actors over the cluster
    workers: int = Field(1, ge=1, le=MAX_WORKERS)  # programs at a time in each actor = its num_cpus

    @model_validator(mode="after")
    def _wall_not_under_cpu(self) -> "SandboxConfig":
        if self.wall_s is not None and self.wall_s < self.cpu_s:
            raise ValueError(f"wall_s {self.wall_s:g} is under cpu_s {self.cpu_s:g}")
        return self

    @model_validator(mode="after")
    def _unsafe_is_meant(self) -> "SandboxConfig":
        if self.require == "L0" and not self.allow_unsafe:
            raise ValueError("require L0 isolates nothing: it needs allow_unsafe true")
        return self

    def limits(self) -> Limits:
        """Of each program."""
        return Limits(self.cpu_s, self.wall_s, self.memory_mb, self.output_kb, self.stdout_kb)
