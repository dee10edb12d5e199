"""Engines under test, and a small HTTP server that speaks the OpenAI API through the fake engine or misbehaves as it is told."""

import contextlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from caco_ray.config import FakeModel, OpenAiModel, SamplingConfig, VllmModel
from caco_ray.engines import Engine, build_engine
from caco_ray.engines.fake import FakeEngine

CONTEXT = 256


@dataclass
class Endpoint:
    """`script`: what the next requests get, as `(status, headers, body)`; after that all are served. `models`: what it lists, with a
    context of `context` tokens; `list_status`: what it says instead."""

    url: str = ""
    models: list[str] | None = None
    context: int | None = None
    list_status: int | None = None
    script: deque[tuple[int, dict[str, str], str]] = field(default_factory=deque)
    always: tuple[int, dict[str, str], str] | None = None
    requests: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    engine: FakeEngine = field(default_factory=lambda: FakeEngine(FakeModel(max_model_len=CONTEXT), seed=0))

    def answer(self, request: dict) -> tuple[int, dict[str, str], str]:
        if self.script:
            return self.script.popleft()
        if self.always:
            return self.always
        if not request.get("prompt", "-") or not request.get("messages", "-"):
            return 400, {}, json.dumps({"error": {"message": "the prompt is empty"}})
        options = {key: request[key] for key in ("temperature", "top_p")}
        options["max_tokens"] = request.get("max_completion_tokens") or request["max_tokens"]
        sampling = SamplingConfig(**options, stop=tuple(request.get("stop", ())))
        is_chat = "messages" in request
        prompt = request["messages"] if is_chat else request["prompt"]
        ((reply,),) = self.engine.generate([prompt], sampling, seeds=[request["seed"]] if "seed" in request else None)
        if reply.finish_reason == "prompt_too_long":
            message = f"This model's maximum context length is {CONTEXT} tokens. However, you requested {reply.n_prompt_tokens}."
            return 400, {}, json.dumps({"error": {"message": message, "code": "context_length_exceeded"}})
        choice = {"index": 0, "finish_reason": reply.finish_reason, "stop_reason": reply.stop_reason}
        choice |= {"message": {"role": "assistant", "content": reply.text}} if is_chat else {"text": reply.text}
        usage = {"prompt_tokens": reply.n_prompt_tokens, "completion_tokens": reply.n_tokens, "total_tokens": 0}
        return 200, {}, json.dumps({"id": "1", "object": "x", "created": 0, "model": "fake", "choices": [choice], "usage": usage})


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    yield from _serve()


@pytest.fixture(scope="session")
def good_endpoint() -> Iterator[Endpoint]:
    yield from _serve()


def _serve() -> Iterator[Endpoint]:
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append(request)
            state.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.reply(*state.answer(request))

        def do_GET(self) -> None:
            listed = json.dumps({"object": "list", "data": [{"id": name, "max_model_len": state.context} for name in state.models or ()]})
            if state.list_status:
                return self.reply(state.list_status, {}, "{}")
            self.reply(*(state.always or ((200, {}, listed) if state.models is not None else (404, {}, "{}"))))

        def reply(self, status: int, headers: dict[str, str], body: str) -> None:
            data = body.encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            with contextlib.suppress(ConnectionError):  # the client has hung up
                self.end_headers()
                self.wfile.write(data)
            if "Content-Length" in headers:  # announced more than is there: hang up in the middle
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of the embedded model."""
    pytest.importorskip("vllm", reason="vLLM is not installed here")
    from caco_ray.embedded import embedded_model

    return embedded_model(Path(os.environ["CACO_RAY_CACHE"]) / "models")


@pytest.fixture(scope="session")
def small_vllm() -> Callable[..., VllmModel]:
    """Makes the configuration of a vLLM engine that starts fast."""
    return _small_vllm


def _small_vllm(**changes: object) -> VllmModel:
    values = {"path": "embedded", "max_model_len": CONTEXT, "max_num_seqs": 8, "enforce_eager": True, "cpu_threads": "all", **changes}
    return VllmModel.model_validate(values)


@pytest.fixture(scope="session")
def vllm_engine(smollm2: Path) -> Iterator[Engine]:
    engine = build_engine(_small_vllm(vllm_args={"max_num_batched_tokens": CONTEXT // 2}), path=str(smollm2), seed=0)
    yield engine
    engine.close()


@pytest.fixture(params=["fake", "openai", "vllm"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Every engine, with a context of `CONTEXT` tokens."""
    if request.param == "vllm":
        yield request.getfixturevalue("vllm_engine")
        return
    if request.param == "fake":
        engine = build_engine(FakeModel(max_model_len=CONTEXT), path=None, seed=0)
    else:
        url = request.getfixturevalue("good_endpoint").url
        engine = build_engine(OpenAiModel(base_url=url, model="fake", max_model_len=CONTEXT), path=None, seed=0)
    yield engine
    engine.close()
