"""Keeps what an endpoint has served of calls that failed as a whole: they are made again, and nothing is to be paid for twice."""

import hashlib
import json
from typing import Any

from caco_ray.engines.base import Completion, Prompt

_OVERHEAD = 500  # of a reply, in bytes


class Replies:
    """Each for one request that is the same. `limit`: characters of text, roughly; beyond it the oldest go."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._kept: dict[bytes, list[Completion]] = {}  # in the order in which they came

    def keep(self, prompt: Prompt, options: dict[str, Any], reply: Completion) -> None:
        self._kept.setdefault(_key(prompt, options), []).append(reply)
        self._size += _size(reply)
        while self._size > self._limit:
            oldest = self._kept.pop(next(iter(self._kept)))
            self._size -= sum(map(_size, oldest))

    def take(self, prompt: Prompt, options: dict[str, Any]) -> Completion | None:
        """None where there is none. Two requests that are the same get different replies: without seeds each is a sample of its own."""
        if not self._kept:
            return None
        key = _key(prompt, options)
        replies = self._kept.get(key)
        if replies is None:
            return None
        reply = replies.pop()
        self._size -= _size(reply)
        if not replies:
            del self._kept[key]
        return reply


def _size(reply: Completion) -> int:
    return len(reply.text) + _OVERHEAD


def _key(prompt: Prompt, options: dict[str, Any]) -> bytes:
    return hashlib.blake2b(json.dumps([prompt, options], sort_keys=True).encode(), digest_size=16).digest()
