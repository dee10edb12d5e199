"""Prove a shipped data set again: what its run committed is checked against itself, and every shipped row is executed again.

Beside its run (`audit.py`): the hash of every shard, conservation at every stage, lineage from stage to stage, unique ids, costs that add
up. With or without its run (`reexecute.py`): the programs, their inputs and outputs, and the answers. A Parquet folder copied elsewhere is
checked as far as that goes, and what could not be checked is said.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice

from pydantic import Field
from rich.console import Console

from caco_ray.cluster.session import connected
from caco_ray.config import ClusterConfig, Config, SandboxConfig, Strict, WatchdogConfig, validate
from caco_ray.errors import ConfigError, StorageError
from caco_ray.ledger import reexecute
from caco_ray.ledger.audit import Audit, audit, check_ids
from caco_ray.ledger.lineage import Cost, Step, balance, held_by, read_config, source_of, stages_with_rows, steps
from caco_ray.ledger.shipped import Survey, survey
from caco_ray.progress import StageBar
from caco_ray.run import FOLDERS
from caco_ray.store import Dataset, Folder, ShardEntry, Totals
from caco_ray.store.dataset import is_closed
from caco_ray.store.lease import Lease

STATE = "verification"  # folder in a run
MOST_NAMED = 1000  # mismatches: of a data set whose sandbox is away there are as many as rows
_NO_RUN = "no run beside the data set (give run=/path/of/run)"


class VerifyConfig(Strict):
    """Arguments of `jobs/verify.py`.

    `dataset` and `run`: folders, local or fsspec URLs; the run is found by itself where the data set lies in it. `fraction` of the rows are
    executed, drawn by `seed`; 0 = none. `state`: where a verification that is killed is gone on with; a folder that all nodes share.
    `sandbox`: keys that are not given are the run's.
    """

    dataset: str = Field(min_length=1)
    run: str | None = None
    fraction: float = Field(1, ge=0, le=1)
    seed: int = Field(0, ge=0)
    state: str | None = None
    sandbox: SandboxConfig | None = None
    cluster: ClusterConfig = ClusterConfig()
    watchdog: WatchdogConfig = WatchdogConfig()


@dataclass(frozen=True)
class Mismatch:
    """A shipped row that was not proved. `infra`: the machinery failed, which says nothing about the row."""

    row_id: str
    reason: str
    infra: bool = False


@dataclass(frozen=True)
class Verification:
    """`faults`: what the audit found; `unchecked`: what could not be checked, and why; `totals`: of the rows that were executed again.

    `mismatches`: the first `MOST_NAMED` of them; the others are counted in `totals`, and lie in the state's data set.
    """

    faults: tuple[str, ...]
    unchecked: tuple[str, ...]
    checked: tuple[str, ...]
    mismatches: tuple[Mismatch, ...]
    totals: Totals | None

    @property
    def holds(self) -> bool:
        executed = self.totals is None or (self.totals.rows > 0 and self.totals.kept == self.totals.rows)
        return not self.faults and executed

    @property
    def reasons(self) -> Counter[str]:
        return Counter(self.totals.rejected if self.totals is not None else {})

    @property
    def unnamed(self) -> int:
        """Mismatches beyond those that are named."""
        return self.totals.rows - self.totals.kept - len(self.mismatches) if self.totals is not None else 0


def verify(config: VerifyConfig, console: Console) -> Verification:
    """Check everything that can be checked.

    Raises:
        ConfigError: `state` is needed.
        RunDirError: no Parquet files, files without the shipped columns, or `run` is none.
        SandboxUnavailableError: the isolation that `sandbox.require` asks for cannot be had.
    """
    run = find_run(config)
    made_by = read_config(run) if run is not None else None
    held = held_by(run) if run is not None else {}
    with connected(config.cluster):
        found = survey(config.dataset)
        there = _steps(config, run, made_by)
        audited = audit(there, made_by, run)
        faults = [*map(str, audited.faults), *map(str, _faults_of_files(config, found)), *_missing_stages(made_by, there)]
        mismatches, totals = _execute(config, run, made_by, found, console) if config.fraction else ((), None)
    if not found.rows:
        faults.append("no rows: an empty data set proves nothing")
    elif totals is not None and not totals.rows:
        faults.append(f"fraction={config.fraction:g} draws none of {found.rows:,} rows: nothing was executed; give a larger one")
    return Verification(tuple(dict.fromkeys(faults)), _unchecked(config, made_by, audited), _checked(audited, held), mismatches, totals)


def find_run(config: VerifyConfig) -> Folder | None:
    """The run that the data set belongs to: as named, or the folder above it if that is one."""
    if config.run is not None:
        return Folder(config.run)
    above, _, name = config.dataset.rstrip("/").rpartition("/")
    is_in_run = above and name == FOLDERS["assemble"] and Folder(above).exists("config.json")
    return Folder(above) if is_in_run else None


def _steps(config: VerifyConfig, run: Folder | None, made_by: Config | None) -> list[Step]:
    """The committed data sets to audit: those of the run, and the shipped one where it lies, if it has its manifest."""
    shipped, audited, source = Folder(config.dataset), list[Step](), None
    if run is not None and made_by is not None:
        audited = [step for step in steps(run, made_by) if step.stage != "assemble"]
        source = source_of("assemble", made_by, run)
    return [*audited, Step("assemble", "assemble", shipped, source)] if is_closed(shipped) else audited


def _missing_stages(made_by: Config | None, there: list[Step]) -> Iterator[str]:
    labels = {step.label for step in there} | {"assemble"}
    for label in stages_with_rows(made_by) if made_by is not None else ():
        if label not in labels:
            yield f"{label}: file: not there, or not complete, though the shipped rows were made of it"


def _faults_of_files(config: VerifyConfig, found: Survey) -> Iterator[object]:
    if not is_closed(Folder(config.dataset)):  # else the audit has looked at files and ids
        yield from found.unread
        yield from check_ids([list(found.ids)], found.rows)


def _execute(
    config: VerifyConfig, run: Folder | None, made_by: Config | None, found: Survey, console: Console
) -> tuple[tuple[Mismatch, ...], Totals]:
    sandbox = _sandbox(config, made_by)
    source = reexecute.ShippedRows(config.dataset, found.slices, config.fraction, config.seed)
    with _state(config, run, console) as folder, StageBar(console, "verify", source.expected_rows, "rows") as bar:

        def on_shard(entry: ShardEntry) -> None:
            bar.advance(entry.totals.rows)

        stage = reexecute.open_stage(folder, source, found.digest, sandbox)
        verified = reexecute.run(replace(stage, cluster=config.cluster, watchdog=config.watchdog), on_shard)
        return tuple(islice(_mismatches(verified), MOST_NAMED)), verified.totals


def _sandbox(config: VerifyConfig, made_by: Config | None) -> SandboxConfig:
    """The run's, with the keys that were given laid over it."""
    of_run = made_by.sandbox if made_by is not None else SandboxConfig()
    given = config.sandbox.model_dump(exclude_unset=True) if config.sandbox is not None else {}
    return validate(SandboxConfig, {**of_run.model_dump(), **given})


