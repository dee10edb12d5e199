"""Points as KubeRay RayJobs, each with a cluster of its own, through kubectl and its current context.

KubeRay retries a failed job itself (`backoffLimit`); a job is FAILED here when it does so no more.
"""

import json
import re
import time
from datetime import datetime
from pathlib import Path

from caco_ray.errors import ClusterError
from caco_ray.sweep.job import Job, State
from caco_ray.sweep.manifests import PART_OF, Object, kubectl, rayjob, write_job
from caco_ray.sweep.points import Point

SILENCE_S = 600  # of the API server before we give up waiting
_GROUP = "rayjobs.ray.io"
_REFUSED = "ValidationFailed"  # by the operator's rules, which the schema does not know


class K8sTarget:
    """`template`: the RayJob to copy; `folder`: where manifests are written."""

    def __init__(self, template: Object, folder: Path) -> None:
        self._template, self._folder = template, folder
        self._heard = time.monotonic()

    def jobs(self) -> dict[str, Job]:
        listed = json.loads(kubectl("get", _GROUP, "-l", f"{PART_OF}=caco-ray", "-o", "json"))
        return {job.id: job for job in map(job_of, listed["items"])}

    def submit(self, point: Point, job_id: str) -> Job:
        kubectl("apply", "-f", str(write_job(self._folder, rayjob(self._template, point, job_id))))
        return Job(job_id, "PENDING")

    def refresh(self, job: Job) -> Job:
        """Its state now; the last known one while the API server is silent for a while."""
        try:
            found = kubectl("get", _GROUP, job.id, "--ignore-not-found", "-o", "json")
        except ClusterError as error:
            if time.monotonic() - self._heard > SILENCE_S:
                raise ClusterError(f"{error}; the jobs may go on: the same command waits for them again") from error
            return job
        self._heard = time.monotonic()
        return job_of(json.loads(found)) if found.strip() else Job(job.id, "STOPPED", message="the RayJob was deleted")

    def advice(self, job: Job) -> str:
        return f"kubectl logs -l job-name={job.id} --tail=-1"


def job_of(found: Object) -> Job:
    """A RayJob's status (KubeRay v1: `jobStatus` is Ray's, `jobDeploymentStatus` the operator's)."""
    status = found.get("status", {})
    deployment = status.get("jobDeploymentStatus", "")
    state = _state(status.get("jobStatus", ""), deployment)
    over = state not in ("PENDING", "RUNNING")
    said = " ".join(str(status.get("message") or status.get("reason") or "").split()) if over else ""
    return Job(found["metadata"]["name"], state, _exit_code(state, said), said[-500:], _seconds(status), refused=deployment == _REFUSED)


def _exit_code(state: State, said: str) -> int | None:
    """KubeRay hands on what Ray says of the job, and no code. None: the command did not end by itself, or was never started."""
    if state == "SUCCEEDED":
        return 0
    found = re.match(r"Job entrypoint command failed with exit code (-?\d+)", said) if state == "FAILED" else None
    return int(found[1]) if found else None


def _state(job: str, deployment: str) -> State:
    if deployment in ("Failed", _REFUSED) or (deployment == "Complete" and job == "FAILED"):
        return "FAILED"
    if deployment == "Complete":
        return "SUCCEEDED" if job == "SUCCEEDED" else "STOPPED"
    return "RUNNING" if deployment == "Running" and job == "RUNNING" else "PENDING"


def _seconds(status: Object) -> float | None:
    started, ended = status.get("startTime"), status.get("endTime")
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds() if started and ended else None
