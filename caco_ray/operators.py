"""Operators as the pipeline names them: a model, the sandbox, a function, an actor, with the resources that the config gives each."""

from collections.abc import Callable
from functools import partial
from typing import Any

from caco_ray.config import ModelConfig, OpenAiModel, SamplingConfig, SandboxConfig, VllmModel
from caco_ray.prompts import Role
from caco_ray.run import Run
from caco_ray.runtime.quarantine import TableFunction
from caco_ray.stage import Operator
from caco_ray.stages.agreement import Agreement
from caco_ray.stages.execute import Execute
from caco_ray.stages.generate import Generate
from caco_ray.stages.solve_in_turn import SolveInTurn

_ROWS_IN_FLIGHT = 6  # for each request that an engine works on at once
_MIN_SHARDS, _MAX_SHARDS = 3, 256  # in flight in an engine, a thread each
_INTERPRETERS_MB = 256  # of one sandbox worker: light and science interpreters for two hash seeds, 210 MB on x86-64


def model(
    run: Run,
    role: Role,
    config: ModelConfig,
    sampling: SamplingConfig,
    shard_rows: int,
    generate: Callable[..., Generate] = Generate,
) -> Operator:
    """A pool of engines. `shard_rows`: that come to them in a shard on average. `generate`: makes the operator as `Generate` does."""
    return _model(f"{role}_model", _generate(run, role, config, sampling, generate), config, shard_rows)


def solvers(run: Run, shard_rows: int) -> tuple[Operator, ...]:
    """Solutions and whether they agree: in two operators, or in one that stops drawing where one has agreed."""
    config = run.config
    ask = _generate(run, "solve", config.models.solve, config.solve.sampling)
    grade = partial(Agreement, samples=config.solve.samples)
    if config.solve.stop_when_agreed:
        asked_at_once = max(1, shard_rows // config.solve.samples)
        return (_model("solve_in_turn", partial(SolveInTurn, ask, grade), config.models.solve, asked_at_once),)
    return _model("solve_model", ask, config.models.solve, shard_rows), actor("agreement", grade)


def executor(sandbox: SandboxConfig, check_determinism: bool) -> Operator:
    """A pool of sandboxes; each runs `workers` programs at a time on as many cores, and holds the memory that these may use."""
    memory_mb = sandbox.workers * (_INTERPRETERS_MB + sandbox.memory_mb)
    make = partial(Execute, sandbox, check_determinism)
    return Operator("execute", make, cpus=sandbox.workers, memory_mb=memory_mb, actors=sandbox.actors)


def task(name: str, function: Callable[..., Any], *arguments: Any) -> Operator:
    """A pure function `(table, *arguments) -> table`, run in tasks."""
    return Operator(name, partial(_bind, function, arguments))


def actor(name: str, make: Callable[[], TableFunction]) -> Operator:
    """A class that owns something small (a grader) in one actor, which claims no core: beside a model its work does not count."""
    return Operator(name, make, actors=1)


def _generate(
    run: Run, role: Role, config: ModelConfig, sampling: SamplingConfig, generate: Callable[..., Generate] = Generate
) -> Callable[[], Generate]:
    return partial(generate, role, config, run.model_path(config), sampling, run.config.seed)


def shards_in_flight(config: ModelConfig, shard_rows: int) -> int:
    """In each engine: enough that its batch stays full while shards wait for their last rows. `shard_rows`: of a shard, asked at once.

    Where each tenth row is ten times longer, an engine of 256 requests with shards of 256 rows is full 97% of the time with six of them in
    flight and 35% with two; with shards of 1,024 rows 99% with three and 92% with two (simulated).
    """
    wanted = -(-_ROWS_IN_FLIGHT * _requests_at_once(config) // shard_rows)
    return min(max(wanted, _MIN_SHARDS), _MAX_SHARDS)


def _model(name: str, make: Callable[[], TableFunction], config: ModelConfig, shard_rows: int) -> Operator:
    calls = shards_in_flight(config, shard_rows)
    return Operator(name, make, cpus=config.cpus, gpus=config.gpus, actors=config.replicas, calls=calls)


def _requests_at_once(config: ModelConfig) -> int:
    if isinstance(config, VllmModel):
        return config.max_num_seqs
    return config.max_concurrency if isinstance(config, OpenAiModel) else 1


def _bind(function: Callable[..., Any], arguments: tuple[Any, ...]) -> TableFunction:
    return lambda table: function(table, *arguments)
