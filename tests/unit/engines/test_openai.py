"""How the client of an endpoint behaves when the endpoint does not. The server is a real one, on this machine."""

import json
import logging
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import pytest

from caco_ray.config import OpenAiModel, SamplingConfig
from caco_ray.engines import admission, build_engine
from caco_ray.engines.base import Completion
from caco_ray.engines.endpoint import check_endpoint
from caco_ray.engines.replies import Replies
from caco_ray.errors import CacoError, ConfigError, EngineError, EngineUnreachableError, ModelError

WARM = SamplingConfig(temperature=0.9, max_tokens=20)
PROMPT = "Once upon a time"
FAST = {"retry-after-ms": "5"}  # the client waits as long as the server asks for
TOO_MANY = (429, FAST, '{"error": {"message": "slow down"}}')
BROKEN = (500, FAST, '{"error": {"message": "the server caught fire"}}')
HALF = (200, {"Content-Length": "4000"}, '{"id": "1", "choices": [{"text": "and th')


def build(url: str, **changes: object) -> Any:
    model = OpenAiModel.model_validate({"base_url": url, "model": "fake", "max_retries": 2, "timeout_s": 30, **changes})
    return build_engine(model, path=None, seed=0)


def ask(url: str, prompts: list[str], **changes: object) -> list[Completion]:
    engine = build(url, **changes)
    try:
        return [reply[0] for reply in engine.generate(prompts, WARM, seeds=range(len(prompts)))]
    finally:
        engine.close()


def test_sends_what_was_configured(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    model = OpenAiModel(base_url=endpoint.url, model="fake", api_key_env="MY_KEY")
    engine = build_engine(model, path=None, seed=0)
    sampling = SamplingConfig(temperature=0.5, top_p=0.8, top_k=20, min_p=0.1, max_tokens=9, min_tokens=2, stop=("END",))
    engine.generate([PROMPT, [{"role": "user", "content": "hi"}]], sampling, seeds=[3, 4])
    engine.close()
    by_kind = {"chat" if "messages" in request else "text": request for request in endpoint.requests}
    expected = {
        "model": "fake",
        "temperature": 0.5,
        "top_p": 0.8,
        "top_k": 20,
        "min_p": 0.1,
        "max_tokens": 9,
        "min_tokens": 2,
        "stop": ["END"],
    }
    assert by_kind["text"] == {**expected, "prompt": PROMPT, "seed": 3}
    assert by_kind["chat"] == {**expected, "messages": [{"role": "user", "content": "hi"}], "seed": 4}
    assert {headers["authorization"] for headers in endpoint.headers} == {"Bearer sk-secret"}


@pytest.mark.parametrize("trouble", [TOO_MANY, BROKEN, HALF], ids=["429", "500", "half"])
def test_repeats_what_failed_for_the_moment(endpoint: Any, trouble: tuple) -> None:
    endpoint.script.extend([trouble, trouble])
    (completion,) = ask(endpoint.url, [PROMPT])
    assert completion.text and completion.error is None
    assert len(endpoint.requests) == 3


def test_a_reply_that_vllm_found_to_go_round_in_circles_was_cut_off(endpoint: Any) -> None:
    endpoint.script.append((200, {}, '{"choices": [{"finish_reason": "repetition", "text": "ha ha"}]}'))
    (completion,) = ask(endpoint.url, [PROMPT])
    assert (completion.finish_reason, completion.stop_reason, completion.text) == ("length", "repetition", "ha ha")


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (BROKEN, "caught fire"),
        (HALF, "onnection error"),
        ((200, {}, "{not json"), ""),
        ((200, {"Content-Type": "text/html"}, "<html>welcome</html>"), "not a completion"),
        ((200, {}, '{"choices": []}'), "not a completion"),
        ((200, {}, '{"choices": [{"finish_reason": "stop", "text": 7}]}'), "not a completion"),
        ((200, {}, '{"choices": [{"finish_reason": "content_filter", "text": "x"}]}'), "content_filter"),
        ((400, {}, '{"error": {"message": "temperature is out of range"}}'), "out of range"),
        ((422, {}, '{"error": "temperature is out of range"}'), "out of range"),
        ((400, {}, '{"error": {"message": "no \\ud800"}}'), "no ?"),
        ((200, {}, '{"choices": [{"finish_reason": "stop", "text": "a\\ud800b"}]}'), "surrogates not allowed"),
        ((200, {}, '{"choices": [{"finish_reason": "\\ud800", "text": "x"}]}'), "ended the request"),
        ((200, {}, '{"choices": [{"finish_reason": "stop", "text": "x"}], "usage": {"prompt_tokens": 99999999999}}'), "not a completion"),
        ((200, {}, '{"choices": [{"finish_reason": "stop", "text": "x"}], "usage": {"completion_tokens": -7}}'), "not a completion"),
    ],
    ids=[
        *("500", "half", "bad-json", "html", "no-choice", "no-text", "filtered", "refused", "refused-in-text"),
        *("odd-error", "surrogate", "odd-finish", "huge-count", "negative-count"),
    ],
)
def test_lasting_trouble_is_an_error_of_the_row(endpoint: Any, trouble: tuple, said: str) -> None:
    is_repeated = trouble in (BROKEN, HALF)
    endpoint.script.extend([trouble] * (3 if is_repeated else 1))
    failed, served = ask(endpoint.url, [PROMPT, PROMPT], max_concurrency=1)
    assert failed.finish_reason == "error" and failed.text == ""
    assert failed.error and said in failed.error and "\n" not in failed.error
    assert failed.error.encode()  # it is written to a file
    assert served.text and served.error is None


