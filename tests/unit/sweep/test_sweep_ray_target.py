"""What the submitter says when the job server is not there, is something else, or falls silent; the real one is met in tests/integration."""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import ray
from rich.console import Console

from caco_ray.errors import ClusterError, ConfigError
from caco_ray.sweep import expand, parse_options, ray_target, submit_sweep
from caco_ray.sweep.job import Job
from caco_ray.sweep.ray_target import RayTarget

ROOT = Path(__file__).resolve().parents[3]


class Server(ThreadingHTTPServer):
    """Answers a path with its status and body; anything else is not found."""

    def __init__(self, answers: dict[str, tuple[int, object]]) -> None:
        self.answers = answers
        super().__init__(("127.0.0.1", 0), Handler)
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        status, body = self.server.answers.get(self.path, (404, f"Job {self.path.rsplit('/', 1)[1]} does not exist"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write((body if isinstance(body, str) else json.dumps(body)).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server({"/api/version": (200, {"version": "4", "ray_version": ray.__version__, "ray_commit": "x"})})
    yield made
    made.stop()


def details(job_id: str, status: str, **more: object) -> dict[str, object]:
    return {"type": "SUBMISSION", "submission_id": job_id, "status": status, "entrypoint": "python", **more}


def test_states_as_the_server_gives_them(server: Server) -> None:
    failed = "Job entrypoint command failed with exit code 2, last available logs:\nseeds  8 rows\nerror: scale.samples=x: no number\n\n"
    server.answers["/api/jobs/"] = (
        200,
        [
            details("a", "RUNNING", start_time=1000),
            details("b", "FAILED", message=failed, driver_exit_code=2, start_time=1000, end_time=3500),
        ],
    )
    assert RayTarget(server.address).jobs() == {
        "a": Job("a", "RUNNING"),
        "b": Job("b", "FAILED", 2, "error: scale.samples=x: no number", 2.5),
    }


def test_a_server_that_falls_silent_is_waited_for_and_then_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    target, job = RayTarget(server.address), Job("a", "RUNNING")
    server.answers["/api/jobs/a"] = (500, "starting")
    assert target.refresh(job) == job
    server.answers["/api/jobs/a"] = (200, details("a", "SUCCEEDED", driver_exit_code=0))
    assert target.refresh(job).succeeded
    server.stop()
    assert target.refresh(job) == job
    monkeypatch.setattr(ray_target, "SILENCE_S", -1)
    with pytest.raises(ClusterError, match="does not answer; the jobs may go on: the same command waits for them again"):
        target.refresh(job)


def test_a_job_that_the_cluster_has_forgotten_has_failed(server: Server) -> None:
    forgotten = RayTarget(server.address).refresh(Job("a", "RUNNING"))
    assert forgotten.state == "FAILED" and forgotten.worth_retrying and "started anew" in forgotten.message


def test_something_else_at_the_address_is_one_line(server: Server) -> None:
    server.answers.clear()
    with pytest.raises(ClusterError, match="the job server do not agree: Version check returned 404") as raised:
        RayTarget(server.address)
    assert "\n" not in str(raised.value)


def test_another_ray_on_the_cluster_is_one_line(server: Server) -> None:
    server.answers["/api/version"] = (200, {"version": "4", "ray_version": "2.55.1", "ray_commit": "x"})
    with pytest.raises(ConfigError, match=f"the cluster has Ray 2.55.1, this machine {ray.__version__}; use one image or lock") as raised:
        RayTarget(server.address)
    assert "\n" not in str(raised.value)


def test_a_token_that_is_missing_is_named(server: Server) -> None:
    server.answers["/api/version"] = (401, "Unauthorized: Missing authentication token")
    with pytest.raises(ClusterError, match="the cluster wants its token") as raised:
        RayTarget(server.address)
    assert "\n" not in str(raised.value)


def test_an_environment_that_says_another_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://other:8265")
    with pytest.raises(ConfigError, match="RAY_ADDRESS=http://other:8265, which Ray obeys instead"):
        RayTarget("http://127.0.0.1:8265")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run.dir=/b", "sweep=seed=0,x"), 2, "error: point 2 of 2 (seed=x): seed='x': input should be a valid integer"),
        (("run.dir=/b", "address=http://127.0.0.1:1"), 75, "error: address=http://127.0.0.1:1: no Ray job server answers"),
        (("run.dir=/b", "address=nowhere"), 75, "error: address=nowhere: no Ray job server answers"),
    ],
)
def test_the_command_ends_with_one_line_and_its_exit_code(arguments: tuple[str, ...], code: int, message: str) -> None:
    command = [sys.executable, str(ROOT / "jobs/submit.py"), "profile=fake", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code and done.stderr.startswith(message) and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ["sweep=seed=1,2", "models.judge.gpus=1"],
            ConfigError,
            "starts all 2 points at once, and models.judge hold GPUs: .* or give parallel=2",
        ),
        (["sweep=seed=1,2", "models.judge.gpus=1", "parallel=1"], ConfigError, "parallel=1 needs wait=true for 2 points"),
        (["sweep=seed=1,2", "models.judge.gpus=1", "parallel=2"], ClusterError, "no Ray job server answers"),
        (["sweep=seed=1,2"], ClusterError, "no Ray job server answers"),
        (["models.judge.gpus=1"], ClusterError, "no Ray job server answers"),
    ],
)
def test_points_that_hold_gpus_are_not_all_started_at_once(arguments: list[str], error: type[Exception], message: str) -> None:
    options, overrides = parse_options([*arguments, "wait=false", "address=http://127.0.0.1:1"])
    points = expand(options.sweep, ["profile=fake", "run.dir=/b", *overrides])
    with pytest.raises(error, match=message):
        submit_sweep(options, points, Console(quiet=True))
