"""The whole loop, stage by stage. Read this first.

    seeds => unify => train_codegen => scale => select => reverse => solve => [judge] => assemble => train_student => evaluate => report
                      └──────────── once in each of the `rounds` (rounds.py) ───────────┘

`=>` is a committed dataset (or model): a run can stop there, and the same command goes on from there. Each function below makes one
of them. The shape of the rows is in `schema.py`, what a plan is in `stage.py`, what is committed in `store/`.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import chain, islice

from caco_ray.config import Config, TrainingConfig, VllmModel
from caco_ray.errors import CacoError, SeedError, UserError
from caco_ray.evaluation import evaluate_rows
from caco_ray.evaluation.base_model import ask_base
from caco_ray.jsonl import export_json_lines
from caco_ray.ledger.held import HeldFile
from caco_ray.ledger.lineage import source_of, target_of
from caco_ray.operators import actor, executor, model, solvers, task
from caco_ray.own_models import check_done, weights_of
from caco_ray.preflight import check_run
from caco_ray.progress import StageBar
from caco_ray.repair import repair, settle
from caco_ray.report import print_table, write_card, write_report
from caco_ray.report.numbers import percent
from caco_ray.rounds import bounded, label, prefix
from caco_ray.run import FOLDERS, Run
from caco_ray.schema import CODE_COT, EVALUATED, JUDGED, PROBLEM, PROGRAM, SEED, SELECTED, SHIPPED, SOLUTION, to_table
from caco_ray.seeds import load_seeds
from caco_ray.seeds.files import read_records
from caco_ray.source import SampleRange, Source, rows_per_shard
from caco_ray.stage import Operator
from caco_ray.stage_config import is_off
from caco_ray.stages import agreement, filters, select
from caco_ray.stages.generate import Generate
from caco_ray.stages.mark import mark_contaminated, mark_duplicates
from caco_ray.stages.question import check_questions
from caco_ray.stages.repeats import question_keys
from caco_ray.store import Dataset, DatasetWriter, Folder, Totals
from caco_ray.store.dataset import committed
from caco_ray.target import RoundFolder, Standing, Target
from caco_ray.training.sources import committed_data
from caco_ray.training.types import Step, TrainingData

REPORT = "report.html"


def run_loop(config: Config) -> None:
    """Run the stages from `from` to `until`, skipping what is done already.

    Raises:
        UserError: one line: what is wrong, where, what to do.
    """
    on = tuple(stage for stage in STEPS if not is_off(config, stage))
    chosen = bounded(config)
    wanted = [(number, stage) for number, stage in chosen if stage in on]
    with Run(config) as run:
        check_run(run, on, [stage for _, stage in wanted])
        run.begin()
        if config.repair is not None:
            repair(run, config.repair)
        to_do = [stage for number, stage in wanted if not run.round(number).is_done(stage)]
        if to_do:
            run.folder.delete(REPORT)  # it tells of less than there will be
        try:
            run.check_nodes(to_do)
            for number, stage in wanted:
                _run_one(run.round(number), stage)
        except UserError:
            _report_what_there_is(run)
            raise
        if chosen[-1][1] == "report" and not run.folder.exists(REPORT):
            report(run)
        elif not to_do:
            run.console.print(f"Nothing to do: what this config asks for is complete in {run.folder}.")


def _run_one(run: Run, stage: str) -> None:
    if run.is_done(stage):
        check_done(run.folder, run.config, stage, run.number)
        if stage in _SEARCHES:
            _search_folder(run, stage).delete("")  # of a run that was killed before it did
        run.say(stage, "done already")
    else:
        _check_learned(run, stage)
        started = time.monotonic()
        summary = STEPS[stage](run)
        run.say(stage, summary, time.monotonic() - started)
    settle(run, stage)


def _report_what_there_is(run: Run) -> None:
    """The reasons why rows were rejected often say why a later stage cannot go on."""
    if run.is_done("seeds"):
        with suppress(CacoError):  # the error that brought us here is the one to show
            write_report(run.folder, run.config, run.config.report.samples)


def _check_learned(run: Run, stage: str) -> None:
    """A round that found nothing new leaves the next one nothing to learn: say so, instead of sampling the same programs again."""
    before = run.number - 1
    if not before or stage not in ("train_codegen", "scale"):
        return
    found = run.round(before).dataset("select").totals
    if not found.kept:
        raise UserError(
            f"round {before}: none of its {found.rows:,} programs is new and kept ({_reasons(found) or 'none came so far'}), so round "
            f"{run.number} has nothing to learn from; see {run.folder}/{REPORT}. rounds={before} ships what there is"
        )


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
    if next(rows, None) is not None:
        raise SeedError(f"seeds: a source grew while it was read ({count:,} seeds before); run the same command again when it is complete")
    return _counts(writer.close(time.monotonic() - started))


def unify(run: Run) -> str:
    """Every training seed as an executed Code CoT whose output is the known answer. Seeds without code are converted by a model; what
    overlaps with evaluation problems is not, so that no model learns it."""
    config = run.config
    all_have_code = all(row["code"] is not None for row in run.dataset("seeds").rows())
    source = _source(run, "unify")
    convert = () if all_have_code else (model(run, "unify", config.models.unify, config.unify.sampling, rows_per_shard(source)),)
    operators = (
        task("decontaminate", mark_contaminated, _protected_questions(run), "question"),
        *convert,
        task("filter_source", filters.before_execution, config.filters),
        executor(config.sandbox, check_determinism=False),
        task("filter_result", filters.after_execution, config.filters),
        actor("match_answer", agreement.MatchKnownAnswer),
    )
    return _counts(run.run_stage("unify", source, CODE_COT, operators))


def train_codegen(run: Run) -> str:
    """The sampler, fine-tuned on the kept programs of `unify` (in quickstart on the other two roles as well) and of the rounds before."""
    training = run.config.training.codegen
    return _train(run, "train_codegen", training, run.config.models.base, codegen_data(run))


def codegen_data(run: Run) -> list[TrainingData]:
    """What the generator of this round learns from: programs of its own have no question yet, and teach `sample` alone."""
    training = run.config.training.codegen
    data = [committed_data(FOLDERS["unify"], run.dataset("unify"), training)]
    for number in range(1, run.number):
        name = f"{prefix('select', number)}{FOLDERS['select']}"
        data.append(committed_data(name, run.round(number).dataset("select"), training, run.config.own_weight, roles=("sample",)))
    return data


def scale(run: Run) -> str:
    """New programs: sampled, executed and filtered in one streaming plan. With `scale.accept` in rounds, until so many are kept."""
    config = run.config
    operators = (
        model(run, "sample", config.models.sampler, config.sampling, config.scale.shard_rows),
        task("filter_source", filters.before_execution, config.filters),
        executor(config.sandbox, config.filters.check_determinism),
        task("filter_result", filters.after_execution, config.filters),
    )
    if (target := target_of(config)) is not None:
        return _scale_to_target(run, target, operators)
    return _counts(run.run_stage("scale", _source(run, "scale"), PROGRAM, operators))


def select_programs(run: Run) -> str:
    """Duplicates of earlier programs (of earlier rounds too) and of seeds, held-out ones too, and programs that share an n-gram with
    evaluation problems."""
    run.connect()
    from caco_ray.duplicates import Key, find_duplicates

    protected = _protected_questions(run)
    known = [run.stage_folder("seeds"), run.stage_folder("unify")]  # as given, the held-out ones too; and as converted
    known += [run.round(number).stage_folder("scale") for number in range(1, run.number)]
    search, key = _search_folder(run, "select"), Key(("code",), select.program_keys)
    found = find_duplicates(run.stage_folder("scale"), known, key, search, timeout_s=run.config.watchdog.timeout_s)
    operators = (
        task("mark_duplicates", mark_duplicates, found, "program_id", ("duplicate_exact", "duplicate_ast")),
        task("decontaminate", mark_contaminated, protected, "code"),
    )
    totals = run.run_stage("select", _source(run, "select"), SELECTED, operators)
    search.delete("")  # its rows are marked
    return _counts(totals)


_SEARCHES = {"select": "duplicates", "solve": "repeated_questions"}  # folders, while the stage runs


def _search_folder(run: Run, stage: str) -> Folder:
    return run.folder / f"{prefix(stage, run.number)}{_SEARCHES[stage]}"


def reverse_programs(run: Run) -> str:
    """A question for each selected program, checked cheaply before anybody tries to solve it."""
    config = run.config
    protected, source = _protected_questions(run), _source(run, "reverse")
    operators = (
        model(run, "reverse", config.models.reverse, config.reverse.sampling, rows_per_shard(source)),
        task("check_question", check_questions, config.reverse),
        task("decontaminate", mark_contaminated, protected, "question"),
    )
    return _counts(run.run_stage("reverse", source, PROBLEM, operators))


def solve(run: Run) -> str:
    """A language solution of each question, from the question alone; kept where its answer is the executed one. Of equal questions with
    equal answers (of earlier rounds too) the first is solved."""
    run.connect()
    from caco_ray.duplicates import Key, find_duplicates

    known = [run.round(number).stage_folder("reverse") for number in range(1, run.number)]
    search, key = _search_folder(run, "solve"), Key(("question", "program_answer", "output_json"), question_keys)
    found = find_duplicates(run.stage_folder("reverse"), known, key, search, timeout_s=run.config.watchdog.timeout_s)
    source = _source(run, "solve")
    marked = task("mark_duplicates", mark_duplicates, found, "problem_id", ("duplicate_question", "duplicate_question"))
    totals = run.run_stage("solve", source, SOLUTION, (marked, *solvers(run, rows_per_shard(source))))
    search.delete("")  # its rows are marked
    return _counts(totals)


def judge(run: Run) -> str:
    """Does the solution follow the program? A model says yes or no."""
    config, source = run.config, _source(run, "judge")
    operators = (model(run, "judge", config.models.judge, config.judge.sampling, rows_per_shard(source)),)
    return _counts(run.run_stage("judge", source, JUDGED, operators))


def assemble_dataset(run: Run) -> str:
    """The shipped data set, of all rounds: Parquet and JSON Lines, and its card."""
    totals = run.run_stage("assemble", _source(run, "assemble"), SHIPPED, ())
    run.say("assemble", f"writing {totals.kept:,} rows as JSON Lines too")
    export_json_lines(run.dataset("assemble"))
    write_card(run.folder, run.config)
    return f"{totals.kept:,} rows shipped"


def train_student(run: Run) -> str:
    """A student, fine-tuned on the shipped instructions and solutions."""
    training = run.config.training.student
    data = committed_data(FOLDERS["assemble"], run.dataset("assemble"), training)
    return _train(run, "train_student", training, run.config.models.student, [data])


def evaluate(run: Run) -> str:
    """pass@1 of the student, and of the model it was trained from, on problems that no training saw. The student is asked with the text of
    its training, the base by its own chat template where it has one."""
    config, started = run.config, time.monotonic()
    paths = {"base": config.models.student, "student": "run:student"}
    folder, source = run.claim("evaluate"), _source(run, "evaluate")
    results = {}
    for name in config.evaluate.models:
        served = config.models.evaluate
        if isinstance(served, VllmModel):
            served = served.model_copy(update={"path": paths[name]})
        ask, rows = ask_base if name == "base" else Generate, rows_per_shard(source)
        operators = (model(run, "solve", served, config.evaluate.sampling, rows, ask), actor("grade", agreement.Grade))
        run.run_stage("evaluate", source, EVALUATED, operators, folder / name)
        results[name] = evaluate_rows(Dataset(folder / name).rows(kept_only=False))
    folder.write("summary.json", json.dumps({name: result.to_dict() for name, result in results.items()}, indent=1).encode())
    run.close("evaluate", started)
    return "pass@1 " + ", ".join(f"{name} {percent(result.overall.pass_at_1)} ({result.remarks})" for name, result in results.items())


def report(run: Run) -> None:
    """The funnel, times, tokens, loss curves and samples on one page, and in short on the terminal."""
    print_table(run.console, write_report(run.folder, run.config, run.config.report.samples))
    run.say("report", f"{run.folder}/{REPORT}")


STEPS: dict[str, Callable[[Run], str]] = {
    "seeds": seeds,
    "unify": unify,
    "train_codegen": train_codegen,
    "scale": scale,
    "select": select_programs,
    "reverse": reverse_programs,
    "solve": solve,
    "judge": judge,
    "assemble": assemble_dataset,
    "train_student": train_student,
    "evaluate": evaluate,
}


def _scale_to_target(run: Run, target: Target, operators: tuple[Operator, ...]) -> str:
    started, folder, source = time.monotonic(), run.stage_folder("scale"), _source(run, "scale")
    assert isinstance(source, SampleRange)

    def standing() -> Standing:
        return target.standing({shard: entry.totals.kept for shard, entry in committed(folder).items()})

    while (at := standing()).outcome is None:
        run.say("scale", f"pass {at.rounds}: {at.kept:,} of {target.accept:,} programs kept, sampling up to {at.samples:,}")
        run.run_stage("scale", replace(source, samples=at.samples), PROGRAM, operators, RoundFolder(folder.url))
    totals = DatasetWriter(folder, run.info("scale", at.shards), PROGRAM).close(time.monotonic() - started)
    return f"{target.describe(at)}; {_counts(totals)}"


def _train(run: Run, stage: str, training: TrainingConfig, base: str, data: list[TrainingData]) -> str:
    run.connect()
    from caco_ray.cluster.handover import wait_for_gpus
    from caco_ray.cluster.needs import pools
    from caco_ray.cluster.session import check_room
    from caco_ray.runtime.telemetry import Held
    from caco_ray.training.remote import train_remote
    from caco_ray.training.trainer import train_model

    workers = training.workers
    run.make_room(stage, pools(run.config, stage))  # a training never goes on with fewer workers: `check_room` refuses
    check_room(stage, {"training": (float(workers * training.cpus_per_worker), float(workers * training.gpus_per_worker))})
    wait_for_gpus(stage, workers * training.gpus_per_worker, run.config.cluster)
    started, folder, name = time.monotonic(), run.claim(stage), label(stage, run.number)
    with HeldFile(run.folder, name) as file, StageBar(run.console, name, 1, "steps") as bar:
        held = Held(stage, workers * training.cpus_per_worker, workers * training.gpus_per_worker, file.add)

        def on_step(step: Step) -> None:
            held.count()
            bar.set(step.step, step.steps, f"loss {step.loss:.3f}, {step.tokens_per_s:,.0f} tokens/s")

        train = partial(train_model, output_dir=folder.local_path) if folder.is_local else partial(train_remote, output=folder)
        try:
            result = train(training, base=str(run.model_path(base)), data=data, on_step=on_step)
        finally:
            held.count()
    run.close(stage, started, metrics=asdict(result), weights=weights_of(folder))
    figures = f"{result.examples:,} examples, {result.steps:,} steps, {result.tokens_per_s:,.0f} tokens/s, loss {result.final_loss:.3f}"
    return f"{figures}{result.remarks}"


def _protected_questions(run: Run) -> select.EvaluationIndex:
    """n-grams of the held-out seeds and of the files named in `select.evaluation_paths`."""
    config = run.config.select
    heldout = (row["question"] for row in run.dataset("seeds").rows() if row["split"] == "heldout")
    files = (_protected_file(path, config.question_field) for path in config.evaluation_paths)
    return select.evaluation_index(chain(heldout, *files), config.ngram)


def _protected_file(path: str, field: str) -> Iterator[str]:
    for place, record in read_records(path, "select.evaluation_paths"):
        if not isinstance(record.get(field), str):
            raise SeedError(f"{path}, {place}: no text in field {field!r} (select.question_field)")
        yield record[field]


def _source(run: Run, stage: str) -> Source:
    return source_of(stage, run.config, run.folder, run.number)


def _reasons(totals: Totals) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in totals.rejected.items())


def _counts(totals: Totals) -> str:
    reasons = _reasons(totals)
    quarantined = f", {totals.quarantined:,} quarantined" if totals.quarantined else ""
    return f"{totals.rows:,} rows, {totals.kept:,} kept{': ' if reasons else ''}{reasons}{quarantined}"
