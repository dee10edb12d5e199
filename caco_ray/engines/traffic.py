"""Bounds the requests inside an engine and counts them. All of it happens on the engine's event loop, so that nothing is locked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from caco_ray.engines.base import EngineStats


class Traffic:
    """`limit`: requests that may be inside at a time; the others wait in the order in which they came."""

    def __init__(self, limit: int) -> None:
        self._slots = asyncio.Semaphore(limit)
        self.stats = EngineStats()  # replaced, never changed: other threads may read it

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        self.add(waiting=1)
        try:
            await self._slots.acquire()
        finally:
            self.add(waiting=-1)
        self.add(running=1)
        try:
            yield
        finally:
            self.add(running=-1)
            self._slots.release()

    def add(self, *, running: int = 0, waiting: int = 0, prompt_tokens: int = 0, tokens: int = 0) -> None:
        old = self.stats
        self.stats = replace(
            old,
            running=old.running + running,
            waiting=old.waiting + waiting,
            prompt_tokens=old.prompt_tokens + prompt_tokens,
            tokens=old.tokens + tokens,
        )
