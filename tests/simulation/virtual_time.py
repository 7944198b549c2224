"""An event loop whose time passes only when nothing is left to do, and in which nothing happens beside it.

`sleep(3600)` returns at once, an hour later. What services give to threads is done on the spot, so that a schedule is
the same whenever it is played: the order of everything follows from the seed alone.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Waits by moving the loop's time on."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everybody waits for somebody else: nothing is scheduled any more")
        self.now_s += max(timeout, 0.0)
        return []  # nothing comes from outside


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time. Units: seconds since the start."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        self._start = datetime(2026, 1, 1, tzinfo=UTC)
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the virtual time; by a nanosecond more than was waited for, so that a timer is never a rounding early."""
        return self._virtual.now_s + 1e-9

    def clock(self) -> datetime:
        """Return the virtual time as services see it."""
        return self._start + timedelta(seconds=self._virtual.now_s)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Do it now, here."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def play(schedule: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a schedule in a loop of its own and return what it returns."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(schedule(loop))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
