"""A submitted job and where jobs run: what the Ray and the Kubernetes target have in common."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from caco_ray.cli import EXIT_USER_ERROR
from caco_ray.sweep.points import Point

State = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"]


@dataclass(frozen=True)
class Job:
    """`message`: why it ended, one line; `seconds`: from start to end on the cluster."""

    id: str
    state: State
    exit_code: int | None = None
    message: str = ""
    seconds: float | None = None
    refused: bool = False  # before it ran, and would be again

    @property
    def over(self) -> bool:
        return self.state not in ("PENDING", "RUNNING")

    @property
    def succeeded(self) -> bool:
        return self.state == "SUCCEEDED" and not self.exit_code

    @property
    def worth_retrying(self) -> bool:
        """Somebody stopped a STOPPED one on purpose, and a mistake of the user would fail the same way again."""
        return self.state == "FAILED" and self.exit_code != EXIT_USER_ERROR and not self.refused


class Target(Protocol):
    """A place for jobs.

    Raises (all methods):
        ClusterError: it does not answer, or refuses.
    """

    def jobs(self) -> dict[str, Job]:
        """All jobs there by id, also those of others."""

    def submit(self, point: Point, job_id: str) -> Job:
        """Start a job, or find that somebody else has just started it."""

    def refresh(self, job: Job) -> Job:
        """Its state now."""

    def advice(self, job: Job) -> str:
        """The command that shows the job's log."""


def latest(point: Point, jobs: Mapping[str, Job]) -> Job | None:
    """The last attempt at a point: ids are `ID`, `ID-2`, `ID-3`: Ray does not take an id twice."""
    attempts = {attempt_of(job_id): job for job_id, job in jobs.items() if re.fullmatch(rf"{point.job_id}(-\d+)?", job_id)}
    return attempts[max(attempts)] if attempts else None


def next_id(point: Point, last: Job | None) -> str:
    return point.job_id if last is None else f"{point.job_id}-{attempt_of(last.id) + 1}"


def attempt_of(job_id: str) -> int:
    return int([*job_id.split("-"), "1"][2])
