"""How well a plan foretells a run: `python -m tests.benchmarks.bench_plan RATES RUN`, both folders of finished runs.

The rates of the first (a small run, say) and the config of the second alone give the seconds of each of its stages, as `jobs/plan.py` would
have printed them before it; its own manifests say what it took. Measure both on the same machine with nothing else at work.

The last line is JSON: `ratios` (predicted / real seconds by stage), `total_ratio`, `worst_error` (0.3 = 30%) and `worst_stage` of the stages
that took a second or more: shorter ones are noise, and listed only.
"""

import argparse
import json

from caco_ray.cli import guarded
from caco_ray.cost.compare import Compared
from caco_ray.cost.job import compare_with, open_rates
from caco_ray.cost.table import print_comparison
from caco_ray.progress import make_console
from caco_ray.store import Folder

JUDGED_FROM_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rates", help="run that was measured")
    parser.add_argument("run", help="run that is foretold")
    arguments = parser.parse_args()
    rates = open_rates(arguments.rates)
    stages = compare_with(rates, Folder(arguments.run))
    print_comparison(make_console(), rates, stages)
    print(json.dumps(figures(stages)))


def figures(stages: list[Compared]) -> dict[str, object]:
    errors = {stage.label: abs(stage.ratio - 1) for stage in stages if stage.ratio is not None and stage.real_seconds >= JUDGED_FROM_S}
    worst = max(errors, key=lambda label: errors[label], default=None)
    return {
        "ratios": {stage.label: round(stage.ratio, 3) for stage in stages if stage.ratio is not None},
        "total_ratio": round(sum(stage.seconds or 0 for stage in stages) / sum(stage.real_seconds for stage in stages), 3),
        "worst_error": round(errors[worst], 3) if worst else None,
        "worst_stage": worst,
        "stages_judged": len(errors),
    }


if __name__ == "__main__":
    guarded(main)
