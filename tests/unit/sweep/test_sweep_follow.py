"""What is submitted, what is waited for, what is tried again: against a target whose jobs end as a test says."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from caco_ray.sweep import follow
from caco_ray.sweep.follow import Sweep
from caco_ray.sweep.job import Job, latest, next_id
from caco_ray.sweep.points import Point, expand

POINTS = expand("seed=1,2,3,4", ["profile=fake", "run.dir=/b"])
IDS = [point.job_id for point in POINTS]


class Scripted:
    """Each refresh moves a job on: PENDING, RUNNING, then the next end that the test has for its point (default SUCCEEDED)."""

    def __init__(self, jobs: Iterable[Job] = (), ends: dict[str, list[Job]] | None = None) -> None:
        self._jobs, self._ends = {job.id: job for job in jobs}, ends or {}
        self.submitted: list[str] = []
        self.most = 0

    def jobs(self) -> dict[str, Job]:
        return dict(self._jobs)

    def submit(self, point: Point, job_id: str) -> Job:
        assert job_id not in self._jobs, "an id is taken once"
        self.submitted.append(job_id)
        self._jobs[job_id] = Job(job_id, "PENDING")
        self.most = max(self.most, sum(not job.over for job in self._jobs.values()))
        return self._jobs[job_id]

    def refresh(self, job: Job) -> Job:
        ends = self._ends.get(job.id[:21], [])
        last = ends.pop(0) if job.state == "RUNNING" and ends else Job(job.id, "SUCCEEDED", 0)
        self._jobs[job.id] = replace(last, id=job.id) if job.state == "RUNNING" else Job(job.id, "RUNNING")
        return self._jobs[job.id]

    def advice(self, job: Job) -> str:
        return job.id


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_S", 0)


def followed(target: Scripted, limit: int = 4, retries: int = 0) -> Sweep:
    sweep = Sweep(POINTS, target, retries)
    sweep.follow(limit, lambda _: None)
    return sweep


def test_every_point_once_and_no_more_at_a_time_than_allowed() -> None:
    target = Scripted()
    sweep = followed(target, limit=2)
    assert sweep.succeeded and target.submitted == IDS and target.most == 2
    again = followed(target)
    assert again.succeeded and again.submitted == 0 and target.submitted == IDS


def test_what_there_is_counts_is_waited_for_or_is_submitted_again() -> None:
    target = Scripted(
        [Job(IDS[0], "SUCCEEDED", 0), Job(IDS[1], "RUNNING"), Job(IDS[2], "FAILED", 1), Job(IDS[3], "STOPPED"), Job("other", "RUNNING")]
    )
    assert followed(target).succeeded
    assert target.submitted == [f"{IDS[2]}-2", f"{IDS[3]}-2"]


def test_the_last_attempt_counts() -> None:
    jobs = {name: Job(name, "FAILED") for name in (IDS[0], f"{IDS[0]}-2", f"{IDS[0]}-10", f"{IDS[1]}-11", f"{IDS[0]}0-12")}
    last = latest(POINTS[0], jobs)
    assert last is not None and last.id == f"{IDS[0]}-10" and next_id(POINTS[0], last) == f"{IDS[0]}-11"
    assert latest(POINTS[2], jobs) is None and next_id(POINTS[2], None) == IDS[2]


@pytest.mark.parametrize("end", [Job("", "FAILED", 1), Job("", "STOPPED"), Job("", "FAILED", 2), Job("", "SUCCEEDED", 3)])
def test_only_success_with_exit_code_0_is_success(end: Job) -> None:
    target = Scripted(ends={IDS[1]: [end]})
    assert not followed(target).succeeded and target.submitted == IDS


def test_a_failure_is_tried_again_as_often_as_asked_but_no_mistake_and_nothing_that_somebody_stopped() -> None:
    ends = {
        IDS[0]: [Job("", "FAILED", 1)] * 2,
        IDS[1]: [Job("", "FAILED", 2)],
        IDS[2]: [Job("", "STOPPED")],
        IDS[3]: [Job("", "FAILED", 75)],
    }
    target = Scripted(ends=ends)
    sweep = followed(target, retries=2)
    assert sorted(target.submitted) == sorted([*IDS, f"{IDS[0]}-2", f"{IDS[0]}-3", f"{IDS[3]}-2"])
    assert [sweep.jobs[each].succeeded for each in IDS] == [True, False, False, True]
    never = Scripted(ends={IDS[0]: [Job("", "FAILED", 1)] * 9})
    assert not followed(never, retries=2).succeeded and len(never.submitted) == 6
