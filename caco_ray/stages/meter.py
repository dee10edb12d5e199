"""Who pays for a shared engine: its busy time, divided among the calls that it serves at once."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Call:
    """One call. `seconds`: its share of the busy time, known when the call has ended."""

    seconds: float = 0.0


class Meter:
    """Processor sharing: each second goes to the calls in flight, in proportion to their rows.

    The shares of all calls add up to the time during which any call was in flight. Waiting for work belongs to nobody.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rows = 0  # in flight
        self._per_row = 0.0  # seconds that a row would have been charged had it been in flight from the beginning
        self._last = 0.0

    @contextmanager
    def call(self, rows: int) -> Iterator[Call]:
        """Charge what happens in the block to `rows` rows (at least one)."""
        call, begun = Call(), self._change(rows)
        try:
            yield call
        finally:
            call.seconds = rows * (self._change(-rows) - begun)

    def _change(self, rows: int) -> float:
        with self._lock:
            now = self._clock()
            if self._rows:
                self._per_row += (now - self._last) / self._rows
            self._last = now
            self._rows += rows
            return self._per_row
