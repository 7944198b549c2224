"""Work that takes longer than a step of the reconcile loop may: it goes on between the looks at it.

Only what is safe to repeat goes here – fetching, proving –, since a program that ends forgets it and the next begins anew.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
LOOK_S = 5.0


class Background:
    """Tasks by key; the same key twice is one task."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}

    async def result(self, key: Hashable, begin: Callable[[], Awaitable[T]], look_s: float = LOOK_S) -> T | None:
        """Return what the work came to, or raise what it raised; None while it goes on. A result is handed out once."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(begin())
        await asyncio.wait({task}, timeout=look_s)
        if not task.done():
            return None
        if self._tasks.get(key) is task:
            del self._tasks[key]
        result: T = task.result()
        return result

    async def close(self) -> None:
        """Stop what still goes on."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
