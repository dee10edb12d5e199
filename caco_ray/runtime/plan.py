"""What a stage is: a committed dataset, the rows it starts from, and the operators that fill them in. Descriptions only; picklable."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from caco_ray.config import ClusterConfig, QuarantineConfig, WatchdogConfig
from caco_ray.runtime.attempts import ATTEMPTS
from caco_ray.runtime.quarantine import TableFunction
from caco_ray.source import Source
from caco_ray.store import Folder, StageInfo


@dataclass(frozen=True)
class Operator:
    """One step of a plan and what it needs.

    `make` returns the table function. With `actors` it is called once in each of that many long-lived actors, each holding `cpus`,
    `gpus` and `memory_mb`, and the object may have `close()`; without, in every task. `calls` shards are worked on at once in an actor,
    from threads. Rows must not depend on each other: a shard may be run in parts. What takes all rows of a shard is the object's
    `complete(table)`, see `quarantine.py`.
    """

    name: str
    make: Callable[[], TableFunction]
    cpus: float = 0
    gpus: float = 0
    memory_mb: int = 0
    actors: int = 0
    calls: int = 1


@dataclass(frozen=True)
class Stage:
    """A committed dataset and the plan that makes it."""

    info: StageInfo
    folder: Folder
    source: Source
    operators: tuple[Operator, ...]
    schema: pa.Schema
    quarantine: QuarantineConfig = field(default_factory=QuarantineConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    @property
    def attempts(self) -> Folder:
        return self.folder / ATTEMPTS

    @property
    def max_infra_errors(self) -> int:
        """Rows that may end with `infra_error`."""
        return int(self.quarantine.max_infra_error_fraction * self.source.expected_rows)
