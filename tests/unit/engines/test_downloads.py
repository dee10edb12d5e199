"""Nothing is downloaded unless asked: against a server that speaks as much of the hub's protocol as one model needs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from caco_ray.cluster.session import worker_env
from caco_ray.config import ClusterConfig

COMMIT, FILE = "0" * 40, b'{"architectures": ["X"]}'
FIND = "import sys; from caco_ray.engines.model_folder import find_folder; print(find_folder(sys.argv[1], None))"


class Hub(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/api/models/owner/tiny/tree/"):
            body = json.dumps([{"type": "file", "path": "config.json", "size": len(FILE), "oid": "1"}]).encode()
        elif self.path.startswith("/api/models/owner/tiny/"):
            body = json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": [{"rfilename": "config.json"}]}).encode()
        elif self.path == f"/owner/tiny/resolve/{COMMIT}/config.json":
            body = FILE
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for name, value in {"ETag": '"1"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def find(name: str, hub: str, home: Path, config: ClusterConfig) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as a worker of a run with this config."""
    environment = {**os.environ, **worker_env(config), "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run([sys.executable, "-c", FIND, name], capture_output=True, text=True, timeout=300, check=False, env=environment)


def test_a_model_of_the_hub_is_downloaded_only_where_that_is_allowed(hub: str, tmp_path: Path) -> None:
    refused = find("owner/tiny", hub, tmp_path, ClusterConfig())
    assert "run `hf download owner/tiny` on every node first" in refused.stderr and "allow_downloads=true" in refused.stderr
    assert Hub.asked == []
    found = find("owner/tiny", hub, tmp_path, ClusterConfig(allow_downloads=True))
    assert found.returncode == 0 and (Path(found.stdout.strip()) / "config.json").read_bytes() == FILE, found.stderr
    Hub.asked.clear()
    again = find("owner/tiny", hub, tmp_path, ClusterConfig())
    assert again.stdout == found.stdout and Hub.asked == []


def test_a_model_that_the_hub_does_not_have_is_one_line(hub: str, tmp_path: Path) -> None:
    last = find("owner/none", hub, tmp_path, ClusterConfig(allow_downloads=True)).stderr.strip().splitlines()[-1]
    assert last.startswith("caco_ray.errors.ModelError: owner/none: not a folder, and cannot be downloaded (") and "404" in last, last
