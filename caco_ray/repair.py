"""`repair=all` or `repair=STAGE`: make the damaged shards of a run again, and nothing else.

Before the stages run, every shard of the chosen data sets is read and compared with its recorded hash; damaged shards and files of others
are set aside. The stages then make what is missing. A shard that comes out with the same rows, measured times aside, is the end of
it; otherwise the stages after it make the shards anew that were made of it. Limit: trained models are not judged. When rows that one was
trained on have changed, the run says so and leaves the decision to the user.
"""

from caco_ray.config import STAGES
from caco_ray.run import FOLDERS, Run
from caco_ray.schema import OF_STAGE
from caco_ray.store import Folder
from caco_ray.store.dataset import STAGE_FILE
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
# ... or a model.
_MODELS = {"unify": "train_codegen", "assemble": "train_student"}


def repair(run: Run, chosen: str) -> None:
    """Set aside what is damaged in the data sets of `chosen` (a stage, or `all`) and say what.

    Raises:
        StorageError: the storage does not answer: nothing is taken for damaged.
    """
    for stage in STAGES:
        if stage not in OF_STAGE or chosen not in ("all", stage):
            continue
        for folder in data_folders(run, stage):
            faults = find_faults(folder, run.info(stage))
            for fault in faults:
                run.say(stage, f"{fault}: set aside")
            take_out(folder, faults)
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
            reopen(folder, shards)
        if child == "evaluate":
            run.stage_folder(child).delete("_SUCCESS")
    for child in _CHILDREN_ENTIRE.get(stage, ()):
        reopen(run.stage_folder(child))
    model = _MODELS.get(stage)
    if model is not None and run.stage_folder(model).exists(STAGE_FILE):
        run.say(model, f"trained on the former rows of {FOLDERS[stage]}; delete {run.stage_folder(model)} to train it again")
