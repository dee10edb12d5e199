"""What vLLM's scheduler tells after each of its steps: that it lives, what is in its batch, and how often its prefix cache helps."""

import time
from typing import Any


class Steps:
    """Written by vLLM on the engine's event loop; other threads may read it."""

    def __init__(self) -> None:
        self.cache_queries = 0  # prompt tokens that were looked up in the prefix cache
        self.cache_hits = 0  # of these, found there
        self.running = 0  # requests in the batch of the last step
        self._last = time.monotonic()

    @property
    def quiet_s(self) -> float:
        """Seconds since the last step, or since work was first there to be done."""
        return time.monotonic() - self._last

    def touch(self) -> None:
        self._last = time.monotonic()

    def record(self, scheduler: Any) -> None:
        """`scheduler`: vLLM's `SchedulerStats` of one step, or None."""
        self.touch()
        if scheduler is not None:
            self.running = scheduler.num_running_reqs
            self.cache_queries += scheduler.prefix_cache_stats.queries
            self.cache_hits += scheduler.prefix_cache_stats.hits


def stat_logger(steps: Steps) -> type[Any]:
    """A class as `AsyncLLM(stat_loggers=[...])` takes it (imports vLLM)."""
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class StepLogger(PrometheusStatLogger):  # type: ignore[misc]  # vLLM is untyped here
        """In the place of vLLM's own, which would look at each token of each request in every step. Nothing of the base is used."""

        def __init__(self, vllm_config: Any, engine_indexes: Any = None) -> None: ...

        def record(self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0) -> None:
            steps.record(scheduler_stats)

        def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None: ...

        def record_admission_rejection(self, reason: str) -> None: ...

        def log_engine_initialized(self) -> None: ...

    return StepLogger
