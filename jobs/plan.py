"""What a run will take, before it runs: python jobs/plan.py profile=gpu8 scale.samples=1e6 [plan.rates=/abs/small/run] [key=value ...]

plan.rates: a run or a file of rates (default: the paper's); plan.compare=/abs/run: its config, and its real times beside the predicted;
plan.seeds=339000: so many seeds without code, instead of those of seeds.path;
plan.gpu_hour, plan.cpu_hour: prices; plan.gpu_speed: of the GPUs against the measured ones.
"""

import sys

from caco_ray.cli import run_composed
from caco_ray.cost.job import PlanJobConfig, load_plan_job

NO_RUN = "run.dir=/a/plan/has/no/run.dir"  # the first of its kind: one that is given comes later, and counts
NO_FILE = "seeds.path=/none/with/plan.seeds"  # the same; nobody opens it


def main(config: PlanJobConfig) -> None:
    from caco_ray.cost.job import run_plan_job  # after the config is known to be right

    run_plan_job(config)


if __name__ == "__main__":
    sys.argv[1:1] = [NO_RUN, *([NO_FILE] if any(each.startswith("plan.seeds=") for each in sys.argv) else [])]
    run_composed("config", load_plan_job, main)
