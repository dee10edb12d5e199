"""What rank 0 alone does, while the others wait for what comes of it."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from caco_ray.errors import UserError

Value = TypeVar("Value")


def from_first(make: Callable[[], Value]) -> Value:
    """What `make()` returns on rank 0 (picklable), on every rank. A collective.

    Raises:
        UserError: what `make` raised; every rank stops with it, so that none waits for the first.
    """
    made: list[Value | UserError | None] = [None]
    if dist.get_rank() == 0:
        try:
            made[0] = make()
        except UserError as error:
            made[0] = error
    dist.broadcast_object_list(made, device="cpu" if dist.get_backend() == "gloo" else None)
    if isinstance(made[0], UserError):
        raise made[0]
    return made[0]  # type: ignore[return-value]
