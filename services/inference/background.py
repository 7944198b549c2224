"""Work that takes longer than a step of the reconcile loop may: it goes on between the looks at it.

Only what is safe to repeat goes here – fetching, proving –, since a program that ends forgets it and the next begins anew.
What nobody looks at any more – its server was deleted, or launched again – is ended and forgotten.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
LOOK_S = 5.0
FORGOTTEN_AFTER_S = 900.0  # a look that failed is repeated within seconds; by then there is nobody who would


class Background:
    """Tasks by key; the same key twice is one task."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}
        self._look_times: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def result(self, key: Hashable, begin: Callable[[], Awaitable[T]], look_s: float = LOOK_S) -> T | None:
        """Return what the work came to, or raise what it raised; None while it goes on. A result is handed out once."""
        self._look_times[key] = self._clock()
        self._forget()
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(begin())
        await asyncio.wait({task}, timeout=look_s)
        if not task.done():
            return None
        if self._tasks.get(key) is task:
            self._drop(key)
        result: T = task.result()
        return result

    async def close(self) -> None:
        """Stop what still goes on."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        self._look_times.clear()

    def _forget(self) -> None:
        """End what nobody has looked at for long."""
        before = self._clock() - FORGOTTEN_AFTER_S
        for key in [key for key, look_time in self._look_times.items() if look_time < before]:
            task = self._drop(key)
            task.cancel()
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # what it raised is nobody's any more

    def _drop(self, key: Hashable) -> asyncio.Task[Any]:
        del self._look_times[key]
        return self._tasks.pop(key)
