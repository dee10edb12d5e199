"""Any OpenAI-compatible endpoint: chat completions for messages, completions for raw text and token ids.

Each sample is one request, since not every server knows `n`. The client library repeats a request on 408, 409, 5xx and broken connections,
with exponential waits and jitter, up to `max_retries`; a request as a whole is bounded too. A request that still fails is the row's
"error", unless the endpoint is too busy (429, 503): it is asked on while others are served or written, and no row is blamed. An endpoint
that serves none for the time of all tries, refuses connections or fails many requests in a row is an `EngineUnreachableError`; one that
refuses the key, the model or `max_tokens`, or the first requests all alike, a `ModelError`. One that has served knows key and model: that
it refuses either may pass (`EngineUnreachableError`), and 403 is the row's "error", as of a router that refuses a prompt. Replies of a
call that fails for the endpoint's sake are kept for the next one like it. Seeds are sent along; what they are worth is the server's
affair. Text is too long where the server says so: one that counts `max_tokens` towards its context may say it of a prompt that would fit
with fewer. Token ids are counted here.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import openai

from caco_ray.config import OpenAiModel, SamplingConfig
from caco_ray.engines.admission import BUSY, Admission, answer_busy_at_once
from caco_ray.engines.base import Completion, EngineStats, Prompt, check_call, failed, malformed, sample_seed, too_long
from caco_ray.engines.endpoint import api_key, check_request_fields, connect_failure
from caco_ray.engines.event_loop import EventLoop, run_all
from caco_ray.engines.replies import Replies
from caco_ray.engines.traffic import Traffic
from caco_ray.errors import EngineError, EngineUnreachableError, ModelError

_NO_KEY = "none"  # what servers without accounts are sent
_MIN_FAILURES = 8  # in a row (or equal refusals at the begin), before the endpoint is taken to be down
_MAX_MESSAGE = 300
_MAX_COUNT = 2**31 - 1  # tokens: what a column holds
_CONTEXT_CODES = ("context_length_exceeded", "exceed_context_size_error")
# In the words of OpenAI, vLLM, SGLang ("longer than the model's context length"), llama.cpp, and TGI (the last two).
_CONTEXT_ERRORS = (
    "context length", "max_model_len", "context window", "maximum model length", "context size",
    "`inputs` tokens + `max_new_tokens` must be", "`inputs` must have less than",
)  # fmt: skip
_REFUSED = (400, 413, 422)
_MAX_KEPT = 2**26  # characters
_TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")
_ADVICE = {401: "refuses the key", 403: "refuses access", 404: "does not know this model or path"}

_Served = tuple[Prompt, dict[str, Any], Completion]  # with the options of the request


class OpenAiEngine:
    def __init__(self, model: OpenAiModel) -> None:
        """Nothing is sent yet.

        Raises:
            ModelError: the environment variable holds no key.
        """
        self._model = model
        self._key = api_key(model)
        self._failures = 0
        self._served = 0  # requests
        self._refusals: Counter[str] = Counter()  # until the first request is served
        self._loop = EventLoop("openai")
        self._client = openai.AsyncOpenAI(
            base_url=model.base_url,
            api_key=self._key or _NO_KEY,
            timeout=model.timeout_s,
            max_retries=model.max_retries,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [answer_busy_at_once]}),
        )
        self._patience = max(_MIN_FAILURES, model.max_concurrency)  # requests
        self._request_s = model.timeout_s * (1 + model.max_retries)  # of all tries
        self._admission = Admission(self._request_s)
        self._replies = Replies(_MAX_KEPT)
        self._traffic = Traffic(model.max_concurrency)

    @property
    def model_id(self) -> str:
        return self._model.model

    def seed_used(self, seed: int) -> int | None:
        return seed if self._model.send_seeds else None

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, n: int = 1, seeds: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        """See `Engine.generate`.

        Raises:
            ConfigError: `sampling.extra` has a field that is ours to set.
            ModelError: the endpoint refuses the key or `max_tokens`, does not know the model, or refuses whatever it is asked.
            EngineUnreachableError: the endpoint cannot be reached, is too busy for any request, or fails again and again.
            EngineError: the engine is closed.
        """
        check_call(prompts, n, seeds)
        if self._loop.closed:
            raise EngineError("the engine is closed")
        check_request_fields(sampling.extra)
        return self._loop.run(self._serve_all(prompts, _options(sampling), n, seeds if self._model.send_seeds else None))

    def stats(self) -> EngineStats:
        return self._traffic.stats

    def close(self) -> None:
        self._loop.close(last=self._client.close)

    async def _serve_all(
        self, prompts: Sequence[Prompt], options: dict[str, Any], n: int, seeds: Sequence[int] | None
    ) -> list[list[Completion]]:
        served: list[_Served] = []
        work = [self._serve(prompt, options, n, seeds[index] if seeds else None, served) for index, prompt in enumerate(prompts)]
        try:
            return await run_all(work)
        except EngineUnreachableError:
            for each in served:
                self._replies.keep(*each)
            raise

    async def _serve(self, prompt: Prompt, options: dict[str, Any], n: int, seed: int | None, served: list[_Served]) -> list[Completion]:
        problem = malformed(prompt)
        if problem:
            return failed(problem, n)
        if isinstance(prompt[0], int) and len(prompt) >= self._model.max_model_len:
            return too_long(n, len(prompt))
        seeded = [options if seed is None else {**options, "seed": sample_seed(seed, index)} for index in range(n)]
        return await run_all([self._sample(prompt, own, served) for own in seeded])

    async def _sample(self, prompt: Prompt, options: dict[str, Any], served: list[_Served]) -> Completion:
        completion = self._replies.take(prompt, options)
        if completion is None:
            async with self._traffic.slot():
                try:
                    completion = await self._admission.enter(lambda: self._try(prompt, options))
                except (openai.APIError, ValueError, TimeoutError) as error:
                    return self._failed(error)
            self._failures, self._served = 0, self._served + 1
            self._traffic.add(prompt_tokens=completion.n_prompt_tokens, tokens=completion.n_tokens)
        if completion.error is None:
            served.append((prompt, options, completion))
        return completion

    async def _try(self, prompt: Prompt, options: dict[str, Any]) -> Completion:
        async with asyncio.timeout(self._request_s):
            return _completion(await self._ask(prompt, options))

    async def _ask(self, prompt: Prompt, options: dict[str, Any]) -> Any:
        if isinstance(prompt, list) and isinstance(prompt[0], dict):
            options = {self._model.max_tokens_field if name == "max_tokens" else name: value for name, value in options.items()}
            if kwargs := self._model.chat_template_kwargs:
                options = {**options, "extra_body": {"chat_template_kwargs": kwargs, **options.get("extra_body", {})}}
            return await self._client.chat.completions.create(model=self._model.model, messages=prompt, **options)  # type: ignore[arg-type]
        return await self._client.completions.create(model=self._model.model, prompt=prompt, **options)

    def _failed(self, error: Exception) -> Completion:
        """The row's completion, or an exception where the endpoint as a whole is at fault."""
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        message = self._one_line(error)
        where = f"{self._model.model} at {self._model.base_url}"
        if isinstance(error, openai.APIStatusError) and status in _REFUSED:
            return self._refused(error, message, where)
        if status in BUSY:
            raise EngineUnreachableError(f"{where}: is too busy to serve any request: {message}") from None
        if status == 403 and self._is_of_one_request():
            message = f"the endpoint {_ADVICE[403]}: {message}"
        elif status in _ADVICE:
            raise self._denied(status, message, where) from None
        if why := connect_failure(error):
            raise EngineUnreachableError(f"{where}: cannot be reached ({why})") from None
        self._failures += 1
        if self._failures >= self._patience:
            raise EngineUnreachableError(f"{where}: {self._failures} requests failed in a row, the last with: {message}") from None
        return failed(message, 1)[0]

    def _is_of_one_request(self) -> bool:
        """Whether a 403 may be: the endpoint has served, or has others at hand of which not many were refused like this."""
        self._refusals["403"] += 1
        return self._served > 0 or (self._traffic.stats.running > 1 and self._refusals["403"] < self._patience)

    def _denied(self, status: int, message: str, where: str) -> Exception:
        said = f"{where}: the endpoint {_ADVICE[status]} ({message})"
        if self._served:
            return EngineUnreachableError(f"{said}, and has served before")
        key = f"; ${self._model.api_key_env} is {'set' if self._key else 'not set'}" if status != 404 else ""
        return ModelError(said + key)

    def _refused(self, error: openai.APIStatusError, message: str, where: str) -> Completion:
        """What is wrong with one request says nothing about the next; what is wrong with all, or with `max_tokens`, is the config."""
        is_long = error.code in _CONTEXT_CODES or error.type in _CONTEXT_CODES or any(sign in message.lower() for sign in _CONTEXT_ERRORS)
        if "cannot be greater than max_model_len" in message or (error.param in _TOKEN_FIELDS and not is_long):
            mend = "lower max_tokens of the stage's sampling, or see the model's max_tokens_field"
            raise ModelError(f"{where}: refuses max_tokens, whatever the row: {message}; {mend}") from None
        kind = "too long" if is_long else message
        self._refusals[kind] += 1
        if not self._served and self._refusals[kind] >= self._patience:
            mend = "; lower max_tokens of the stage's sampling, or serve the model with a longer context" if is_long else ""
            raise ModelError(f"{where}: refuses every request: {message}{mend}") from None
        return too_long(1, 0)[0] if is_long else failed(message, 1)[0]

    def _one_line(self, error: BaseException) -> str:
        """Without the key, should a server repeat it."""
        body = getattr(error, "body", None)  # TGI gives a text where others give an object with a message
        said = f"{error}: {body}" if isinstance(body, str) and body not in str(error) else str(error)
        text = " ".join(said.encode(errors="replace").decode().split()) or type(error).__name__
        return (text.replace(self._key, "***") if self._key else text)[:_MAX_MESSAGE]