def test_the_values_of_the_chat_template_go_with_messages_alone(endpoint: Any) -> None:
    model = OpenAiModel(base_url=endpoint.url, model="fake", chat_template_kwargs={"enable_thinking": False})
    engine = build_engine(model, path=None, seed=0)
    engine.generate([PROMPT, [{"role": "user", "content": "hi"}]], SamplingConfig(temperature=0.5, top_k=20, max_tokens=9))
    engine.close()
    sent = {"messages" in request: (request.get("chat_template_kwargs"), request["top_k"]) for request in endpoint.requests}
    assert sent == {True: ({"enable_thinking": False}, 20), False: (None, 20)}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": "too big", "code": "context_length_exceeded"}}),
        (400, {"object": "error", "message": "The input (50 tokens) is longer than the model's context length (40 tokens)."}),
        (400, {"error": {"code": 400, "message": "the request exceeds the available context size", "type": "exceed_context_size_error"}}),
        (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 40. Given: 50", "error_type": "validation"}),
    ],
    ids=["openai", "sglang", "llama.cpp", "tgi"],
)
def test_a_context_error_is_a_prompt_that_is_too_long(endpoint: Any, status: int, body: dict) -> None:
    endpoint.script.append((status, {}, json.dumps(body)))
    long, short = ask(endpoint.url, [PROMPT, PROMPT], max_concurrency=1)
    assert (long.finish_reason, long.error) == ("prompt_too_long", None)
    assert short.text


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_ends_the_stage_without_naming_the_key(
    endpoint: Any, status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-17")
    endpoint.always = (status, {}, json.dumps({"error": {"message": "no such thing for sk-secret-17"}}))
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError) as caught:
        ask(endpoint.url, [PROMPT])
    assert "fake at http" in str(caught.value)
    assert "sk-secret-17" not in str(caught.value) + caplog.text
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_endpoint_that_has_served_knows_key_and_model(endpoint: Any, status: int) -> None:
    """An ingress says 404 while the server behind it starts again, a router 403 of a prompt: neither is a mistake of the config."""
    endpoint.answer, serve = lambda request: denied if request["seed"] == 3 else serve(request), endpoint.answer
    denied = (status, {}, '{"error": {"message": "not this one"}}')
    if status == 403:
        replies = ask(endpoint.url, [PROMPT] * 6, max_concurrency=1)
        assert [bool(reply.text) for reply in replies] == [True, True, True, False, True, True]
        assert "refuses access: " in (replies[3].error or "") and "not this one" in (replies[3].error or "")
    else:
        with pytest.raises(EngineUnreachableError, match="fake at http.*: the endpoint .*not this one.*and has served before"):
            ask(endpoint.url, [PROMPT] * 6, max_concurrency=1)


