"""Stops a training whose loss is not a number or jumps, before the step is applied, and names the rows of the step.

The norm of the gradient is known when DeepSpeed has applied it; where that is not a number, nothing of the step is kept.
"""

import json
import math
import statistics
from pathlib import Path

from caco_ray.errors import UserError

FILE_NAME = "diverged.json"
_RECENT_STEPS = 50
_ENOUGH_STEPS = 10  # before a median says anything
_NAMED_ROWS = 8


def check_loss(loss: float, recent: list[float], max_spike: float | None) -> str | None:
    """What is wrong with a step's loss after those of the steps before; None where nothing is."""
    if not math.isfinite(loss):
        return f"loss {loss}"
    before = recent[-_RECENT_STEPS:]
    if max_spike is None or len(before) < _ENOUGH_STEPS or loss <= max_spike * (usual := statistics.median(before)):
        return None
    return f"loss {loss:.3f}, over {max_spike:g} x the usual {usual:.3f}"


def diverged(what: str, step: int, steps: int, row_ids: list[str], folder: Path, *, write: bool) -> UserError:
    """The error; with `write` all row ids are left in `folder`/diverged.json, of which the message names the first."""
    if write:
        (folder / FILE_NAME).write_text(json.dumps({"step": step, "what": what, "row_ids": row_ids}, indent=1) + "\n")
    named = ", ".join(row_ids[:_NAMED_ROWS])
    more = f" and {len(row_ids) - _NAMED_ROWS} more in {FILE_NAME}" if len(row_ids) > _NAMED_ROWS else ""
    return UserError(
        f"training diverged at step {step} of {steps} ({what}); lower training learning_rate, which needs another "
        f"output folder or run.dir, or look at the rows of the step: {named}{more}"
    )
