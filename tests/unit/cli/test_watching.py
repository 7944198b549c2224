"""Watching something whose program goes away."""

import io
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from services.cli.watching import MAX_AWAY_S, again
from services.common.errors import Unavailable


class Away:
    """A watch that breaks so many times before it answers, and the time that passes meanwhile."""

    def __init__(self, breaks: int) -> None:
        self.breaks, self.now_s, self.opened_after = breaks, 0.0, list[int]()
        self.out = Console(file=io.StringIO(), width=200)

    async def open(self, after: int) -> AsyncIterator[Any]:
        self.opened_after.append(after)
        if after == 0:
            yield SimpleNamespace(events=[SimpleNamespace(sequence=7)])
        if self.breaks:
            self.breaks -= 1
            raise Unavailable("trainer can't be reached.")
        yield SimpleNamespace(events=[SimpleNamespace(sequence=8)])

    async def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    async def watch(self) -> int:
        return len([response async for response in again(self.out, self.open, clock=lambda: self.now_s, sleep=self.pass_time)])

    @property
    def said(self) -> list[str]:
        file: Any = self.out.file
        return [line.strip() for line in file.getvalue().splitlines()]


async def test_a_program_that_is_away_is_told_at_once_and_once_and_the_watch_goes_on_where_it_was() -> None:
    away = Away(3)
    assert await away.watch() == 2
    assert away.said == ["trainer can't be reached. Waiting for up to 60 s…", "It answers again."]
    assert away.opened_after == [0, 7, 7, 7]


async def test_after_a_minute_away_the_watch_gives_up() -> None:
    away = Away(1_000_000)
    with pytest.raises(Unavailable):
        await away.watch()
    assert away.now_s == MAX_AWAY_S
    assert len(away.said) == 1