def test_a_prompt_that_a_router_refuses_before_the_first_reply_is_a_row_too(endpoint: Any) -> None:
    serve, refused, denied = endpoint.answer, threading.Event(), (403, {}, '{"error": {"message": "flagged"}}')

    def answer(request: dict) -> tuple:
        if request["seed"] == 0:
            refused.set()
            return denied
        refused.wait(60)
        while request["seed"] == 1 and engine.stats().running > 1:  # until the refusal has arrived
            time.sleep(0.01)
        return serve(request)

    endpoint.answer = answer
    engine = build(endpoint.url, max_concurrency=2)
    (first,), (second,) = engine.generate([PROMPT] * 2, WARM, seeds=[0, 1])
    assert first.finish_reason == "error" and second.text
    engine.close()
    endpoint.answer = lambda request: denied
    with pytest.raises(ModelError, match="refuses access.*flagged"):
        ask(endpoint.url, [PROMPT] * 50, max_concurrency=4)


def test_an_endpoint_that_is_not_there_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EngineUnreachableError, match=f"127.0.0.1:{port}.*cannot be reached"):
        ask(f"http://127.0.0.1:{port}/v1", [PROMPT], max_retries=0)
    with pytest.raises(ModelError, match=f"127.0.0.1:{port}.*cannot be reached"):
        check_endpoint(OpenAiModel(base_url=f"http://127.0.0.1:{port}/v1", model="fake"))


def test_an_endpoint_is_known_before_the_run(endpoint: Any) -> None:
    model = OpenAiModel(base_url=endpoint.url, model="fake")
    check_endpoint(model)  # a server that lists nothing
    endpoint.models = ["fake", "other"]
    check_endpoint(model)
    assert not endpoint.requests
    endpoint.models = ["other"]
    check_endpoint(model)  # not listed, and served all the same
    endpoint.answer = lambda request: (404, {}, '{"error": {"message": "no such model"}}')
    with pytest.raises(ModelError, match=r"fake at http.*: the endpoint does not know this model; it lists other$"):
        check_endpoint(model)
    endpoint.always = (401, {}, '{"error": {"message": "no"}}')
    endpoint.answer = lambda request: endpoint.always
    with pytest.raises(ModelError, match=r"refuses the key \(401\); \$OPENAI_API_KEY is not set"):
        check_endpoint(model)


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_may_be_refused_the_list_of_models(endpoint: Any, status: int) -> None:
    model = OpenAiModel(base_url=endpoint.url, model="fake")
    endpoint.list_status = status
    check_endpoint(model)
    assert endpoint.requests[0]["max_tokens"] == 1
    endpoint.always = (status, {}, '{"error": {"message": "no"}}')
    with pytest.raises(ModelError, match=rf"refuses the key \({status}\); \$OPENAI_API_KEY is not set"):
        check_endpoint(model)
    endpoint.always = (404, {}, '{"error": {"message": "no"}}')
    with pytest.raises(ModelError, match="does not know this model"):
        check_endpoint(model)


@pytest.mark.parametrize("field", ["n", "stream", "model", "messages", "prompt", "seed", "max_tokens", "temperature", "stop"])
def test_fields_of_the_request_that_are_not_free_are_refused(endpoint: Any, field: str) -> None:
    engine = build(endpoint.url)
    with pytest.raises(ConfigError, match=rf"^sampling\.extra\.{field}: "):
        engine.generate([PROMPT], SamplingConfig(temperature=0, extra={field: 2}))
    engine.generate([PROMPT], SamplingConfig(temperature=0, extra={"guided_regex": "a+"}))
    engine.close()
    assert [request["guided_regex"] for request in endpoint.requests] == ["a+"]


def test_an_endpoint_that_fails_on_and_on_ends_the_stage(endpoint: Any) -> None:
    endpoint.always = BROKEN
    with pytest.raises(EngineUnreachableError, match="8 requests failed in a row.*caught fire") as caught:
        ask(endpoint.url, [PROMPT] * 50, max_retries=0, max_concurrency=4)
    assert isinstance(caught.value, CacoError)
    assert len(endpoint.requests) < 20


