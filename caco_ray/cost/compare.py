"""A plan beside the run that it was made for."""

from dataclasses import dataclass

from caco_ray.config import STAGES, Config
from caco_ray.cost.measured import data_sets
from caco_ray.cost.plan import Seeds, make_plan
from caco_ray.cost.rates import Rates
from caco_ray.errors import RunDirError
from caco_ray.run import FOLDERS
from caco_ray.stage_config import TRAININGS
from caco_ray.store import Dataset, Folder
from caco_ray.store.dataset import SUCCESS_FILE, is_closed
from caco_ray.store.json_file import read_json


@dataclass(frozen=True)
class Compared:
    """One stage: rows that it was given and seconds that it took, as predicted and as they were."""

    label: str
    rows: float
    real_rows: float
    seconds: float | None
    real_seconds: float

    @property
    def ratio(self) -> float | None:
        """Predicted over real seconds."""
        return self.seconds / self.real_seconds if self.seconds is not None and self.real_seconds else None


def compare(config: Config, seeds: Seeds, rates: Rates, run: Folder, gpu_speed: float = 1) -> list[Compared]:
    """All stages that are closed in the first round of a run, predicted from `config` (its own) alone.

    Raises:
        RunDirError: no stage of it is closed.
        ConfigError: a stage has no rate.
    """
    real = _real(run, config)
    if not real:
        raise RunDirError(f"{run}: no stage of this run is complete")
    last = max((label.split()[0] for label in real), key=STAGES.index)
    plan = make_plan(config.model_copy(update={"from_stage": None, "until": last, "rounds": 1}), seeds, rates, gpu_speed)
    return [
        Compared(estimate.label, estimate.rows, *_pair(real[estimate.label], estimate.seconds))
        for estimate in plan.stages
        if estimate.label in real
    ]


def _pair(real: tuple[float, float], seconds: float | None) -> tuple[float, float | None, float]:
    return real[0], seconds, real[1]


def _real(run: Folder, config: Config) -> dict[str, tuple[float, float]]:
    """Rows and seconds of each closed stage."""
    closed = {label: Dataset(folder) for label, folder in data_sets(run, config) if is_closed(folder)}
    real = {label: (float(dataset.totals.rows), dataset.seconds) for label, dataset in closed.items()}
    for stage in TRAININGS:
        if is_closed(folder := run / FOLDERS[stage]):
            body = read_json(folder, SUCCESS_FILE)
            real[stage] = (float(body["metrics"]["examples"]), float(body["seconds"]))
    return real
