"""Procedural problems of `reasoning-gym` (https://github.com/open-thought/reasoning-gym, Apache-2.0): question and answer, no code."""

from collections.abc import Iterator

from caco_ray.config import SeedsConfig
from caco_ray.errors import ConfigError
from caco_ray.schema import Row


def reasoning_gym_seeds(config: SeedsConfig) -> Iterator[Row]:
    """`size` problems of each task, the same ones for the same seed.

    Raises:
        ConfigError: the package is not installed, or a task is unknown.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise ConfigError("seeds.sources=reasoning_gym: install the extra: pip install 'caco_ray[procedural]'") from None
    options = config.reasoning_gym
    for task in options.tasks:
        if task not in DATASETS:
            raise ConfigError(f"seeds.reasoning_gym.tasks: no task {task!r}; there are {', '.join(sorted(DATASETS))}")
        for number, problem in enumerate(reasoning_gym.create_dataset(task, size=options.size, seed=options.seed)):
            yield {
                "question": problem["question"],
                "answer": str(problem["answer"]),
                "domain": task,
                "split": "train",
                "source": "reasoning_gym",
                "source_id": f"{task}-{options.seed}-{number}",
            }
