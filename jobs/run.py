"""Run the loop: python jobs/run.py profile=quickstart run.dir=/abs/path [from=STAGE] [until=STAGE] [key=value ...]

Keys and their defaults: conf/config.yaml and caco_ray/config/, which says what each means. `-m` runs the points of a sweep one by one;
`--cfg job` prints the composed config and runs nothing.
"""

from caco_ray.cli import run_job
from caco_ray.config import Config


def main(config: Config) -> None:
    from caco_ray.pipeline import run_loop  # after the config is known to be right: this import takes seconds

    run_loop(config)


if __name__ == "__main__":
    run_job(main)
