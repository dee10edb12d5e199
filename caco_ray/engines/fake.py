"""A deterministic engine without a model, for tests of the plumbing: it plays every role in the world of `fake_world`.

It reads its role and its material from the prompt alone, by the templates of `prompts.py`, and makes a fixed share of the mistakes
that models make (`fake_roles.PROGRAM_FAULTS` and so on). Equal prompt, seed and sampling give the equal reply, except that without
seeds the replies depend on the order of the calls. Its tokens are words and single other characters; token ids are code points.
`seconds_per_token` makes it a server of that rate: all calls share it.
"""

import hashlib
import itertools
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from caco_ray.config import FakeModel, SamplingConfig
from caco_ray.engines.base import Completion, EngineStats, Prompt, check_call, failed, malformed, too_long
from caco_ray.engines.fake_roles import play, tokens_of
from caco_ray.errors import EngineError


class FakeEngine:
    def __init__(self, model: FakeModel, *, seed: int) -> None:
        self._model, self._seed = model, seed
        self._lock = threading.Lock()
        self._calls = itertools.count()
        self._free_at = 0.0
        self._stats = EngineStats()
        self._closed = False

    @property
    def model_id(self) -> str:
        return "fake"

    def seed_used(self, seed: int) -> int | None:
        return seed

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, n: int = 1, seeds: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        check_call(prompts, n, seeds)
        if self._closed:
            raise EngineError("the fake engine is closed")
        self._working(len(prompts))
        try:
            return self._replies(prompts, sampling, n, seeds)
        finally:
            self._working(-len(prompts))

    def _working(self, change: int) -> None:
        with self._lock:
            self._stats = replace(self._stats, running=self._stats.running + change)

    def _replies(self, prompts: Sequence[Prompt], sampling: SamplingConfig, n: int, seeds: Sequence[int] | None) -> list[list[Completion]]:
        own = [f"{self._seed}/{next(self._calls)}" for _ in prompts] if seeds is None else [str(seed) for seed in seeds]
        replies = [self._serve(prompt, sampling, n, key) for prompt, key in zip(prompts, own, strict=True)]
        self._account(replies)
        return replies

    def stats(self) -> EngineStats:
        return self._stats

    def close(self) -> None:
        self._closed = True

    def _serve(self, prompt: Prompt, sampling: SamplingConfig, n: int, key: str) -> list[Completion]:
        problem = malformed(prompt)
        if problem:
            return failed(problem, n)
        text = _flat(prompt)
        size = len(prompt) if isinstance(prompt[0], int) else len(tokens_of(text))
        if size >= self._model.max_model_len:
            return too_long(n, size)
        room = min(sampling.max_tokens, self._model.max_model_len - size)
        # greedy decoding has no chance in it: the prompt alone decides
        names = [hashlib.blake2b(text.encode()).hexdigest() if sampling.temperature == 0 else f"{key}/{index}" for index in range(n)]
        return [_finish(*play(prompt, random.Random(name)), sampling.stop, room, size) for name in names]

    def _account(self, replies: list[list[Completion]]) -> None:
        """Add up the tokens and wait until a server of the configured rate would have written them."""
        asked = sum(reply[0].n_prompt_tokens for reply in replies)
        written = sum(completion.n_tokens for reply in replies for completion in reply)
        with self._lock:
            old = self._stats
            self._stats = replace(old, prompt_tokens=old.prompt_tokens + asked, tokens=old.tokens + written)
            self._free_at = max(time.monotonic(), self._free_at) + written * self._model.seconds_per_token
            free_at = self._free_at
        time.sleep(max(0.0, free_at - time.monotonic()))


def _flat(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "".join(chr(part) if isinstance(part, int) else f"{part['role']}\n{part['content']}\n" for part in prompt)


def _finish(text: str, broken_off: bool, stops: tuple[str, ...], room: int, size: int) -> Completion:
    place, stop = min(((text.find(stop), stop) for stop in stops if stop in text), default=(len(text), None))
    tokens = tokens_of(text[:place])
    cut = len(tokens) > room or (broken_off and stop is None)
    reason = None if cut else stop
    return Completion("".join(tokens[:room]), "length" if cut else "stop", size, min(len(tokens), room), stop_reason=reason)
