"""The whole loop, stage by stage. Read this first.

    seeds => unify => train_codegen => scale => select => reverse => solve => [judge] => assemble => train_student => evaluate => report

`=>` is a committed dataset (or model): a run can stop there, and the same command goes on from there. Each function below makes one
of them. The shape of the rows is in `schema.py`, what a plan is in `stage.py`, what is committed in `store/`.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import islice

import pyarrow as pa

from caco_ray.config import STAGES, Config, ModelConfig, SamplingConfig
from caco_ray.errors import RunDirError
from caco_ray.run import Run
from caco_ray.schema import CODE_COT, EVALUATED, JUDGED, PROBLEM, PROGRAM, SEED, SELECTED, SHIPPED, SOLUTION, to_table
from caco_ray.seeds import load_seeds
from caco_ray.source import KeptRows, SampleRange
from caco_ray.stage import Operator
from caco_ray.stages import agreement, assemble, filters, judge, reverse, sample, select, solve, unify
from caco_ray.stages.execute import Execute
from caco_ray.stages.generate import Generate, Parse, Role
from caco_ray.store import DatasetWriter


def run_loop(config: Config) -> None:
    """Run the stages from `from` to `until`, skipping what is done already.

    Raises:
        UserError: one line: what is wrong, where, what to do.
    """
    with Run(config) as run:
        run.save_config()
        wanted = [stage for stage in _bounded(config) if not _is_off(config, stage)]
        worked = [stage for stage in wanted if _run_one(run, stage)]
        if not worked:
            run.console.print(f"Nothing to do: every stage of this config is complete in {run.folder}.")


def _run_one(run: Run, stage: str) -> bool:
    if run.is_done(stage):
        run.say(stage, "done already")
        return False
    started = time.monotonic()
    summary = STEPS[stage](run)
    run.say(stage, summary, time.monotonic() - started)
    return True


def _bounded(config: Config) -> tuple[str, ...]:
    first = STAGES.index(config.from_stage) if config.from_stage else 0
    last = STAGES.index(config.until) if config.until else len(STAGES) - 1
    return STAGES[first : last + 1]


def _is_off(config: Config, stage: str) -> bool:
    switches = {"train_codegen": config.training.codegen.enabled, "train_student": config.training.student.enabled, "judge": config.judge.enabled}
    return not switches.get(stage, True)


def seeds(run: Run) -> str:
    """Solved problems from the configured sources, and the held-out ones of the built-in set."""
    config = run.config.seeds
    count = sum(1 for _ in load_seeds(config))  # reads everything once, so that a bad line stops the run before anything is written
    shards = -(-count // config.shard_rows)
    writer = DatasetWriter(run.stage_folder("seeds"), run.info("seeds", shards), SEED)
    done = writer.open()
    started, rows = time.monotonic(), load_seeds(config)
    for shard in range(shards):
        table = to_table(list(islice(rows, config.shard_rows)), SEED)
        if shard not in done:
            writer.commit(shard, table, table.num_rows, 0.0)
    return _counts(writer.close(time.monotonic() - started))
