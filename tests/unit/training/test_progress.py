import threading
import time
from dataclasses import replace
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

from caco_ray.training.progress import BOARD_FOLDER, ProgressWriter, following, read_progress
from caco_ray.training.types import Step


def step(number: int) -> Step:
    return Step(number, 100, number / 10, 3.0 / number, 1e-3, 0.5, 100 * number, 50.0, 2.0 * number)


def board(folder: Path) -> dict[tuple[str, int], float]:
    """Scalars of the event files as TensorBoard reads them: length, checksum, message, checksum."""
    scalars: dict[tuple[str, int], float] = {}
    for path in sorted((folder / BOARD_FOLDER).iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):
            length = int.from_bytes(data[place : place + 8], "little")
            event = Event.FromString(data[place + 12 : place + 12 + length])
            scalars |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            place += length + 16
    return scalars


def test_steps_after_the_checkpoint_of_a_killed_attempt_go_away(tmp_path: Path) -> None:
    first = ProgressWriter(tmp_path, 0)
    for number in range(1, 6):
        first.write(step(number))
    first.close()
    second = ProgressWriter(tmp_path, 3)
    second.write(replace(step(4), loss=9.0, heldout_loss=1.5))
    second.close()
    assert [(line.step, line.loss) for line in read_progress(tmp_path)] == [(1, 3.0), (2, 1.5), (3, 1.0), (4, 9.0)]
    scalars = board(tmp_path)
    assert scalars["loss", 4] == 9.0 and scalars["heldout_loss", 4] == 1.5 and scalars["loss", 2] == 1.5
    assert ("mfu", 4) not in scalars


def test_a_follower_sees_each_step_once_also_over_a_restart(tmp_path: Path) -> None:
    seen: list[int] = []
    arrived = threading.Event()

    def on_step(new: Step) -> None:
        seen.append(new.step)
        arrived.set()

    with following(tmp_path, on_step):
        writer = ProgressWriter(tmp_path, 0)
        for number in range(1, 6):
            writer.write(step(number))
        assert arrived.wait(10)
        time.sleep(1)
        restarted = ProgressWriter(tmp_path, 3)
        for number in range(4, 9):
            restarted.write(step(number))
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]


def test_time_left_follows_the_pace() -> None:
    assert step(25).seconds_left == 150.0
