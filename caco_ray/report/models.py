"""What a run trained and how well it did: `models/<name>/_SUCCESS` and `progress.jsonl`, `evaluation/summary.json`."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from caco_ray.config import Config, FakeModel
from caco_ray.evaluation import Accuracy, remarks
from caco_ray.store import Folder
from caco_ray.store.dataset import SUCCESS_FILE
from caco_ray.store.json_file import damaged, read_json

PROGRESS_FILE = "progress.jsonl"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class TrainingReport:
    """A trained model. `metrics` are the numbers of the training's result; `losses` are (step, loss) in order of steps."""

    name: str
    seconds: float
    metrics: dict[str, float]
    losses: tuple[tuple[int, float], ...]
    fingerprint: str
    code_version: str


@dataclass(frozen=True)
class EvaluationReport:
    """pass@1 of one model (`base` or `student`); the counts are those of `evaluation.Evaluation`."""

    model: str
    overall: Accuracy
    by_domain: dict[str, Accuracy]
    unanswered: int
    truncated: int
    undecided: int
    prompts: tuple[str, ...]

    @property
    def remarks(self) -> str:
        """What a rate must be read with."""
        return remarks(self.unanswered, self.truncated, self.prompts)


def fake_roles(config: Config) -> list[str]:
    """Roles that no model filled: what they wrote came from the built-in seeds."""
    return [name for name, model in config.models if isinstance(model, FakeModel)]


def read_training(name: str, folder: Folder) -> TrainingReport:
    """A closed training stage.

    Raises:
        RunDirError: a file is damaged.
    """
    body = read_json(folder, SUCCESS_FILE)
    try:
        skipped = {f"skipped_{reason}": count for reason, count in body["metrics"].get("skipped", {}).items()}
        sequences: Counter[str] = Counter()  # by role, of all data sets
        for of_set in body["metrics"].get("sequences", {}).values():
            sequences.update({f"sequences_to_{role}": count for role, count in of_set.items()})
        metrics = {key: value for key, value in (body["metrics"] | sequences | skipped).items() if _is_number(value)}
        return TrainingReport(name, float(body["seconds"]), metrics, read_losses(folder), body["fingerprint"], body["code_version"])
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, SUCCESS_FILE, error) from error


def read_losses(folder: Folder) -> tuple[tuple[int, float], ...]:
    """The loss curve, or nothing when none was written.

    A training that was resumed writes steps again: the last line of a step counts. A last line without an end was cut off by a
    kill and is left out.

    Raises:
        RunDirError: another line is not `{"step": ..., "loss": ...}`.
    """
    if not folder.exists(PROGRESS_FILE):
        return ()
    *lines, _ = folder.read(PROGRESS_FILE).decode().split("\n")
    losses: dict[int, float] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            losses[int(record["step"])] = float(record["loss"])
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(folder, f"{PROGRESS_FILE}, line {number}", error) from error
    return tuple(sorted(losses.items()))


def read_evaluations(folder: Folder) -> tuple[EvaluationReport, ...]:
    """All evaluated models; none when the evaluation is not closed.

    Raises:
        RunDirError: the summary is damaged.
    """
    if not folder.exists(SUCCESS_FILE):
        return ()
    summary = read_json(folder, SUMMARY_FILE)
    try:
        return tuple(_evaluation(model, result) for model, result in summary.items())
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, SUMMARY_FILE, error) from error


def _evaluation(model: str, result: dict[str, Any]) -> EvaluationReport:
    domains = {domain: Accuracy(**accuracy) for domain, accuracy in result["by_domain"].items()}
    counts = {name: result[name] for name in ("unanswered", "truncated", "undecided")}
    return EvaluationReport(model, Accuracy(**result["overall"]), domains, **counts, prompts=tuple(result["prompts"]))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
