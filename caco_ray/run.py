"""One run: its folders, its models, its terminal, and Ray, which starts only when a stage has work to do."""

import copy
import json
import os
import time
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console

from caco_ray import __version__
from caco_ray.config import Config, FakeModel, ModelConfig, OpenAiModel
from caco_ray.embedded import embedded_model
from caco_ray.errors import ModelError
from caco_ray.fingerprint import fingerprint, settings
from caco_ray.jsonl import is_exported
from caco_ray.ledger.held import HeldFile
from caco_ray.progress import StageBar, format_seconds, make_console
from caco_ray.rounds import label, prefix
from caco_ray.schema import OF_STAGE
from caco_ray.source import Source
from caco_ray.store import Folder, StageInfo, Totals
from caco_ray.store.dataset import Dataset, check_files, check_same_stage, is_closed, restore_stage_file
from caco_ray.store.lease import Lease
from caco_ray.store.transfer import CACHE_ENV

if TYPE_CHECKING:
    from caco_ray.cluster.nodes import Preflight

# Where each stage's result lies under `run.dir`.
FOLDERS = {
    "seeds": "seeds",
    "unify": "code_cot",
    "train_codegen": "models/codegen",
    "scale": "programs",
    "select": "selected",
    "reverse": "problems",
    "solve": "solutions",
    "judge": "judged",
    "assemble": "dataset",
    "train_student": "models/student",
    "evaluate": "evaluation",
    "report": "",
}


def folder_of(run: Folder, stage: str, number: int = 1) -> Folder:
    """Where the result of a stage in round `number` lies (stages that no round repeats lie in one place)."""
    return run / f"{prefix(stage, number)}{FOLDERS[stage]}"


@dataclass
class _Invocation:
    """What all rounds of one invocation share."""

    exit: ExitStack = field(default_factory=ExitStack)
    connected: bool = False
    checked: set[str] = field(default_factory=set)  # folders
    holds_lease: bool = False
    preflight: "Preflight | None" = None


