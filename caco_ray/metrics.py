"""Every metric that caco_ray exports: the one list that workers, alerts and dashboards agree on. Ray prefixes each with `ray_`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    labels: tuple[str, ...]
    boundaries: tuple[float, ...] = ()  # of a histogram, in its unit


ROWS = Metric("caco_rows_total", "counter", "Committed rows", ("stage", "outcome", "reason"))
INFRA_ERRORS = Metric("caco_infra_errors_total", "counter", "Rows that the machinery failed on", ("stage",))
STAGE_SECONDS = Metric("caco_stage_seconds", "gauge", "Seconds that the stage has worked in this run", ("stage",))
HELD_SECONDS = Metric(
    "caco_held_seconds_total", "counter", "Seconds of each core (CPU) and GPU that the stage holds, idle or not", ("stage", "resource")
)
SECONDS_LEFT = Metric("caco_stage_seconds_left", "gauge", "Seconds until the end of the stage, at the mean pace so far", ("stage",))
TOKENS = Metric("caco_tokens_total", "counter", "Tokens of finished requests", ("stage", "direction"))
CACHE_HITS = Metric("caco_prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache", ("stage",))
ENGINE_RUNNING = Metric("caco_engine_running", "gauge", "Requests that the engine works on", ("stage",))
ENGINE_WAITING = Metric("caco_engine_waiting", "gauge", "Requests that wait for their turn", ("stage",))
ENGINE_IDLE = Metric("caco_engine_idle_ratio", "gauge", "Share of the last seconds in which the engine had no request", ("stage",))
SANDBOX_SECONDS = Metric(
    "caco_sandbox_seconds", "histogram", "Wall time of one program, seconds", ("status",), (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
)

# Of a training, set by its first worker after each optimizer step; `model`: the folder that it fills (codegen, student). Ray forgets a
# gauge some 20 s after it was set: between long steps, and where a training hangs, these are not exported.
TRAINING = tuple(
    Metric(f"caco_training_{name}", "gauge", description, ("model",))
    for name, description in {
        "step": "Optimizer steps done",
        "loss": "Mean training loss of the newest step",
        "heldout_loss": "Newest held-out loss",
        "learning_rate": "Learning rate of the newest step",
        "grad_norm": "Gradient norm of the newest step, before clipping",
        "tokens_per_s": "Useful tokens per second of the newest step, all workers together",
        "mfu": "Share of the devices' peak FLOP/s that the newest step used",
        "seconds_left": "Seconds until the end of the training, at the mean pace so far",
    }.items()
)

METRICS = (
    ROWS, INFRA_ERRORS, STAGE_SECONDS, SECONDS_LEFT, HELD_SECONDS,
    TOKENS, CACHE_HITS, ENGINE_RUNNING, ENGINE_WAITING, ENGINE_IDLE, SANDBOX_SECONDS,
)  # fmt: skip
RAY_METRICS = ("ray_node_gpus_utilization", "ray_node_disk_free", "ray_node_disk_usage")  # Ray's own, that alerts and panels use
