"""Gets requests into an endpoint that turns some of them away. All of it happens on the engine's event loop.

An endpoint shows life by serving a request, or by keeping one longer than it ever took to turn one away: that one is inside, and being
written. As long as it does, a request that is turned away is asked again: no row is at fault, and to give up would cost what the others
write. Waits are those that the endpoint asks for (https://www.rfc-editor.org/rfc/rfc9110#field.retry-after), else they double; both with
jitter. They count towards no time-out.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import openai

Reply = TypeVar("Reply")

BUSY = (429, 503)
_FIRST_PAUSE_S = 1.0
_DOUBLINGS = 3
_LONGEST_ASKED_S = 120.0  # the client library takes what is over it for a mistake, too


class Admission:
    """`limit_s`: how long the endpoint may show no life."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._sent: dict[object, float] = {}  # requests without an answer, and since when
        self._alive = 0.0
        self._slowest_refusal_s = 0.0

    async def enter(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """What `ask` returns.

        Raises:
            openai.APIStatusError: one of `BUSY`: no request was served or inside for `limit_s`. Whatever else `ask` raises, at once.
        """
        first: float | None = None
        refusals = 0
        while True:
            request = object()
            self._sent[request] = time.monotonic()
            try:
                reply = await ask()
            except openai.APIStatusError as error:
                now = time.monotonic()
                first = now if first is None else first
                if error.status_code not in BUSY or self._is_dead(request, now, first):
                    raise
                pause_s = _pause_s(error.response.headers, refusals)
            else:
                self._alive = time.monotonic()
                return reply
            finally:
                del self._sent[request]
            refusals += 1
            await asyncio.sleep(pause_s)

    def _is_dead(self, request: object, now: float, first: float) -> bool:
        """Whether, now that a `request` is turned away, `limit_s` have passed without a sign of life since it first was."""
        self._slowest_refusal_s = max(self._slowest_refusal_s, now - self._sent[request])
        if any(now - sent > self._slowest_refusal_s for sent in self._sent.values()):
            self._alive = now
        return now - max(first, self._alive) > self._limit_s


async def answer_busy_at_once(response: Any) -> None:
    """A hook of the HTTP client: so that the client library does not wait itself, and give up after some tries."""
    if response.status_code in BUSY:
        response.headers["x-should-retry"] = "false"


def _pause_s(headers: Mapping[str, str], refusals: int) -> float:
    asked = _asked_s(headers)
    if asked > 0:
        return min(asked, _LONGEST_ASKED_S) * random.uniform(1, 1.25)
    return _FIRST_PAUSE_S * 2.0 ** min(refusals, _DOUBLINGS) * random.uniform(0.5, 1.5)


def _asked_s(headers: Mapping[str, str]) -> float:
    """0 where the endpoint does not tell."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            return float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
    try:
        return parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
    except (KeyError, ValueError, OverflowError):
        return 0.0