def _options(sampling: SamplingConfig) -> dict[str, Any]:
    """Request fields. What is not in OpenAI's own API is sent only where it is set; vLLM, SGLang and others know it."""
    extra = {"top_k": sampling.top_k, "min_p": sampling.min_p, "min_tokens": sampling.min_tokens}
    if sampling.repetition_penalty != 1:
        extra["repetition_penalty"] = sampling.repetition_penalty
    options: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens}
    if sampling.stop:
        options["stop"] = list(sampling.stop)
    penalties = {"presence_penalty": sampling.presence_penalty, "frequency_penalty": sampling.frequency_penalty}
    options |= {name: value for name, value in penalties.items() if value}
    set_extra = {**{name: value for name, value in extra.items() if value}, **sampling.extra}
    return {**options, "extra_body": set_extra} if set_extra else options


def _completion(reply: Any) -> Completion:
    """Raises ValueError where the reply is not what the API promises: the client library does not check it."""
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or len(choices) != 1:
        raise ValueError(f"the endpoint's reply is not a completion: {str(reply)[:100]!r}")
    (choice,) = choices
    message = getattr(choice, "message", None)
    text = getattr(message, "content", None) or "" if message is not None else getattr(choice, "text", None)
    usage = getattr(reply, "usage", None)
    asked, written = getattr(usage, "prompt_tokens", None) or 0, getattr(usage, "completion_tokens", None) or 0
    if not isinstance(text, str) or not all(isinstance(count, int) and 0 <= count <= _MAX_COUNT for count in (asked, written)):
        raise ValueError(f"the endpoint's reply is not a completion: {str(reply)[:100]!r}")
    stop, finish = getattr(choice, "stop_reason", None), getattr(choice, "finish_reason", None)  # vLLM's: a stop string or a token's id
    f"{text}{stop}".encode()  # a lone surrogate can be kept in no file: UnicodeEncodeError, which is a ValueError
    if finish == "repetition":  # vLLM's `repetition_detection`
        return Completion(text, "length", asked, written, stop_reason=finish)
    if finish in ("stop", "length"):
        return Completion(text, finish, asked, written, stop_reason=None if stop is None else str(stop))
    return Completion("", "error", asked, written, f"the endpoint ended the request: {str(finish)[:100]!r}")
