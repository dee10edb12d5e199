"""A real S3 server on this machine (moto), with a door that can be told to misbehave."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest

from caco_ray.store import Folder

BUCKET = "caco"
Answer = Iterator[bytes] | list[bytes]


class Door:
    """WSGI middleware before the server: refuses requests, or carries them out and loses the reply."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app, self._lock = app, threading.Lock()
        self._script: list[tuple[str, str, str]] = []  # method, end of the path, what to do
        self.requests: list[tuple[str, str]] = []

    def next(self, method: str, path_end: str, what: str) -> None:
        """The next request of this kind gets `what`: `lose_reply` or an error code of S3."""
        self._script.append((method, path_end, what))

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            self.requests.append((method, path))
            found = next((item for item in self._script if item[0] == method and path.endswith(item[1])), None)
            if found is not None:
                self._script.remove(found)
        if found is None:
            return self._app(environ, start)
        if found[2] == "lose_reply":
            b"".join(self._app(environ, lambda *_: None))
            return _refuse(start, "500 Internal Server Error", "InternalError")
        return _refuse(start, {"ConditionalRequestConflict": "409 Conflict"}.get(found[2], "403 Forbidden"), found[2])


def _refuse(start: Callable[..., Any], status: str, code: str) -> list[bytes]:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture(scope="session")
def door() -> Iterator[Door]:
    server_module = pytest.importorskip("moto.server")
    serving = pytest.importorskip("werkzeug.serving")
    door = Door(server_module.DomainDispatcherApplication(server_module.create_backend_app))
    server = serving.make_server("127.0.0.1", 0, door, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(key, value)
        fsspec.filesystem("s3").mkdir(BUCKET)
        yield door
    server.shutdown()
    thread.join()


@pytest.fixture
def s3(door: Door, request: pytest.FixtureRequest) -> Folder:
    """An empty folder of its own on the server."""
    return Folder(f"s3://{BUCKET}/{request.node.name.replace('[', '-').replace(']', '')}")
