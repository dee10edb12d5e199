"""An asyncio event loop on a thread of its own, for engines that are asynchronous inside and synchronous outside."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from caco_ray.errors import EngineError

Result = TypeVar("Result")


class EventLoop:
    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(_cancel_others())
        self._loop.close()

    @property
    def closed(self) -> bool:
        return self._closed

    def run(self, work: Coroutine[Any, Any, Result], timeout_s: float | None = None) -> Result:
        """Run to the end and return the result; any thread may call. Interrupting the caller cancels the work.

        Raises:
            EngineError: the loop is closed, or was closed meanwhile.
            TimeoutError: it took longer than `timeout_s`. It goes on: close or abandon the loop.
        """
        if self._closed:
            work.close()
            raise EngineError("the engine is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except CancelledError:
            raise EngineError("the engine was closed while it worked") from None
        except TimeoutError:
            raise
        except BaseException:
            future.cancel()
            raise

    def cancel_all(self) -> None:
        """Take no more work, cancel what is running and wait until it has stopped. The loop itself goes on."""
        self._closed = True
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancel what is running, run `last`, and end the thread. A second call does nothing."""
        self.cancel_all()
        if not self._thread.is_alive():
            return
        if last is not None:
            asyncio.run_coroutine_threadsafe(last(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def abandon(self, timeout_s: float) -> bool:
        """Take no more work, and end the thread as soon as what it is in the middle of lets go of it. Has it, in that time?"""
        if not self._closed:
            self._closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def run_all(work: list[Coroutine[Any, Any, Result]]) -> list[Result]:
    """All results in order; the first failure cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(item) for item in work]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
