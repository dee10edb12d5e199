"""The report as one HTML page that needs nothing else: no scripts, no fonts, no network.

Everything that a model wrote is escaped (autoescape), and the page forbids scripts and every other resource to itself
(Content-Security-Policy), so that a mistake in the template is not a hole.
"""

import json

from jinja2 import Environment, PackageLoader, StrictUndefined

from caco_ray.config import STAGES, Config
from caco_ray.progress import format_seconds
from caco_ray.report.charts import funnel_bars, loss_curve
from caco_ray.report.funnel import RunReport, StageReport, collect
from caco_ray.report.models import TrainingReport, fake_roles
from caco_ray.report.numbers import metric, number, percent, short
from caco_ray.report.rounds import compare
from caco_ray.rounds import REPEATED
from caco_ray.schema import REASONS
from caco_ray.store import Folder

PAGE = "report.html"


def write_report(run_folder: Folder, config: Config, samples: int) -> RunReport:
    """Collect the numbers of a run and write `report.html` into its folder.

    Raises:
        RunDirError: a file that a closed stage names is missing or damaged.
        StorageError: the storage refuses the write.
    """
    report = collect(run_folder, samples)
    run_folder.write(PAGE, render_page(report, config).encode())
    return report


def render_page(report: RunReport, config: Config) -> str:
    """The whole page."""
    return (
        environment()
        .get_template("page.html")
        .render(
            report=report,
            config=config,
            config_json=json.dumps(config.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False),
            bars=funnel_bars([stage for stage in report.stages if not stage.name.startswith("evaluate")]),
            curves={training.name: loss_curve(training.losses) for training in report.trainings},
            parts=sorted((*report.stages, *report.trainings), key=_position),
            comparison=compare(report.rounds),
            fake_roles=fake_roles(config),
            reasons=REASONS,
        )
    )


def _position(part: StageReport | TrainingReport) -> tuple[int, int]:
    """In the order of the loop: what is repeated, round by round."""
    stage, _, of_round = part.name.partition(" round ")
    at = STAGES.index(stage.split()[0])
    return STAGES.index(REPEATED[0]) if STAGES[at] in REPEATED else at, int(of_round or 1) * len(STAGES) + at


def environment() -> Environment:
    """Templates of this package, with the filters for numbers."""
    made = Environment(
        loader=PackageLoader("caco_ray", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {
        "count": _count,
        "percent": percent,
        "duration": format_seconds,
        "short": short,
        "number": number,
        "metric": metric,
    }
    return made


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