def _mismatches(verified: Dataset) -> Iterator[Mismatch]:
    for entry in verified.entries:
        rows = verified.read(entry.shard, kept_only=False).to_pylist() if entry.totals.kept < entry.totals.rows else []
        for row in rows:
            if row["infra_error"] is not None:
                yield Mismatch(row["parent_id"], row["infra_error"], infra=True)
            elif row["reject_reason"] is not None:
                yield Mismatch(row["parent_id"], row["reject_reason"])


@contextmanager
def _state(config: VerifyConfig, run: Folder | None, console: Console) -> Iterator[Folder]:
    """Held by one verification at a time."""
    if config.state is not None or run is not None:
        folder = Folder(config.state) if config.state is not None else run / STATE  # type: ignore[operator]  # one of them is there
        with ExitStack() as held:
            try:
                held.enter_context(Lease(folder, console.print))
            except StorageError as error:
                raise StorageError(f"{error}; or give state=/a/folder where the verification may keep what it has done") from error
            yield folder
        return
    if config.cluster.address != "local":
        raise ConfigError("state: give a folder that all nodes share (there is no run to keep it in)")
    with tempfile.TemporaryDirectory(prefix="caco_ray-verify-") as folder:
        yield Folder(folder)


def _checked(audited: Audit, held: dict[str, Cost]) -> tuple[str, ...]:
    if not audited.rows:
        return ("ids of all rows are compared",)
    stages = ", ".join(f"{label} {rows:,}" for label, rows in audited.rows.items())
    lines = (f"{audited.shards:,} shards of {len(audited.rows)} data sets (rows: {stages})", f"what these rows cost: {audited.cost}")
    return (*lines, balance(held, audited.cost)) if held else lines


def _unchecked(config: VerifyConfig, made_by: Config | None, audited: Audit) -> tuple[str, ...]:
    found = list(audited.unchecked)
    if not is_closed(Folder(config.dataset)):
        found.append("hashes and counts of the shipped files: no manifest (_SUCCESS) in the data set")
    if made_by is None:
        found.append(f"conservation and lineage over the stages, costs: {_NO_RUN}")
    if config.fraction < 1:
        found.append(f"the output of the rows that fraction={config.fraction:g} left out")
    if config.state is None and made_by is None and config.fraction:
        found.append("(a killed verification begins anew: give state=/path to go on with it)")
    return tuple(found)
