"""What a Ray task returned, or what it raised, as one of our own errors."""

from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from caco_ray.errors import CacoError, ClusterError


def result_of(reference: ray.ObjectRef) -> Any:
    """What a task returned.

    Raises:
        CacoError: what it raised.
        ClusterError: its process died again and again.
    """
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, CacoError) else error) from None
    except (OutOfMemoryError, WorkerCrashedError, NodeDiedError, ObjectLostError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ClusterError(f"Ray lost the process of a task each time it tried ({first.strip()}); run the same command again") from error
