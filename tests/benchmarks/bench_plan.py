"""How well a plan foretells a run: `python -m tests.benchmarks.bench_plan [--samples 200 600] [key=value ...]`

Makes two runs of these arguments (default: profile=quickstart, the embedded model on CPU; about 30 minutes on 2 cores) that differ in
`scale.samples`. The rates of the first and the config of the second alone give the seconds of each stage of the second, as `jobs/plan.py`
would have printed them before it; its own manifests say what it took. With `--runs RATES RUN` two finished runs are compared instead.
Nothing else should be at work on the machine.

The last line is JSON: `ratios` (predicted / real seconds by stage), `total_ratio`, `worst_error` (0.3 = 30%) and `worst_stage` of the stages
that took a second or more: shorter ones are noise, and listed only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from caco_ray.cli import guarded
from caco_ray.cost.compare import Compared
from caco_ray.cost.job import compare_with
from caco_ray.cost.measured import measured
from caco_ray.cost.table import print_comparison
from caco_ray.progress import make_console
from caco_ray.store import Folder

ROOT = Path(__file__).resolve().parents[2]
JUDGED_FROM_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs=2, default=[200, 600], metavar=("SMALL", "LARGE"), help="of the two runs")
    parser.add_argument("--runs", nargs=2, metavar=("RATES", "RUN"), help="finished runs: that was measured, and that is foretold")
    parser.add_argument("arguments", nargs="*", default=["profile=quickstart"], metavar="key=value", help="of both runs that are made")
    options = parser.parse_args()
    if options.runs:
        report(*options.runs)
        return
    with tempfile.TemporaryDirectory() as folder:
        report(*(made(f"{folder}/{samples}", samples, options.arguments) for samples in options.samples))


def made(folder: str, samples: int, arguments: list[str]) -> str:
    """A finished run in this folder."""
    command = [sys.executable, "jobs/run.py", *arguments, f"scale.samples={samples}", f"run.dir={folder}"]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


def report(small: str, large: str) -> None:
    rates = measured(Folder(small))
    stages = compare_with(rates, Folder(large))
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
