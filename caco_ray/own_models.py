"""Whether rows were made by the model that the run holds now: one that was deleted and trained again lies at the same path.

`_SUCCESS` of a training names the weights, each shard's manifest entry the model that made it.
"""

from collections.abc import Sequence

from caco_ray.config import Config, VllmModel
from caco_ray.engines.model_folder import fingerprint
from caco_ray.errors import RunDirError
from caco_ray.run import folder_of
from caco_ray.stage_config import MODELS, model_of
from caco_ray.store import Dataset, Folder, ShardEntry
from caco_ray.store.dataset import SUCCESS_FILE, is_closed
from caco_ray.store.json_file import read_json
from caco_ray.store.made_by import check_one_model


def weights_of(training: Folder) -> str:
    """Fingerprint of the model that a training wrote, as `model_folder.model_id` gives it."""
    folder = training / "model"
    return fingerprint(folder.url, [name for name in folder.names() if name.endswith(".safetensors")])


def check_models(run: Folder, config: Config, stage: str, number: int, folder: Folder, entries: Sequence[ShardEntry]) -> None:
    """Refuse rows of two models, and those of another model than the one that the run has trained.

    `folder`: of the data set; its last name is the model's for evaluations.

    Raises:
        RunDirError: says which.
    """
    made_by = check_one_model(folder, entries)
    path = _path(config, stage, folder)
    if not made_by or not path.startswith("run:"):
        return
    training = folder_of(run, f"train_{path.removeprefix('run:')}", number)
    trained = read_json(training, SUCCESS_FILE).get("weights") if is_closed(training) else None
    if trained is not None and made_by.split("+")[0] != f"{path}@{trained}":
        raise RunDirError(
            f"{folder}: its rows were made by the model {made_by}, but {training} holds {path}@{trained} now; "
            f"put the former model back, or delete {folder} and the data sets of the stages after it"
        )


def check_done(run: Folder, config: Config, stage: str, number: int) -> None:
    """`check_models` of the data sets of a stage that is closed."""
    if stage not in MODELS:
        return
    folder = folder_of(run, stage, number)
    for its in [folder / name for name in config.evaluate.models] if stage == "evaluate" else [folder]:
        check_models(run, config, stage, number, its, Dataset(its).entries)


def _path(config: Config, stage: str, folder: Folder) -> str:
    model = model_of(config, stage) if stage in MODELS else None
    if not isinstance(model, VllmModel):
        return ""
    if stage == "evaluate":
        return "run:student" if folder.url.endswith("/student") else config.models.student
    return model.path
