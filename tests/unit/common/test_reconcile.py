"""The loop: claims, applies what a step decided, puts back what failed, and yields to whoever was faster."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.common.backends.database.sql import SqlDatabase
from services.common.errors import Conflict, Unavailable
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


class Flaky(SqlDatabase):
    """A database that is away for the next so many calls of a verb."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.away: dict[str, int] = {}
        self.carried_out = False

    def _refuse(self, verb: str) -> None:
        if self.away.get(verb, 0) > 0:
            self.away[verb] -= 1
            raise Unavailable("The database does not answer.")

    async def claim(self, kind: str, now: datetime, lease_s: float) -> Record | None:
        self._refuse("claim")
        return await super().claim(kind, now, lease_s)

    async def update(self, record: Record, document: Any, **rest: Any) -> Record:
        if self.carried_out and self.away.get("update"):
            await super().update(record, document, **rest)  # only its answer is lost
        self._refuse("update")
        return await super().update(record, document, **rest)


@pytest.fixture
async def flaky(tmp_path: Path) -> AsyncIterator[Flaky]:
    database = Flaky(f"sqlite:///{tmp_path}/flaky.db")
    yield database
    await database.close()


@contextlib.asynccontextmanager
async def running(loop: Reconciler) -> AsyncIterator[None]:
    task = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_becomes_due_here_is_looked_at_at_once_however_long_the_loop_would_sleep(flaky: Flaky) -> None:
    looked: list[str] = []

    async def step(record: Record) -> Change:
        looked.append(record.name)
        return Change(record.document, 0.05 if looked.count(record.name) < 3 else None)

    async with running(Reconciler(flaky, "thing", step, idle_s=3600)):
        await asyncio.wait({asyncio.ensure_future(flaky.woken("other", 0.2))})  # the loop is asleep by now
        await flaky.create("thing", "a", {}, due_time=datetime.now(UTC))
        await eventually(lambda: looked.count("a") == 3, timeout_s=5)
        record = await flaky.create("thing", "b", {}, due_time=datetime.now(UTC) + timedelta(hours=1))
        await flaky.wake("thing", "b", record.create_time)
        await eventually(lambda: "b" in looked, timeout_s=5)


async def test_a_database_that_is_away_is_told_once_when_it_goes_and_once_when_it_is_back(
    flaky: Flaky, caplog: pytest.LogCaptureFixture
) -> None:
    await flaky.create("thing", "a", {"n": 2}, due_time=datetime.now(UTC))
    flaky.away["claim"] = 3
    with caplog.at_level("INFO", logger="afina.reconcile"):
        async with running(Reconciler(flaky, "thing", count_up)):
            await eventually(lambda: _has_counted(flaky), timeout_s=15)
    assert [line.message for line in caplog.records] == [
        "the database is away; this waits for it",
        "the database answers again",
    ]


@pytest.mark.parametrize("carried_out", [False, True])
async def test_what_was_decided_is_written_when_the_database_is_back_and_only_once(flaky: Flaky, carried_out: bool) -> None:
    await flaky.create("thing", "a", {"n": 2}, due_time=datetime.now(UTC))
    flaky.away["update"], flaky.carried_out = 1, carried_out
    assert await Reconciler(flaky, "thing", count_up).run_once()
    assert (await flaky.get("thing", "a")).document == {"n": 3}
    assert [event.message for event in await flaky.events("thing", "a")] == ["3"]


async def test_a_step_that_waits_for_another_program_is_told_once_for_each_thing_it_says(
    flaky: Flaky, caplog: pytest.LogCaptureFixture
) -> None:
    said = iter(["dataset is away", "dataset is away", "dataset is away", "inference is away"])

    async def step(record: Record) -> Change:
        if (sentence := next(said, None)) is not None:
            raise Unavailable(sentence)
        return Change({"n": 3}, None)

    await flaky.create("thing", "a", {"n": 0}, due_time=START)
    loop = Reconciler(flaky, "thing", step)
    with caplog.at_level("INFO", logger="afina.reconcile"):
        for _ in range(5):
            assert await loop.run_once()
            if (await flaky.get("thing", "a")).due_time is not None:
                await flaky.wake("thing", "a", START)
    assert [line.message for line in caplog.records] == ["step failed", "step failed", "the step works again"]


async def test_a_step_that_somebody_else_was_faster_than_is_looked_at_again_and_nobody_is_told(flaky: Flaky) -> None:
    overtaken = iter([True])

    async def step(record: Record) -> Change:
        if next(overtaken, False):
            raise Conflict("Somebody else wrote it.")
        return Change({"n": 3}, None)

    await flaky.create("thing", "a", {"n": 0}, due_time=START)
    loop = Reconciler(flaky, "thing", step)
    assert await loop.run_once()
    assert await flaky.events("thing", "a") == []
    await flaky.wake("thing", "a", START)
    assert await loop.run_once()
    assert (await flaky.get("thing", "a")).document == {"n": 3}


async def test_a_call_that_is_cancelled_ends_though_its_answer_comes_at_the_same_moment(flaky: Flaky) -> None:
    await flaky.create("thing", "a", {})
    flaky._answer_timeout_s = 30.0  # as on PostgreSQL
    calling = asyncio.create_task(flaky.get("thing", "a"))
    await asyncio.wait({asyncio.ensure_future(asyncio.Event().wait())}, timeout=0)  # it is under way
    flaky._executor.submit(lambda: None).result(10)  # its answer is there, and the loop has not looked yet
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def _has_counted(database: SqlDatabase) -> bool:
    return (await database.get("thing", "a")).document == {"n": 3}


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


def test_an_end_has_a_time_once_and_nothing_else_has() -> None:
    first, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    change = Change({"state": "SUCCEEDED", "end_time": ""}, None)
    assert change.stamped(False, first) == change
    ended = change.stamped(True, first)
    assert ended.document["end_time"] == first.isoformat()
    assert ended.stamped(True, later) == ended
