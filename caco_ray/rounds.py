"""Self-improvement: with `rounds=k` the loop runs k times from `train_codegen` to `judge`, and ships the rows of all rounds together.

Seeds and their Code CoTs are made once. The generator of round r > 1 starts from `models.base` again, as in STaR (arXiv 2203.14465) and
ReST-EM (arXiv 2312.06585), and learns from the seeds and from the programs that the rounds before it kept and selected. Round 1 lies where
the only round of `rounds=1` does and is the same data: more rounds can be asked for later. Round r > 1 lies under `rounds/<r>/`.

`from` and `until` name stages of the last round; the rounds before it are whole, and made first unless `from` forbids it.
"""

from caco_ray.config import STAGES, Config

REPEATED = STAGES[STAGES.index("train_codegen") : STAGES.index("judge") + 1]
FOLDER = "rounds"


def prefix(stage: str, number: int) -> str:
    """What stands before the folder of a stage in round `number`."""
    return f"{FOLDER}/{number}/" if number > 1 and stage in REPEATED else ""


def label(stage: str, number: int) -> str:
    """Name of a stage's data set in reports; its first word is the stage."""
    return f"{stage} round {number}" if number > 1 and stage in REPEATED else stage


def places(number: int) -> list[tuple[int, str]]:
    """All stages of a run with so many rounds, each with its round, in the order in which they run."""
    first, last = STAGES.index(REPEATED[0]), STAGES.index(REPEATED[-1])
    repeated = [(at, stage) for at in range(1, number + 1) for stage in REPEATED]
    return [*((1, stage) for stage in STAGES[:first]), *repeated, *((number, stage) for stage in STAGES[last + 1 :])]


def bounded(config: Config) -> list[tuple[int, str]]:
    """The places from `from` to `until`."""
    run = places(config.rounds)
    of_last = {stage: position for position, (_, stage) in enumerate(run)}  # of a stage that is there several times, the last
    first = of_last[config.from_stage] if config.from_stage else 0
    return run[first : (of_last[config.until] if config.until else len(run)) + 1]
