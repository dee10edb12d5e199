"""Join or start Ray for one run, quietly: the terminal belongs to the run's own lines.

Ray logs to its session directory as always; on the terminal only warnings that concern the user remain.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlparse

import ray
import ray.data

from caco_ray.config import ClusterConfig
from caco_ray.errors import ClusterError

# What every worker process needs: no download at run time (`worker_env`), no progress of libraries on our terminal.
WORKER_ENV = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "passive",  # threads that spin at barriers starve their neighbours on a shared node
    "VLLM_NO_USAGE_STATS": "1",
    "DS_DISABLE_CONFIG_PRINT": "1",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
}
_IDLE_WORKERS_MS = 60_000
QUIET_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune", "ray._private", "ray.air")


def worker_env(config: ClusterConfig) -> dict[str, str]:
    """Of this run's workers. `HF_HUB_OFFLINE=0`, and nothing else, lets `find_folder` download."""
    return {**WORKER_ENV, **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "0")} if config.allow_downloads else WORKER_ENV


@contextmanager
def connected(config: ClusterConfig) -> Iterator[None]:
    """Ray for the length of a `with` block.

    Raises:
        ClusterError: the address does not answer in time.
    """
    if config.allow_downloads:
        os.environ["HF_HUB_OFFLINE"] = "0"  # here too: a training's base is looked at by the driver
    if ray.is_initialized():  # tests bring their own cluster
        _quiet()
        yield
        return
    _connect(config)
    try:
        _quiet()
        yield
    finally:
        ray.shutdown()


def keep_idle_workers() -> None:
    """For a Ray that this process starts: it ends workers that idle for a second where a node has more of them than CPUs, and a new one
    takes seconds of CPU to start."""
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(_IDLE_WORKERS_MS))


def _connect(config: ClusterConfig) -> None:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ core writes harmless errors to our terminal (ray#53727)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    keep_idle_workers()
    local = config.address == "local"
    if not local:
        _check_reachable(config)
    try:
        with _stderr_closed():
            ray.init(
                address=config.address,
                num_cpus=config.num_cpus if local else None,
                object_store_memory=config.object_store_mb * 1024 * 1024 if local else None,
                include_dashboard=False if local else None,
                runtime_env={"env_vars": worker_env(config)},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises a bare one where its node does not start within 30 s
        if type(error) is not Exception and not isinstance(error, ConnectionError | ValueError | RuntimeError):
            raise
        raise ClusterError(f"cluster.address={config.address}: Ray cannot be joined or started ({_reason(error)})") from error
    if threading.current_thread() is threading.main_thread():  # `ray job stop` and evictions: as Ctrl-C, where Ray's own handler just exits
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _reason(error: Exception) -> str:
    """In one line. Of unequal versions Ray tells in several: those of the cluster, and those of this process."""
    text = str(error).strip()
    if "ersion mismatch" in text:
        return f"{' '.join(text.split())}; use the cluster's versions here, or its image"
    return text.splitlines()[0] if text else repr(error)


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Ray's core announces itself on file descriptor 2; what fails is raised as well."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def check_room(stage: str, pools: dict[str, tuple[float, float]]) -> None:
    """Refuse a stage whose pools (name: CPUs, GPUs) cannot all be placed: Ray would wait for ever.

    Raises:
        ClusterError: names the pools and what the cluster has.
    """
    have = ray.cluster_resources()
    for at, kind in enumerate(("CPU", "GPU")):
        wanted = {name: amounts[at] for name, amounts in pools.items() if amounts[at]}
        if sum(wanted.values()) > have.get(kind, 0):
            listed = ", ".join(f"{name} {amount:g}" for name, amount in wanted.items())
            raise ClusterError(
                f"{stage} needs {sum(wanted.values()):g} {kind}s ({listed}), the cluster has {have.get(kind, 0):g}; "
                "give fewer replicas or workers, or a larger cluster"
            )


def _check_reachable(config: ClusterConfig) -> None:
    """Fail in seconds on an address where nothing listens: Ray itself retries for minutes."""
    address = os.environ.get("RAY_ADDRESS", "auto") if config.address == "auto" else config.address
    if address == "auto":
        return
    parts = urlparse(address if "://" in address else f"ray-gcs://{address}")
    if not parts.hostname or not parts.port:
        raise ClusterError(f"cluster.address={config.address}: give local, auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=config.connect_timeout_s).close()
    except OSError as error:
        raise ClusterError(
            f"cluster.address={address}: does not answer ({error.strerror or error}); is Ray running there? `ray status` tells"
        ) from error


def _quiet() -> None:
    for name in QUIET_LOGGERS:
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL)  # an error is raised as well; Ray's files keep the rest
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.enable_rich_progress_bars = False
    # A model may take long to load before the first row moves; our own budgets apply.
    context.execution_no_progress_timeout_s = -1
    context.wait_for_min_actors_s = -1
    context.max_consecutive_actor_init_deaths = 3