def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an endpoint that shows no life."""
    monkeypatch.setattr("caco_ray.engines.openai.Admission", lambda limit_s: admission.Admission(0))


@pytest.mark.parametrize("status", [429, 503])
def test_a_request_waits_while_an_endpoint_that_limits_them_serves_others(endpoint: Any, status: int) -> None:
    """One prompt is turned away until thirty others are served, far beyond its own tries."""
    serve, served, changed = endpoint.answer, [], threading.Condition()

    def answer(request: dict) -> tuple:
        with changed:
            if request["seed"] == 0 and (so_far := len(served)) < 30:
                changed.wait_for(lambda: len(served) > so_far)
                return status, FAST, '{"error": {"message": "slow down"}}'
            served.append(request["seed"])
            changed.notify_all()
        return serve(request)

    endpoint.answer = answer
    replies = ask(endpoint.url, [PROMPT] * 31, max_concurrency=2, max_retries=1)
    assert all(reply.text and reply.error is None for reply in replies)
    assert served[30] == 0 and sum(request["seed"] == 0 for request in endpoint.requests) > 2


def test_requests_wait_while_an_endpoint_that_admits_a_few_writes_long_replies(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It admits two of six, and serves these two when the others were turned away ten times each: each request inside is paid for once."""
    no_patience(monkeypatch)
    serve, changed, inside, others = endpoint.answer, threading.Condition(), Counter(), Counter()

    def answer(request: dict) -> tuple:
        with changed:
            (others if request["seed"] > 1 else inside).update([request["seed"]])
            changed.notify_all()
            if request["seed"] > 1 and others[request["seed"]] <= 10:
                changed.wait_for(lambda: len(inside) == 2)
                return TOO_MANY
            changed.wait_for(lambda: [*others.values()] == [11] * 4)
        return serve(request)

    endpoint.answer = answer
    replies = ask(endpoint.url, [PROMPT] * 6, max_concurrency=6, max_retries=1)
    assert all(reply.text and reply.error is None for reply in replies)
    assert inside == {0: 1, 1: 1}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("prompts", [1, 8])
