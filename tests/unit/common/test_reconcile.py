"""The loop: claims, applies what a step decided, puts back what failed, and yields to whoever was faster."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.common.backends.database.sql import SqlDatabase
from services.common.errors import Unavailable
from services.common.ports.database import NewEvent, Record
from services.common.reconcile import Change, Reconciler
from tests.builders import eventually

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqlDatabase]:
    database = SqlDatabase(f"sqlite:///{tmp_path}/r.db", clock=lambda: Clock.now)
    yield database
    await database.close()


async def count_up(record: Record) -> Change:
    n = record.document["n"] + 1
    return Change({"n": n}, None if n == 3 else 0.0, [NewEvent("COUNTED", str(n))])


async def test_a_resource_is_moved_until_its_step_says_it_has_ended(database: SqlDatabase) -> None:
    await database.create("thing", "a", {"n": 0}, due_time=START)
    loop = Reconciler(database, "thing", count_up, clock=lambda: START)
    moves = 0
    while await loop.run_once():
        moves += 1
    assert moves == 3
    assert (await database.get("thing", "a")).document == {"n": 3}
    assert [event.message for event in await database.events("thing", "a")] == ["1", "2", "3"]


async def test_a_step_that_fails_is_looked_at_again_after_a_while(database: SqlDatabase) -> None:
    await database.create("thing", "a", {"n": 0}, due_time=START)
    calls = 0

    async def flaky(record: Record) -> Change:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Unavailable("away")
        if calls == 2:
            raise ZeroDivisionError
        return Change({"n": 9}, None)

    clock = Clock()
    loop = Reconciler(database, "thing", flaky, clock=clock)
    assert await loop.run_once()
    assert not await loop.run_once()  # not due yet
    for _ in range(2):
        clock.now += timedelta(seconds=31)
        Clock.now = clock.now
        assert await loop.run_once()
    Clock.now = START
    assert (await database.get("thing", "a")).document == {"n": 9}


async def test_a_step_whose_world_moved_on_changes_nothing(database: SqlDatabase) -> None:
    created = await database.create("thing", "a", {"state": "RUNNING"}, due_time=START)

    async def slow(record: Record) -> Change:
        await database.update(created, {"state": "CANCELLING"}, due_time=START)  # a user, meanwhile
        return Change({"state": "SUCCEEDED"}, None, [NewEvent("WRONG", "never")])

    await Reconciler(database, "thing", slow, clock=lambda: START).run_once()
    assert (await database.get("thing", "a")).document == {"state": "CANCELLING"}
    assert await database.events("thing", "a") == []


async def test_two_loops_never_hold_one_resource_at_once(tmp_path: Path) -> None:
    databases = [SqlDatabase(f"sqlite:///{tmp_path}/two.db") for _ in range(2)]
    inside, most = 0, 0

    async def step(record: Record) -> Change:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1
        n = record.document["n"] + 1
        return Change({"n": n}, None if n == 20 else 0.0)

    await databases[0].create("thing", "a", {"n": 0}, due_time=datetime.now(UTC))
    loops = [asyncio.create_task(Reconciler(d, "thing", step, idle_s=0.001).run()) for d in databases]

    async def done() -> bool:
        return bool((await databases[0].get("thing", "a")).document["n"] == 20)

    await eventually(done)
    for loop in loops:
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop
    assert most == 1
    for database in databases:
        await database.close()
