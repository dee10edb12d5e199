"""Start the points that need it, and wait for all: what is submitted once is waited for, counted, or tried again, never doubled."""

import time
from collections.abc import Callable, Sequence

from caco_ray.sweep.job import Job, Target, latest, next_id
from caco_ray.sweep.points import Point

POLL_S = 1.0

Look = Callable[["Sweep"], None]


class Sweep:
    """The points and the last job of each; a point without a job has not been submitted.

    A job of an earlier submission that SUCCEEDED counts, one that is under way is waited for, any other is submitted again: the run
    goes on in its folder.
    """

    def __init__(self, points: Sequence[Point], target: Target, retries: int = 0) -> None:
        known = target.jobs()
        self.points, self.target = tuple(points), target
        self.jobs: dict[str, Job] = {point.job_id: job for point in points if (job := latest(point, known))}
        self.submitted = 0
        self._retries = dict.fromkeys((point.job_id for point in points), retries)
        self._due = {point.job_id for point in points if (job := self.job(point)) is None or (job.over and not job.succeeded)}

    def job(self, point: Point) -> Job | None:
        return self.jobs.get(point.job_id)

    @property
    def under_way(self) -> list[Point]:
        return [point for point in self.points if (job := self.job(point)) and not job.over]

    @property
    def succeeded(self) -> bool:
        return all((job := self.job(point)) is not None and job.succeeded for point in self.points)

    def start(self, limit: int) -> None:
        """Submit points until `limit` jobs are under way."""
        for point in self._waiting()[: max(0, limit - len(self.under_way))]:
            if point.job_id not in self._due:
                self._retries[point.job_id] -= 1
            self._due.discard(point.job_id)
            self.jobs[point.job_id] = self.target.submit(point, next_id(point, self.job(point)))
            self.submitted += 1

    def refresh(self) -> None:
        for point in self.under_way:
            self.jobs[point.job_id] = self.target.refresh(self.jobs[point.job_id])

    def follow(self, limit: int, look: Look) -> None:
        """Until every point is over; `look` is called after every change and every poll."""
        while True:
            self.start(limit)
            look(self)
            if not self.under_way and not self._waiting():
                return
            time.sleep(POLL_S)
            self.refresh()

    def _waiting(self) -> list[Point]:
        """Points to submit, in order: those that need it from the start, and those that failed since in a way that may pass."""
        return [point for point in self.points if point.job_id in self._due or self._may_retry(point)]

    def _may_retry(self, point: Point) -> bool:
        job = self.job(point)
        return job is not None and job.over and not job.succeeded and job.worth_retrying and self._retries[point.job_id] > 0
