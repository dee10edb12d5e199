"""Points as jobs of a Ray cluster, through its Jobs API (https://docs.ray.io/en/latest/cluster/running-applications/job-submission/).

The repository is the jobs' working directory (less what `.gitignore` and `.rayignore` name); packages come with the nodes.
"""

import os
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from caco_ray.cli import CONF
from caco_ray.errors import ClusterError, ConfigError
from caco_ray.sweep.job import Job
from caco_ray.sweep.points import Point

CONNECT_TIMEOUT_S = 10
SILENCE_S = 600  # of a job server before we give up waiting: a head may be starting again
_OVERRIDING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray obeys these before an address that it is given


class RayTarget:
    """Raises (constructor): ClusterError when nothing answers at `address`; ConfigError when the environment says another, or when the
    cluster has another Ray than we have."""

    def __init__(self, address: str | None) -> None:
        self.address = _address(address)
        _check_reachable(self.address)
        with _asking(self.address):
            self._client = JobSubmissionClient(self.address)
            self.address = self._client.get_address()
        _check_version(self.address, self._client._server_ray_version)  # which the client has just asked for
        self._heard = time.monotonic()

    def jobs(self) -> dict[str, Job]:
        with _asking(self.address):
            return {details.submission_id: _job(details) for details in self._client.list_jobs() if details.submission_id}

    def submit(self, point: Point, job_id: str) -> Job:
        entrypoint = shlex.join(["python", "jobs/run.py", *point.overrides])
        metadata = {"caco_point": point.label, "caco_run_dir": point.run_dir}
        runtime_env = {"working_dir": str(CONF.parent)}
        with _asking(self.address):
            try:
                self._client.submit_job(entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env, metadata=metadata)
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
        return Job(job_id, "PENDING")

    def refresh(self, job: Job) -> Job:
        """Its state now; the last known one while the job server is silent for a while."""
        try:
            with _asking(self.address):
                job = _job(self._client.get_job_info(job.id))
        except ClusterError as error:
            if "does not exist" in str(error):
                return Job(job.id, "FAILED", message="the cluster has forgotten it: its head was started anew")
            if time.monotonic() - self._heard > SILENCE_S:
                raise ClusterError(f"{error}; the jobs may go on: the same command waits for them again") from error
            return job
        self._heard = time.monotonic()
        return job

    def advice(self, job: Job) -> str:
        return f"ray job logs --address {self.address} {job.id}"


def _address(given: str | None) -> str | None:
    for name in _OVERRIDING:
        if given and os.environ.get(name) not in (None, given):
            raise ConfigError(f"address={given}: the environment has {name}={os.environ[name]}, which Ray obeys instead; unset it")
    return given or next((os.environ[name] for name in _OVERRIDING if os.environ.get(name)), None)


def _check_reachable(address: str | None) -> None:
    """Fail in seconds where nothing listens."""
    if address is None or address == "auto":
        return
    parts = urlparse(address if "://" in address else f"http://{address}")
    try:
        socket.create_connection((parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ClusterError(f"address={address}: no Ray job server answers ({why}); give address=http://HEAD:8265") from error


def _check_version(address: str | None, theirs: str) -> None:
    """The job server takes jobs of any version, and they would run with packages that are not those of the lock."""
    if theirs != ray.__version__:
        raise ConfigError(
            f"address={address}: the cluster has Ray {theirs}, this machine {ray.__version__}; use one image or lock (docker/) on both"
        )


@contextmanager
def _asking(address: str | None) -> Iterator[None]:
    """Ray's many errors as ours, one line each."""
    where = f"address={address or 'not given'}"
    try:
        yield
    except (requests.ConnectionError, requests.Timeout) as error:
        raise ClusterError(f"{where}: the Ray job server does not answer") from error
    except ConnectionError as error:
        raise ClusterError(f"{where}: no Ray job server answers; give address=http://HEAD:8265 (`ray start --head` prints it)") from error
    except AuthenticationError as error:
        raise ClusterError(
            f"{where}: the cluster wants its token; give RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH and RAY_AUTH_MODE=token"
        ) from error
    except (RuntimeError, ValueError, requests.RequestException) as error:
        raise ClusterError(f"{where}: Ray {ray.__version__} here and the job server do not agree: {_last_line(str(error))}") from error


def _job(details: JobDetails) -> Job:
    over = details.status.is_terminal()
    seconds = (details.end_time - details.start_time) / 1000 if details.end_time and details.start_time else None
    state: Any = details.status.value
    return Job(details.submission_id, state, details.driver_exit_code, _last_line(details.message or "") if over else "", seconds)


def _last_line(text: str) -> str:
    """Of a driver that failed, this is our own line with the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
