"""What goes into the training loop and what comes out. Everything here is picklable and imports nothing heavy."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from caco_ray.config import TrainingConfig
from caco_ray.prompts import Segment
from caco_ray.schema import Row

MODEL_FOLDER = "model"  # of a training's output
WORK_FOLDER = "work"  # see work.py
RESULT_FILE = "result.json"
SKIPPED_FILE = "skipped.jsonl"
PATIENCE_S = 7200  # of ranks that wait for one which tokenises or converts a checkpoint
Rows = Callable[[], Iterable[Row]]  # opens the data set; each row has `row_id`
Examples = Callable[[Row], list[tuple[Segment, ...]]]  # training sequences of one row


@dataclass(frozen=True)
class TrainingData:
    """One data set of a mixture: an epoch holds `weight` times its examples."""

    name: str
    rows: Rows
    examples: Examples
    weight: float = 1.0
    roles: tuple[str, ...] = ()  # that it teaches: without a sequence for one of them it is refused
    fingerprint: str | None = None  # of what `rows` gives; with it the tokens of an interrupted training are used again


@dataclass(frozen=True)
class TrainLoopConfig:
    """One worker's whole knowledge; the same on every rank. The paths are on a disk that all workers see, or with `shared_disk` false on
    one of each node."""

    training: TrainingConfig
    base: str  # model folder
    tokens: str  # tokens.arrow, see data.py
    output_dir: str  # gets `model/`, `progress.jsonl` and `tensorboard/`
    weights: tuple[float, ...] = (1.0,)  # of the data sets, in the order of the tokens' `source`
    data: tuple[str, ...] = ()  # their names and fingerprints, for the model card
    shared_disk: bool = True
    base_name: str = ""  # for the model card: the hub id, or the folder's name

    @property
    def device(self) -> str:
        return "cuda" if self.training.gpus_per_worker else "cpu"


@dataclass(frozen=True)
class TokenStats:
    """What tokenising gave. `skipped` counts rows and sequences that were left out, by reason (see data.py); `skipped.jsonl` names them."""

    rows: int
    examples: int
    heldout: int  # of the examples
    tokens: int
    learned_tokens: int
    skipped: dict[str, int]
    sequences: dict[str, dict[str, int]]  # trained on, by data set and by the role that they teach; one may teach two


@dataclass(frozen=True)
class Step:
    """One optimizer step, as written to `progress.jsonl`. `tokens` are useful ones (no padding) since the start of training."""

    step: int
    steps: int
    epoch: float
    loss: float  # mean over the step's learned tokens
    learning_rate: float
    grad_norm: float
    tokens: int
    tokens_per_s: float  # of this step
    seconds: float  # spent in steps since the start of training
    mfu: float | None = None  # of this step; null where the device's peak is not known
    heldout_loss: float | None = None  # mean over the learned tokens of the held-out examples; null in steps without evaluation

    @property
    def seconds_left(self) -> float:
        """At the mean pace so far."""
        return self.seconds / self.step * (self.steps - self.step)


@dataclass
class Totals:
    """Running sums of a training; part of its checkpoints. `losses` has one entry per step."""

    tokens: int = 0
    slots: int = 0  # tokens that all ranks had time for: with padding, and with waiting for the longest share
    learned: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    best_heldout: float | None = None
    last_heldout: float | None = None
    evaluations_since_best: int = 0


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a finished training, its resumed parts included. `tokens` are useful ones; `seconds` were spent in steps."""

    steps: int
    examples: int  # trained on
    skipped: dict[str, int]  # left out before the loop, by reason
    replaced_template: bool  # the base's chat template gave way to that of the training
    tokens: int
    learned_tokens: int
    final_loss: float  # mean of the last tenth of the steps
    seconds: float
    tokens_per_s: float
    packing_efficiency: float  # tokens / tokens that all ranks had time for
    heldout_loss: float | None  # of the exported model
    mfu: float | None
    stopped_early: bool
    sequences: dict[str, dict[str, int]] = field(default_factory=dict)  # see `TokenStats`; results of former versions have none

    @property
    def remarks(self) -> str:
        """What taught which role, what was left out or replaced, to follow a line of figures."""
        of_sets = {name: ", ".join(f"{count:,} {role}" for role, count in counts.items()) for name, counts in self.sequences.items()}
        sole = len(of_sets) == 1
        taught = "; ".join(counts if sole else f"{counts} of {name}" for name, counts in of_sets.items() if counts)
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in self.skipped.items())
        replaced = "; the base's chat template gave way to that of the training" if self.replaced_template else ""
        return (f"; learned: {taught}" if taught else "") + (f"; left out: {left_out}" if left_out else "") + replaced
