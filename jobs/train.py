"""Fine-tune a model on committed data sets, on Ray or, started by torchrun, on its ranks:

python jobs/train.py training=caco_student base=/models/Qwen2.5-Math-7B data=/runs/x/dataset output=/models/student [training.key=value ...]
torchrun --nproc-per-node 8 jobs/train.py (the same)
"""

from caco_ray.cli import run_composed
from caco_ray.training.job_config import TrainJobConfig, load_train_job


def main(config: TrainJobConfig) -> None:
    from caco_ray.training.job import run_train_job  # after the config is known to be right: this import takes seconds

    run_train_job(config)


if __name__ == "__main__":
    run_composed("train", load_train_job, main)
