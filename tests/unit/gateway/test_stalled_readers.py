"""A client that takes nothing of its stream: it holds a place that others need, so the stream ends."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from services.common.transport.http_server import ClientLeft
from services.gateway.openai.chat import _stream


class Endless:
    """An answer that never ends."""

    route = SimpleNamespace(digest="ab" * 32)

    def __init__(self) -> None:
        self.read_count = 0

    async def batches(self) -> AsyncIterator[list[Any]]:
        while True:
            self.read_count += 1
            yield [{"choices": []}]


async def test_a_stream_that_nobody_reads_ends() -> None:
    taken = 0

    async def send(message: Any) -> None:
        nonlocal taken
        taken += 1
        if taken == 3:
            await asyncio.Event().wait()  # as a full socket does

    answer: Any = Endless()
    with pytest.raises(ClientLeft):
        await _stream(answer, send, stall_s=0.05)
    assert (taken, answer.read_count) == (3, 2)


async def test_a_stream_that_is_read_slowly_goes_on_for_longer_than_the_patience_with_one_piece() -> None:
    pieces = 0

    async def send(message: Any) -> None:
        nonlocal pieces
        pieces += 1
        await asyncio.sleep(0.05)
        if pieces == 12:
            raise ConnectionResetError

    answer: Any = Endless()
    with pytest.raises(ConnectionResetError):
        await _stream(answer, send, stall_s=0.3)
