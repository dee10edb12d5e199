"""Ray nodes on this machine that are as good as machines of their own: each raylet has a network namespace with an address, and its own
/tmp/ray and /dev/shm. Where namespaces cannot be made (that takes root), they are plain raylets that share all of this.

`ray start` starts them, as an operator would.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil
from ray.job_submission import JobDetails, JobSubmissionClient

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 180
# A node is dead after 3 s without a sign of life: Ray's own 15 s would only make tests longer.
_HEALTH = '{"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}'
_STORE = ("--object-store-memory", str(100 << 20))


def can_have_namespaces() -> bool:
    name = f"caco-try-{os.getpid()}"
    if os.geteuid() != 0 or not _ran("ip", "netns", "add", name):
        return False
    works = _ran("ip", "netns", "exec", name, "unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm")
    return _ran("ip", "netns", "del", name) and works


@dataclass
class Host:
    address: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def joined(self) -> bool:
        """Whether it is a node of the cluster."""
        return "Ray runtime started" in self.log.read_text()

    def processes(self) -> list[str]:
        """Titles of the raylet and of all that runs on it."""
        raylet = self._raylet()
        return [] if raylet is None else ["raylet", *(_title(child) for child in raylet.children())]

    def _raylet(self) -> psutil.Process | None:
        with contextlib.suppress(psutil.Error):
            return next((child for child in psutil.Process(self.process.pid).children(recursive=True) if child.name() == "raylet"), None)
        return None

    def lose(self) -> None:
        """The raylet and all that runs on it are gone, without a word."""
        raylet = self._raylet()
        assert raylet is not None, "lost already"
        raylet.send_signal(signal.SIGKILL)


@dataclass
class Hosts:
    """A head without CPUs and as many workers as are added. A context manager."""

    logs: Path
    apart: bool = field(default_factory=can_have_namespaces)
    workers: list[Host] = field(default_factory=list)

    def __enter__(self) -> "Hosts":
        self._tag = secrets.token_hex(3)
        self._namespaces: list[str] = []
        mine = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        path = f"{Path(sys.executable).parent}:{mine['PATH']}"
        self.token = secrets.token_hex(16)
        self._env = {
            **mine,
            "PATH": path,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_BACKEND_LOG_LEVEL": "fatal",
            "PYTHONUNBUFFERED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        subnet = f"10.{secrets.randbelow(200) + 30}.{secrets.randbelow(250)}"
        self._addresses = (f"{subnet}.{number}" if self.apart else "127.0.0.1" for number in range(1, 250))
        try:
            if self.apart:
                self._bridge(f"{subnet}.254/24")
            self.port, dashboard = (6379, 8265) if self.apart else (_free_port(), _free_port())
            where = ("--port", str(self.port), "--dashboard-host", "0.0.0.0", "--dashboard-port", str(dashboard))
            self.head = self._start("--head", "--num-cpus", "0", "--system-config", _HEALTH, *where)
            self.url = f"http://{self.head.address}:{dashboard}"
            self._await_dashboard()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for host in [*self.workers, *([self.head] if hasattr(self, "head") else [])]:
            _end(host.process)
        for name in self._namespaces:
            _ran("ip", "netns", "del", name)
        _ran("ip", "link", "del", f"caco{self._tag}")

    def add(self, *arguments: str, shm_mb: int = 256, cover: Path | None = None, **environment: str) -> Host:
        """One more worker. `cover`: a folder in the place of which this host has another, empty one."""
        at = f"{self.head.address}:{self.port}"
        host = self._start(
            "--address", at, "--dashboard-agent-listen-port", "0", *arguments, shm_mb=shm_mb, cover=cover, environment=environment
        )
        self.workers.append(host)
        return host

    def submit(self, job: str, *arguments: str) -> "subprocess.Popen[str]":
        """`ray job submit` of somebody who has the token, outside of the cluster; it ends with the job and tells what the job tells."""
        command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", self.url, "--submission-id", job, *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def job(self, job: str) -> JobDetails:
        client = JobSubmissionClient(self.url, headers={"authorization": f"Bearer {self.token}"})
        return client.get_job_info(job)

    def _start(self, *arguments: str, shm_mb: int = 256, cover: Path | None = None, environment: dict[str, str] | None = None) -> Host:
        address, number = next(self._addresses), len(self._namespaces)
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--node-ip-address", address, *_STORE, *arguments]
        if self.apart:
            name = f"caco{self._tag}-{number}"
            self._namespace(name, f"veth{self._tag}{number}", address)
            mounts = ["mkdir -p /tmp/ray", "mount -t tmpfs tmpfs /tmp/ray", f"mount -t tmpfs -o size={shm_mb}m tmpfs /dev/shm"]
            if cover is not None:
                mounts.append(f"mount -t tmpfs tmpfs {cover}")
            script = " && ".join([*mounts, 'exec "$@"'])
            command = ["ip", "netns", "exec", name, "unshare", "-m", "sh", "-c", script, "sh", *command]
        log = self.logs / f"{address}-{number}.log"
        with log.open("ab") as out:
            env = {**self._env, **(environment or {})}
            process = subprocess.Popen(command, cwd=self.logs, env=env, stdout=out, stderr=out, start_new_session=True)
        if not self.apart:
            self._namespaces.append("")
        return Host(address, process, log)

    def _bridge(self, address: str) -> None:
        name = f"caco{self._tag}"
        _run("ip", "link", "add", name, "type", "bridge")
        _run("ip", "addr", "add", address, "dev", name)
        _run("ip", "link", "set", name, "up")

    def _namespace(self, name: str, link: str, address: str) -> None:
        _run("ip", "netns", "add", name)
        self._namespaces.append(name)
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", link, "master", f"caco{self._tag}", "up")
        for order in (["addr", "add", f"{address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
            _run("ip", "-n", name, *order)

    def _await_dashboard(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/api/version", timeout=10).close()
            except urllib.error.HTTPError:
                return  # it is there, and asks for the token
            except OSError:
                assert time.monotonic() < deadline and self.head.process.poll() is None, "".join(
                    log.read_text()[-2000:] for log in self.logs.glob("*.log")
                )
                time.sleep(0.2)
            else:
                return


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _end(process: "subprocess.Popen[bytes]") -> None:
    """`ray start --block` ends its node when it is told to; what it does not end in time is killed."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    _, alive = psutil.wait_procs(children, timeout=10)
    for child in alive:
        child.kill()
    process.kill()
    process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _ran(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    except OSError:
        return False


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
