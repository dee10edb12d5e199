"""The folder `work/` of a training's output, on a disk or an object store: tokens, and `work/<name>` with its checkpoints.

When the last step is done and exported, rank 0 leaves `work/<name>/result.json`; the driver then writes `result.json` beside `work/`,
which goes last. So whatever is killed meanwhile, what was trained is not trained again.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from caco_ray.errors import RunDirError, UserError
from caco_ray.store import Folder
from caco_ray.store.dataset import differences
from caco_ray.training.placement import SAME_CHECKPOINTS
from caco_ray.training.prepare import Prepared
from caco_ray.training.types import MODEL_FOLDER, RESULT_FILE, SKIPPED_FILE, WORK_FOLDER, TrainResult

_SETTINGS_FILE = "settings.json"
_CHECKPOINTS = ("checkpoint_", "step-")  # of Ray Train, of torchrun


def read_result(output: Folder) -> TrainResult | None:
    """Of a finished training; None where there is none."""
    if not output.exists(RESULT_FILE) or not output.exists(MODEL_FOLDER):
        return None
    return TrainResult(**json.loads(output.read(RESULT_FILE)))


def finished(output: Folder) -> TrainResult | None:
    """As `read_result`, for whoever may write into `output`: what a kill at the end left goes."""
    result = read_result(output)
    if result is not None:
        output.delete(WORK_FOLDER)
    return result


def begin(output: Folder, prepare: Callable[[], Prepared]) -> Prepared | TrainResult:
    """A training to start or to go on with; or the result, where its last step has been done.

    Raises:
        RunDirError: see `claim`.
        UserError: what `prepare` found, or what stopped the training.
    """
    if (done := finished(output)) is not None:
        return done
    prepared = prepare()
    place = claim(output, prepared)
    return finish(output, prepared) if place.exists(RESULT_FILE) else prepared


def claim(output: Folder, prepared: Prepared) -> Folder:
    """The folder `work/<name>`, with a note of the training's settings.

    Raises:
        RunDirError: there are checkpoints of other settings or data, which this training would leave for a start from step 0.
    """
    work, settings = output / WORK_FOLDER, prepared.config.training.model_dump(mode="json", exclude=SAME_CHECKPOINTS)
    for name in work.names():
        if name.startswith("training-") and name != prepared.name and _has_checkpoints(work / name):
            changed = "; ".join(differences(_settings(work / name) or settings, settings)) or "its base or its data"
            raise RunDirError(
                f"{work}/{name}: checkpoints of a training that this one cannot go on from, because something changed ({changed}); "
                f"set it back, or delete {work} to start over"
            )
    (work / prepared.name).write(_SETTINGS_FILE, to_json(settings))
    return work / prepared.name


def _has_checkpoints(training: Folder) -> bool:
    return any(name.startswith(_CHECKPOINTS) and not name.endswith(".json") for name in training.names())


def _settings(training: Folder) -> Any:
    """As noted; None where a former version made no note."""
    return json.loads(training.read(_SETTINGS_FILE)) if training.exists(_SETTINGS_FILE) else None


def write_outcome(training: Folder, body: dict[str, Any]) -> None:
    """Rank 0's last words: fields of a `TrainResult`, or a `user_error`. `training`: `work/<name>`."""
    training.write(RESULT_FILE, to_json(body))


def finish(output: Folder, prepared: Prepared) -> TrainResult:
    """The result that rank 0 left; tokens and checkpoints go.

    Raises:
        UserError: what stopped the training.
    """
    training = output / WORK_FOLDER / prepared.name
    body = json.loads(training.read(RESULT_FILE))
    if "user_error" in body:
        training.delete(RESULT_FILE)
        raise UserError(body["user_error"])
    result = prepared.counted(TrainResult(**body))
    output.put(SKIPPED_FILE, prepared.work / SKIPPED_FILE)
    output.write(RESULT_FILE, to_json(asdict(result)))
    output.delete(WORK_FOLDER)
    return result


def to_json(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, indent=1) + "\n").encode()
