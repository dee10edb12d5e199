"""`progress.jsonl`: one `Step` a line, appended by rank 0 while it trains and followed by whoever draws a bar or a loss curve."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

from caco_ray.training.types import Step

FILE_NAME = "progress.jsonl"
BOARD_FOLDER = "tensorboard"
_PLOTTED = ("loss", "heldout_loss", "learning_rate", "grad_norm", "tokens_per_s", "mfu")
_POLL_S = 0.5


class ProgressWriter:
    """Appends steps, here and as TensorBoard events in `tensorboard/`.

    Opened at `done_steps`, so that what a killed attempt wrote after its last checkpoint goes away.
    """

    def __init__(self, folder: Path, done_steps: int) -> None:
        from tensorboardX import SummaryWriter

        self._path = folder / FILE_NAME
        kept = [step for step in read_progress(folder) if step.step <= done_steps]
        partial = folder / f".{FILE_NAME}.partial"
        partial.write_text("".join(_line(step) for step in kept))
        partial.replace(self._path)  # another file: who follows begins again
        self._board = SummaryWriter(str(folder / BOARD_FOLDER), purge_step=done_steps + 1, filename_suffix=f".{done_steps}")

    def write(self, step: Step) -> None:
        with self._path.open("a") as file:
            file.write(_line(step))
        for name in _PLOTTED:
            value = getattr(step, name)
            if value is not None:
                self._board.add_scalar(name, value, step.step)

    def close(self) -> None:
        self._board.close()


def read_progress(folder: Path) -> list[Step]:
    """The loss curve so far. A line that is still being written is left out."""
    path = folder / FILE_NAME
    if not path.exists():
        return []
    return [Step(**json.loads(line)) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


@contextmanager
def following(folder: Path, on_step: Callable[[Step], None] | None) -> Iterator[None]:
    """Call `on_step` from a thread for the steps that appear in `folder` while the context is open."""
    with nullcontext() if on_step is None else beside(partial(_follow, folder, on_step)):
        yield


@contextmanager
def beside(look: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `look` in a thread while the context is open; then its event is set and it is awaited."""
    stop = threading.Event()
    thread = threading.Thread(target=look, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(folder: Path, on_step: Callable[[Step], None], stop: threading.Event) -> None:
    """Reads what was added only: a curve of a hundred thousand steps is not parsed twice a second."""
    path, file_id, place, shown = folder / FILE_NAME, 0, 0, 0
    while True:
        last_look = stop.wait(_POLL_S)
        if path.exists():
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_ino != file_id:
                    file_id, place = os.fstat(file.fileno()).st_ino, 0
                file.seek(place)
                *lines, _ = file.read().split(b"\n")  # the last one is still being written
            place += sum(len(line) + 1 for line in lines)
            for step in (Step(**json.loads(line)) for line in lines):
                if step.step > shown:
                    shown = step.step
                    on_step(step)
        if last_look:
            return


def _line(step: Step) -> str:
    return json.dumps(asdict(step)) + "\n"