class Run:
    """Context of one invocation, in one of its rounds. Use as a context manager: leaving it stops the Ray that it started."""

    def __init__(self, config: Config, console: Console | None = None) -> None:
        self.config = config
        self.number = 1  # of the round
        self.folder = Folder(config.run.dir)
        self.console = console or make_console()
        self._shared = _Invocation()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self._shared.exit.close()

    def round(self, number: int) -> "Run":
        """The same invocation, at work in another round."""
        other = copy.copy(self)
        other.number = number
        return other

    def stage_folder(self, stage: str) -> Folder:
        return folder_of(self.folder, stage, self.number)

    def dataset(self, stage: str) -> Dataset:
        """The closed dataset of a stage.

        Raises:
            RunDirError: the stage has not been run.
        """
        return Dataset(self.stage_folder(stage))

    def info(self, stage: str, shards: int = 1, fan_out: int = 1) -> StageInfo:
        made_of = settings(self.config, stage, self.number)
        return StageInfo(stage, fingerprint(self.config, stage, self.number), made_of, shards, fan_out)

    def is_done(self, stage: str) -> bool:
        """Whether the stage is closed by this config, and what is written from its rows is there. Once this invocation holds the run's
        lease, leftovers of killed commits are deleted and a lost `stage.json` is written again.

        Raises:
            RunDirError: the folder was made by another config, or holds damaged or foreign files.
        """
        folder, info = self.stage_folder(stage), self.info(stage)
        lost = check_same_stage(folder, info, trust=self.config.repair is not None)
        if lost and self._shared.holds_lease:
            restore_stage_file(folder, info)
        if not is_closed(folder):
            return False
        if stage in OF_STAGE and stage != "evaluate" and folder.url not in self._shared.checked and self.config.repair is None:
            self._check_files(folder, info)
        if stage != "assemble":
            return True
        return folder.exists("README.md") and (self.config.repair is not None or is_exported(Dataset(folder)))

    def _check_files(self, folder: Folder, info: StageInfo) -> None:
        leftovers = check_files(folder, info, Dataset(folder).entries)
        if self._shared.holds_lease:  # nobody else is at work, and a commit that is late cannot win: the stage is closed
            for name in leftovers:
                folder.delete(name)
        if self._shared.holds_lease or not leftovers:
            self._shared.checked.add(folder.url)

    def connect(self) -> None:
        """Start or join Ray, once.

        Raises:
            ClusterError: the cluster does not answer.
        """
        if self._shared.connected:
            return
        from caco_ray.cluster.session import connected  # importing Ray takes seconds: a bad config must not wait for it

        self._shared.exit.enter_context(connected(self.config.cluster))
        self._shared.connected = True

    def check_nodes(self, stages: list[str]) -> None:
        """Look at every node of a cluster that others started, before the first of these stages. Our own local one is this machine.

        Raises:
            ClusterError: one line for each thing missing.
        """
        if self.config.cluster.address == "local" or not stages:
            return
        self.connect()
        from caco_ray.cluster.nodes import Preflight

        self._shared.preflight = Preflight(self.config, stages, lambda text: self.say("cluster", text))
        self._shared.preflight.check()

    def make_room(self, stage: str, pools: list[Any]) -> dict[str, int]:
        """How many actors of each pool (`room.Pool`) a stage may have now. Nodes that joined meanwhile are looked at.

        Raises:
            ClusterError: there is none for one of them, or something is missing on a node.
        """
        if self._shared.preflight is None:
            return {pool.name: pool.actors for pool in pools}
        self._shared.preflight.check()
        from caco_ray.cluster.room import make_room

        return make_room(stage, pools, self.config.cluster, lambda text: self.say("cluster", text))

    def begin(self) -> None:
        """Take hold of the run directory, say what is run, and keep the resolved config beside the data.

        Raises:
            RunDirError: another driver is at work there.
            StorageError: the storage cannot be written to, or does not let the first of two writers win.
        """
        self._shared.exit.enter_context(Lease(self.folder, self.console.print))
        self._shared.holds_lease = True
        self.console.print(f"caco_ray {__version__}  profile {self.config.profile}  seed {self.config.seed}  in {self.folder}")
        self.folder.write("config.json", self.config.model_dump_json(indent=1, by_alias=True).encode())

    def model_path(self, model: ModelConfig | str) -> str | None:
        """Folder or hub id of a model; None for engines that load none.

        Raises:
            ModelError: the model was to be trained by this run and is not there.
        """
        if isinstance(model, FakeModel | OpenAiModel):
            return None
        path = model if isinstance(model, str) else model.path
        if path == "embedded":
            return str(self._embedded)
        if path.startswith("run:"):
            folder = self.stage_folder(f"train_{path.removeprefix('run:')}")
            if not is_closed(folder):
                raise ModelError(f"model {path}: this run has not trained it (no {folder}/_SUCCESS); run the training stage first")
            model_folder = folder / "model"
            return str(model_folder.local_path) if folder.is_local else model_folder.url
        return path

    @cached_property
    def _embedded(self) -> Path:
        apart = self.config.cluster.address != "local" and self.folder.is_local  # other nodes do not see our working directory
        default = self.folder.local_path / ".cache" if apart else Path(".cache")
        return embedded_model(Path(os.environ.get(CACHE_ENV, default)).absolute() / "models")

    def run_stage(self, stage: str, source: Source, schema: pa.Schema, operators: tuple[Any, ...], folder: Folder | None = None) -> Totals:
        """Run one data stage with a bar."""
        self.connect()
        from caco_ray.cluster.placement import selector
        from caco_ray.cluster.room import Pool
        from caco_ray.runtime.telemetry import Board
        from caco_ray.stage import Stage, run_stage

        cluster = self.config.cluster
        pools = [Pool(each.name, each.cpus, each.gpus, each.memory_mb, each.actors, selector(cluster, each.gpus)) for each in operators]
        room = self.make_room(stage, pools)
        operators = tuple(replace(each, actors=room[each.name]) for each in operators)
        fan_out = getattr(source, "fan_out", 1)
        info = self.info(stage, source.shards, fan_out)
        config = self.config
        plan = Stage(
            info, folder or self.stage_folder(stage), source, operators, schema, config.quarantine, config.watchdog, config.cluster
        )
        name = label(stage, self.number)
        cpus, gpus = (sum(getattr(each, what) * each.actors for each in operators) for what in ("cpus", "gpus"))
        with (
            HeldFile(self.folder, name) as held,
            StageBar(self.console, name, source.expected_rows, "rows") as bar,
            closing(Board(stage, bar, held.add, cpus, gpus)) as board,
        ):
            return run_stage(plan, board.on_shard, board.on_live)

    def claim(self, stage: str) -> Folder:
        """Mark the folder of a stage that is not one dataset (a model, an evaluation) as this config's, before it is filled."""
        folder = self.stage_folder(stage)
        folder.write("stage.json", json.dumps(asdict(self.info(stage)), indent=1, sort_keys=True).encode())
        return folder

    def close(self, stage: str, started: float, **results: Any) -> None:
        """Close such a stage: `results` go into its `_SUCCESS`."""
        body = {**asdict(self.info(stage)), "code_version": __version__, "seconds": round(time.monotonic() - started, 3), **results}
        self.stage_folder(stage).write("_SUCCESS", json.dumps(body).encode())

    def say(self, stage: str, text: str, seconds: float | None = None) -> None:
        """One line for a stage."""
        took = f"  [dim]{format_seconds(seconds)}[/dim]" if seconds is not None else ""
        self.console.print(f"[bold]{label(stage, self.number):<14}[/bold] {text}{took}")
