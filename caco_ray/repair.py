"""`repair=all` or `repair=STAGE`: make the damaged shards of a run again, and nothing else.

Before the stages run, every shard of the chosen data sets is read and compared with its recorded hash; damaged shards and files of others
are set aside. The stages then make what is missing. A shard that comes out with the same rows, measured times aside, is the end of
it; otherwise the stages after it make the shards anew that were made of it. Limit: trained models are not judged. When rows that one was
trained on have changed, the run says so and leaves the decision to the user.
"""

from caco_ray.errors import RunDirError
from caco_ray.ledger.lineage import Step, shard_at, source_of
from caco_ray.rounds import places
from caco_ray.run import Run
from caco_ray.schema import OF_STAGE
from caco_ray.store import Folder
from caco_ray.store.dataset import DERIVED, STAGE_FILE
from caco_ray.store.repair import find_faults, forget, reopen, replaced, take_out

# What is made of the shard `i` of a stage: the shard `i` of these stages ...
_CHILDREN: dict[str, tuple[str, ...]] = {
    "seeds": ("unify", "evaluate"),
    "select": ("reverse",),
    "reverse": ("solve",),
    "solve": ("judge", "assemble"),
    "judge": ("assemble",),
}
# ... or all shards, since duplicates are sought among all rows ...
_CHILDREN_ENTIRE = {"unify": ("select",), "scale": ("select",)}
# ... or a model: the student, or the generators of this round and later ones (of `select`: of later ones).
_MODELS = {"unify": "train_codegen", "select": "train_codegen", "assemble": "train_student"}


def repair(run: Run, chosen: str) -> None:
    """Set aside what is damaged in the data sets of `chosen` (a stage, in all rounds, or `all`) and say what.

    Raises:
        StorageError: the storage does not answer: nothing is taken for damaged.
    """
    for number, stage in places(run.config.rounds):
        if stage not in OF_STAGE or chosen not in ("all", stage):
            continue
        its = run.round(number)
        its.is_done(stage)  # writes a lost `stage.json` again
        for folder in data_folders(its, stage):
            its.say(stage, "reading all shards")
            faults = find_faults(folder, its.info(stage))
            for fault in faults:
                its.say(stage, f"{fault}: set aside")
            take_out(folder, faults)
            if stage == "assemble":  # nobody recorded the hashes of these files
                for name in DERIVED:
                    folder.delete(name)
            if faults and stage == "evaluate":
                run.stage_folder(stage).delete("_SUCCESS")  # of the comparison of both


def settle(run: Run, stage: str) -> None:
    """Once a stage is closed: have the stages after it make anew what was made of shards that have other rows now."""
    if stage not in OF_STAGE:
        return
    for folder in data_folders(run, stage):
        again, changed = replaced(folder)
        if changed:
            run.say(stage, f"made again with other rows than before: shards {', '.join(map(str, changed))}")
            _reopen_children(run, stage, changed)
        forget(folder, again)


def data_folders(run: Run, stage: str) -> list[Folder]:
    """The data sets of a stage that are there: one, or for `evaluate` one of each model."""
    folder = run.stage_folder(stage)
    candidates = [folder / name for name in run.config.evaluate.models] if stage == "evaluate" else [folder]
    return [candidate for candidate in candidates if candidate.exists(STAGE_FILE)]


def _reopen_children(run: Run, stage: str, shards: list[int]) -> None:
    for child in _CHILDREN.get(stage, ()):
        for folder in data_folders(run, child):
            reopen(folder, _shipped_shards(run, shards) if child == "assemble" else shards)
        if child == "evaluate":
            run.stage_folder(child).delete("_SUCCESS")
    later = [run.round(number) for number in range(run.number, run.config.rounds + 1)]
    for child in _CHILDREN_ENTIRE.get(stage, ()):
        for its in later:
            reopen(its.stage_folder(child))
    if stage in _MODELS:
        _name_models(later[1:] if stage == "select" else later, _MODELS[stage], run.stage_folder(stage))


def _name_models(rounds: list[Run], model: str, data: Folder) -> None:
    for its in rounds:
        if its.stage_folder(model).exists(STAGE_FILE):
            its.say(model, f"trained on the former rows of {data}; to train it again, delete {its.stage_folder(model)} and what it made")


def _shipped_shards(run: Run, shards: list[int]) -> list[int] | None:
    """The shards of the shipped data set that are made of these of the run's round; None, which means all, where that cannot be said."""
    try:
        shipped = Step("", "assemble", run.stage_folder("assemble"), source_of("assemble", run.config, run.folder))
        return [at for shard in shards if (at := shard_at(shipped, (run.number, shard))) is not None]
    except RunDirError:
        return None
