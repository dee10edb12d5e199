"""`jobs/plan.py`: from a composed config to a printed plan, or to a comparison with what a run really took."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveInt

from caco_ray.config import Config, SeedsConfig, Strict, load_config, validate
from caco_ray.cost.compare import Compared, compare
from caco_ray.cost.measured import data_sets, measured
from caco_ray.cost.plan import Plan, Prices, Seeds, make_plan
from caco_ray.cost.rates import Rates, device_of, published, quickstart, read_rates
from caco_ray.cost.table import print_comparison, print_plan
from caco_ray.errors import RunDirError
from caco_ray.fingerprint import settings
from caco_ray.ledger.lineage import read_config
from caco_ray.progress import make_console
from caco_ray.run import FOLDERS
from caco_ray.seeds import load_seeds
from caco_ray.seeds.builtin import builtin_seeds
from caco_ray.stage_config import MODELS, TRAININGS, training_of
from caco_ray.store import Folder
from caco_ray.store.dataset import SUCCESS_FILE, differences, is_closed
from caco_ray.store.json_file import read_json
from caco_ray.training.plan import too_short

_FILES = (".yaml", ".yml", ".json")
_SIZES = ("scale.samples", "scale.shard_rows", "scale.accept", "scale.budget", "seed", "round")  # settings that change how much, not how


class PlanConfig(Strict):
    """Keys `plan.*` of `jobs/plan.py`."""

    rates: str | None = None  # folder or URL of a run, or a .yaml file like `published.yaml`; null = one that comes with the package
    compare: str | None = None  # folder or URL of a run: plan what it did
    seeds: PositiveInt | None = None  # take so many seeds, all without code, instead of counting those of the config
    gpu_hour: NonNegativeFloat | None = None  # prices, in any one currency
    cpu_hour: NonNegativeFloat | None = None
    gpu_speed: float = Field(1, ge=0.01, le=100)  # of the GPUs, as a multiple of those that the rates were measured on


class PlanJobConfig(Strict):
    """A run, and how to plan it."""

    plan: PlanConfig
    config: Config


def load_plan_job(tree: Mapping[str, Any]) -> PlanJobConfig:
    """Validate the composed tree of `conf/config.yaml` with keys `plan.*` beside its own.

    Raises:
        ConfigError: one line per mistake with the key, the value and what is allowed.
    """
    own = {key: value for key, value in tree.items() if key == "plan"}
    job = validate(_PlanKeys, own)
    return PlanJobConfig(plan=job.plan, config=load_config({key: value for key, value in tree.items() if key not in own}))


class _PlanKeys(Strict):
    plan: PlanConfig = PlanConfig()


def run_plan_job(job: PlanJobConfig) -> None:
    """Print the plan, or the comparison.

    Raises:
        UserError: one line: what is wrong, where, what to do.
    """
    plan, console = job.plan, make_console()
    run = _run("plan.compare", plan.compare) if plan.compare is not None else None
    rates = open_rates(plan.rates, read_config(run) if run is not None else job.config)
    if run is not None:
        print_comparison(console, rates, compare_with(rates, run, plan.gpu_speed))
        return
    made = make_plan(job.config, count_seeds(job.config.seeds, plan.seeds), rates, plan.gpu_speed)
    print_plan(console, made, rates, published(), Prices(plan.gpu_hour, plan.cpu_hour))
    notes = [*rates.doubts, *short_trainings(job.config, made)]
    if plan.rates is not None and not plan.rates.endswith(_FILES):
        notes += (f"the rates were measured with other settings. {line}" for line in changed(Folder(plan.rates), job.config))
    for note in notes:
        console.print(f"NOTE: {note}", markup=False)


def short_trainings(config: Config, plan: Plan) -> Iterator[str]:
    """Trainings that a run would refuse: by the rates, its rows make too few steps."""
    for estimate in plan.stages:
        if (stage := estimate.label.split()[0]) in TRAININGS and (said := too_short(estimate.rows, training_of(config, stage))):
            yield f"{estimate.label} would be refused: {said}"


def open_rates(path: str | None, config: Config) -> Rates:
    """Of a run, of a file, or those that come with the package: the quickstart's for its model on CPU, the paper's for everything else.

    Raises:
        UserError: there are none.
    """
    if path is None:
        return quickstart() if config.models.base == "embedded" and device_of(config.models.sampler) == "cpu" else published()
    return read_rates(path) if path.endswith(_FILES) else measured(_run("plan.rates", path))


def count_seeds(config: SeedsConfig, given: int | None = None) -> Seeds:
    """The seeds of a config, counted one by one; or `given` ones without code, beside the held-out ones.

    Raises:
        SeedError: a source is unreadable.
    """
    if given is not None:
        return Seeds(given, sum(1 for _ in builtin_seeds("heldout")), given)
    counts = Counter((row["split"], row["code"] is None) for row in load_seeds(config))
    train, without = counts["train", False] + counts["train", True], counts["train", True]
    return Seeds(train, counts.total() - train, without)


def compare_with(rates: Rates, run: Folder, gpu_speed: float = 1) -> list[Compared]:
    """What the rates say of a run from its config alone, beside what it really took.

    Raises:
        UserError: no run there, or a stage of it has no rate.
    """
    config = read_config(run)
    return compare(config, count_seeds(config.seeds), rates, run, gpu_speed)


def _run(key: str, path: str) -> Folder:
    """Raises RunDirError: no run there."""
    folder = Folder(path)
    if not folder.exists("config.json"):
        raise RunDirError(f"{key}={path}: not a run (no config.json there)")
    return folder


def changed(run: Folder, config: Config) -> Iterator[str]:
    """Settings of models, sampling and trainings in which a measured run differs from a config: one line for each stage."""
    folders = {label.split()[0]: folder for label, folder in data_sets(run, config)} | {name: run / FOLDERS[name] for name in TRAININGS}
    for stage in (*MODELS, *TRAININGS):
        folder = folders[stage]
        if is_closed(folder):
            found = differences(read_json(folder, SUCCESS_FILE).get("settings", {}), settings(config, stage))
            if found := [line for line in found if not line.startswith(_SIZES)]:
                yield f"{stage}: {'; '.join(found)}"
