"""What a Ray task returned, or what it raised, as one of our own errors."""

from typing import Any

import ray
from ray.exceptions import GetTimeoutError, NodeDiedError, ObjectLostError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from caco_ray.config import WatchdogConfig
from caco_ray.errors import CacoError, ClusterError, StageStalledError, first_line
from caco_ray.runtime.watchdog import room

TIMEOUT_S = WatchdogConfig().timeout_s


def result_of(reference: ray.ObjectRef, timeout_s: float = TIMEOUT_S) -> Any:
    """What a task returned.

    Raises:
        CacoError: what it raised.
        ClusterError: its process died again and again.
        StageStalledError: it did not end in `timeout_s`: Ray waits for ever for a task that hangs, or that finds no room.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except GetTimeoutError:
        raise StageStalledError(
            f"a task did not end in {timeout_s:g} s (watchdog.timeout_s): it hangs, or finds no room; {room()}"
        ) from None
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, CacoError) else error) from None
    except (OutOfMemoryError, WorkerCrashedError, NodeDiedError, ObjectLostError) as error:
        tried = f"Ray lost the process of a task each time it tried ({first_line(error)})"
        raise ClusterError(f"{tried}; run the same command again") from error
