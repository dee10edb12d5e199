"""What the pools of a stage hold, idle or not, kept in the run so that it can be set against what the rows cost (`ledger.balance`).

One file for each execution, `<run>/held/<label>-<token>.json`, written again now and then: a driver that is killed loses the seconds
since then, and no more.
"""

import json
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

from caco_ray.errors import StorageError
from caco_ray.store import Folder

HELD = "held"
_SAVE_S = 30.0


class HeldFile:
    """The file of one execution; `label` is that of the stage in its round. Leaving the context writes what is not written yet."""

    def __init__(self, run: Folder, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._label, self._clock = run / HELD, label, clock
        self._name = f"{label.replace(' ', '-')}-{uuid.uuid4().hex[:12]}.json"
        self._cpu_s = self._gpu_s = 0.0
        self._saved = clock()

    def __enter__(self) -> "HeldFile":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(StorageError):  # what brought us here tells more than the lack of a figure
            self._save()

    def add(self, cpu_s: float, gpu_s: float) -> None:
        self._cpu_s, self._gpu_s = self._cpu_s + cpu_s, self._gpu_s + gpu_s
        if self._clock() - self._saved >= _SAVE_S:
            self._save()

    def _save(self) -> None:
        self._saved = self._clock()
        if self._cpu_s or self._gpu_s:
            body = {"label": self._label, "cpu_s": self._cpu_s, "gpu_s": self._gpu_s}
            self._folder.write(self._name, json.dumps(body).encode())
