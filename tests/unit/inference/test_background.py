"""Work between the looks of a loop: once, however often it is looked at, and not for ever."""

import asyncio

import pytest

from services.inference.background import FORGOTTEN_AFTER_S, Background


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_two_looks_are_one_piece_of_work_whose_result_is_handed_out_once() -> None:
    background, begun, may_end = Background(), [], asyncio.Event()

    async def work() -> str:
        begun.append(1)
        await may_end.wait()
        return "done"

    assert await background.result("a", work, look_s=0) is None
    may_end.set()
    assert await background.result("a", work) == "done"
    assert begun == [1]
    assert len(background) == 0


async def test_what_nobody_looks_at_any_more_is_ended_and_forgotten() -> None:
    clock, ended = Clock(), asyncio.Event()
    background = Background(clock)

    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def broken() -> None:
        await asyncio.sleep(0.01)
        raise RuntimeError("nobody hears this")

    async def short() -> str:
        return "done"

    await background.result("long", long, look_s=0.01)
    await background.result("broken", broken, look_s=0)
    assert len(background) == 2
    clock.now_s = FORGOTTEN_AFTER_S + 1
    assert await background.result("short", short) == "done"
    async with asyncio.timeout(5):
        await ended.wait()
    assert len(background) == 0


async def test_work_that_fails_is_told_to_who_looks_and_begun_anew_by_the_next() -> None:
    background, tries = Background(), []

    async def work() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("the first time")
        return "done"

    with pytest.raises(RuntimeError):
        await background.result("a", work)
    assert await background.result("a", work) == "done"