def test_an_endpoint_that_is_too_busy_for_all_is_waited_for_and_no_row_is_blamed(
    endpoint: Any, status: int, prompts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_patience(monkeypatch)
    endpoint.always = (status, FAST, '{"error": {"message": "slow down"}}')
    with pytest.raises(EngineUnreachableError, match="fake at http.*: is too busy to serve any request: .*slow down"):
        ask(endpoint.url, [PROMPT] * prompts, max_concurrency=prompts)


def test_an_endpoint_may_ask_for_a_wait_that_is_longer_than_a_request_may_take(endpoint: Any) -> None:
    """Of the time of all tries the wait is no part: nobody blames the row."""
    endpoint.script.append((429, {"retry-after-ms": "2500"}, "{}"))
    (completion,) = ask(endpoint.url, [PROMPT], timeout_s=1, max_retries=1)
    assert completion.text and completion.error is None and len(endpoint.requests) == 2


def test_a_wait_is_the_one_that_was_asked_for_within_reason() -> None:
    for headers, least, most in (
        ({"retry-after-ms": "2000", "retry-after": "60"}, 2, 2.5),
        ({"retry-after": "60"}, 60, 75),
        ({"retry-after": formatdate(time.time() + 100, usegmt=True)}, 10, 126),
        ({"retry-after": "86400"}, 120, 150),
        ({"retry-after": "soon"}, 0.5, 1.5),
        ({"retry-after": "-3"}, 0.5, 1.5),
        ({"retry-after": "nan"}, 0.5, 1.5),
        ({}, 0.5, 1.5),
    ):
        assert least <= admission._pause_s(headers, 0) <= most, headers
    assert 4 <= admission._pause_s({}, 10_000) <= 12


def test_a_call_that_is_made_again_after_an_outage_is_not_paid_for_twice(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of five prompts is turned away, then served: the call fails with four replies, which the next call like it gets."""
    no_patience(monkeypatch)
    serve, is_down = endpoint.answer, True
    endpoint.answer = lambda request: TOO_MANY if is_down and request.get("prompt") == "last" else serve(request)
    prompts = [*"abcd", "last"]
    engine = build(endpoint.url, max_concurrency=1)
    with pytest.raises(EngineUnreachableError):
        engine.generate(prompts, WARM, seeds=range(5))
    endpoint.requests.clear()
    with pytest.raises(EngineUnreachableError):
        engine.generate(prompts, WARM, seeds=range(5))
    assert {request["prompt"] for request in endpoint.requests} == {"last"}
    is_down = False
    replies = engine.generate(prompts, WARM, seeds=range(5))
    assert {request["prompt"] for request in endpoint.requests} == {"last"}
    assert engine.stats().tokens == sum(reply.n_tokens for (reply,) in replies)
    endpoint.requests.clear()
    assert engine.generate(prompts, WARM, seeds=range(5)) == replies  # each is kept for one call
    assert len(endpoint.requests) == 5
    engine.close()


def test_replies_are_kept_each_for_one_request_like_it_and_within_bounds() -> None:
    kept = Replies(limit=3000)
    one, other = (Completion(text, "stop", 1, 1) for text in ("one", "other"))
    kept.keep("a", {"seed": 1}, one)
    assert kept.take("a", {"seed": 2}) is None and kept.take("b", {"seed": 1}) is None
    kept.keep("a", {"seed": 1}, other)
    assert {kept.take("a", {"seed": 1}), kept.take("a", {"seed": 1})} == {one, other}
    assert kept.take("a", {"seed": 1}) is None
    for seed in range(9):
        kept.keep("a", {"seed": seed}, one)
    assert [seed for seed in range(9) if kept.take("a", {"seed": seed})] == [4, 5, 6, 7, 8]


def test_closing_ends_the_calls_that_wait(endpoint: Any) -> None:
    """One is being served, one was turned away, one waits for a place, and two more wait in a call of another thread."""
    there, closed = threading.Barrier(3), threading.Event()

    def answer(request: dict) -> tuple:
        if request["seed"] == 0:
            there.wait(60)
            closed.wait(60)
        elif endpoint.requests.count(request) == 1:
            there.wait(60)
        return 429, {"retry-after": "100"}, "{}"

    endpoint.answer = answer
    engine = build(endpoint.url, max_concurrency=2)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(engine.generate, [PROMPT] * 3, WARM, seeds=[0, 1, 2])]
        there.wait(60)
        calls.append(pool.submit(engine.generate, [PROMPT] * 2, WARM, seeds=[3, 4]))
        engine.close()
        said = [call.exception(60) for call in calls]
    closed.set()
    assert all(isinstance(error, EngineError) and "closed" in str(error) for error in said), said


@pytest.mark.parametrize(
    "body",
    [
        {
            "message": "max_tokens=2048 cannot be greater than max_model_len=1024. Please request fewer output tokens. (parameter=max_tokens)",
            "param": "max_tokens",
            "code": 400,
        },
        {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "param": "max_tokens"},
    ],
    ids=["vllm", "openai"],
)
def test_max_tokens_that_the_endpoint_refuses_is_a_mistake_of_the_config(endpoint: Any, body: dict) -> None:
    endpoint.always = (400, {}, json.dumps({"error": body}))
    with pytest.raises(ModelError, match="fake at http.*: refuses max_tokens, .*lower max_tokens of the stage's sampling, or .* max_tokens_field"):
        ask(endpoint.url, [PROMPT], max_concurrency=1)
    assert len(endpoint.requests) == 1


def test_an_endpoint_to_which_every_prompt_is_too_long_ends_the_run(endpoint: Any) -> None:
    serve = endpoint.answer
    endpoint.answer = lambda request: (400, {}, json.dumps({"error": {"message": f"over the context length of 40: {request['seed']}"}}))
    with pytest.raises(ModelError, match="fake at http.*: refuses every request: .*context length.*; lower max_tokens"):
        ask(endpoint.url, [PROMPT] * 50, max_concurrency=4)
    assert len(endpoint.requests) < 20
    endpoint.answer = lambda request: serve(request) if request["seed"] == 0 else (400, {}, '{"error": {"message": "context length"}}')
    first, *others = ask(endpoint.url, [PROMPT] * 30, max_concurrency=1)
    assert first.text and {each.finish_reason for each in others} == {"prompt_too_long"}


def test_seeds_may_stay_here_and_max_tokens_have_another_name_in_chats(endpoint: Any) -> None:
    model = OpenAiModel(base_url=endpoint.url, model="fake", send_seeds=False, max_tokens_field="max_completion_tokens")
    engine = build_engine(model, path=None, seed=0)
    replies = engine.generate([PROMPT, [{"role": "user", "content": "hi"}]], WARM, seeds=[3, 4])
    assert engine.seed_used(3) is None  # what was not sent is not recorded
    engine.close()
    assert all(reply.text for (reply,) in replies) and not any("seed" in request for request in endpoint.requests)
    sent = {"messages" in request: (request.get("max_tokens"), request.get("max_completion_tokens")) for request in endpoint.requests}
    assert sent == {True: (None, WARM.max_tokens), False: (WARM.max_tokens, None)}


@pytest.mark.parametrize("key", ["sk-abc\ndef-SECRET", "sk-\u201cSECRET\u201d"], ids=["two lines", "quotes"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(endpoint: Any, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    endpoint.models = ["fake"]
    for use in (lambda: check_endpoint(OpenAiModel(base_url=endpoint.url, model="fake")), lambda: ask(endpoint.url, [PROMPT])):
        with pytest.raises(ModelError, match=r"fake: \$OPENAI_API_KEY holds a line break or another character that no key has") as caught:
            use()
        assert "SECRET" not in str(caught.value) and "abc" not in str(caught.value)


def test_a_context_that_is_shorter_than_configured_is_found_before_the_run(endpoint: Any) -> None:
    endpoint.models, endpoint.context = ["fake"], 1024
    check_endpoint(OpenAiModel(base_url=endpoint.url, model="fake", max_model_len=1024))
    with pytest.raises(ModelError, match=r"fake at http.*: serves a context of 1024 tokens; give max_model_len=1024, not 4096"):
        check_endpoint(OpenAiModel(base_url=endpoint.url, model="fake"))


def test_an_endpoint_that_refuses_every_request_ends_the_run(endpoint: Any) -> None:
    endpoint.always = (400, {}, '{"error": {"message": "max_tokens is not supported"}}')
    with pytest.raises(ModelError, match="fake at http.*: refuses every request: .*max_tokens is not supported"):
        ask(endpoint.url, [PROMPT] * 50, max_concurrency=4)
    assert len(endpoint.requests) < 20


def test_refusals_after_the_first_served_request_are_those_of_rows(endpoint: Any) -> None:
    serve, refused = endpoint.answer, (400, {}, '{"error": {"message": "not this one"}}')
    endpoint.answer = lambda request: refused if request["seed"] else serve(request)
    first, *others = ask(endpoint.url, [PROMPT] * 30, max_concurrency=1)
    assert first.text and all("not this one" in (other.error or "") for other in others)


def test_what_stopped_a_reply_is_told_where_the_server_tells(endpoint: Any) -> None:
    for told, reason in (("END", "END"), (128009, "128009"), (None, None)):
        choice = {"text": "x", "finish_reason": "stop", "stop_reason": told}
        endpoint.script.append((200, {}, json.dumps({"choices": [choice]})))
        assert ask(endpoint.url, [PROMPT])[0].stop_reason == reason


def test_a_silent_endpoint_is_given_up(endpoint: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        (completion,) = ask(url, [PROMPT], timeout_s=0.2, max_retries=0)
    assert completion.finish_reason == "error" and "time" in (completion.error or "").lower()


def test_keeps_to_its_concurrency(endpoint: Any) -> None:
    lock, inside, most = threading.Lock(), 0, 0
    serve = endpoint.answer

    def counted(request: dict) -> tuple:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.02)
        try:
            return serve(request)
        finally:
            with lock:
                inside -= 1

    endpoint.answer = counted
    assert len(ask(endpoint.url, [PROMPT] * 30, max_concurrency=3)) == 30
    assert most == 3


def test_token_ids_that_cannot_fit_are_not_sent(endpoint: Any) -> None:
    engine = build_engine(OpenAiModel(base_url=endpoint.url, model="fake", max_model_len=64), path=None, seed=0)
    long, short = engine.generate([[40] * 64, [40] * 63], SamplingConfig(temperature=0, max_tokens=4), n=2)
    engine.close()
    assert [(each.finish_reason, each.n_prompt_tokens) for each in long] == [("prompt_too_long", 64)] * 2
    assert all(each.finish_reason != "prompt_too_long" for each in short) and len(endpoint.requests) == 2
