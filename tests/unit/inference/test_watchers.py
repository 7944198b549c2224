"""Watchers: whatever is lost, late or repeated, who promotes is not told that it is done while a gateway may answer as before."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.common.backends.database.sql import SqlDatabase
from services.common.errors import InvalidInput, Unavailable
from services.common.ports.database import Record
from services.inference.watchers import DRIFT, KIND, REVISION_KIND, Watchers, advance, read_revision

BELIEVED_S = 10.0


class PausingDatabase(SqlDatabase):
    """A database whose caller can be stopped between reading the revision and writing a watcher down, whichever is first."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.plain = SqlDatabase(url)  # of those that nobody stops
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.is_waiting = asyncio.Event()
        self._first = ""

    def freeze(self) -> None:
        self.may_go_on.clear()
        self.is_waiting.clear()
        self._first = ""

    async def _come_to(self, place: str) -> None:
        self._first = self._first or place
        if self._first != place:
            self.is_waiting.set()
            await self.may_go_on.wait()

    async def get(self, kind: str, name: str) -> Record:
        if kind == REVISION_KIND:
            await self._come_to("read")
        return await super().get(kind, name)

    async def create(self, kind: str, name: str, document: Any, **more: Any) -> Record:
        await self._come_to("write")
        return await super().create(kind, name, document, **more)

    async def update(self, record: Record, document: Any, **more: Any) -> Record:
        await self._come_to("write")
        return await super().update(record, document, **more)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[PausingDatabase]:
    database = PausingDatabase(f"sqlite:///{tmp_path}/w.db")
    yield database
    await database.plain.close()
    await database.close()


class Drill:
    """One gateway and one promotion, a step at a time. A table is the revision it carries."""

    def __init__(self, database: PausingDatabase) -> None:
        self.database, self.plain, self.now = database, database.plain, 1000.0
        self.watchers = Watchers(database, believed_s=BELIEVED_S, clock=lambda: self.now)
        self.twin = Watchers(self.plain, believed_s=BELIEVED_S, clock=lambda: self.now - 500)  # another replica, another clock
        self.table, self.leave_end = 0, float("-inf")
        self.promoted, self.promoted_at = 0, 0.0
        self.answers: list[tuple[float, int, asyncio.Task[bool]]] = []

    async def take(self, step: str) -> None:
        """Take a step; a number in it is seconds that pass."""
        if step.startswith("pass "):
            self.now += float(step.removeprefix("pass "))
        else:
            await getattr(self, step.replace(" ", "_"))()

    async def ask(self) -> None:
        """The gateway acknowledges its table; the answer is on its way."""
        task = asyncio.ensure_future(self.watchers.acknowledge("g", self.table, "gateway"))
        self.answers.append((self.now, self.table, task))
        if self.database.may_go_on.is_set():
            await task

    async def ask_a_twin(self) -> None:
        task = asyncio.ensure_future(self.twin.acknowledge("g", self.table, "gateway"))
        self.answers.append((self.now, self.table, task))
        await task

    async def ask_in_vain(self) -> None:
        """The question is lost."""

    async def freeze(self) -> None:
        """Inference stops between writing down and reading."""
        self.database.freeze()
        await self.ask()
        await self.database.is_waiting.wait()

    async def thaw(self) -> None:
        self.database.may_go_on.set()
        await self.answers[-1][2]

    async def hear(self) -> None:
        """The oldest answer arrives."""
        asked, table, task = self.answers.pop(0)
        if await task:
            self.leave_end = asked + BELIEVED_S
        else:
            self.leave_end, self.table = float("-inf"), await read_revision(self.plain)
        assert table <= self.table

    async def lose(self) -> None:
        """The oldest answer is lost."""
        await self.answers.pop(0)[2]

    async def swap(self) -> None:
        """The newest table comes by the stream."""
        self.table = await read_revision(self.plain)

    async def repeat_the_first_question(self) -> None:
        """A question that was on its way all the time is carried out once more; nobody waits for the answer."""
        await self.watchers.acknowledge("g", 0, "gateway")

    async def promote(self) -> None:
        self.promoted = await advance(self.plain)
        self.promoted_at = self.now

    async def reap(self) -> None:
        await self.watchers.reap()

    async def forget(self) -> None:
        await self.watchers.forget("g")

    async def may_return(self) -> bool:
        """Whether the promotion would say now that it is done."""
        return bool(self.promoted) and not await self.watchers.behind(self.promoted, self.now - self.promoted_at)

    @property
    def answers_as_before(self) -> bool:
        return self.now < self.leave_end and self.table < self.promoted


SCHEDULES: list[tuple[str, bool]] = [
    ("promote", True),  # nobody watches
    ("ask, hear, promote", False),
    ("ask, hear, promote, swap", False),  # swapped, but it has not said so
    ("ask, hear, promote, swap, ask", True),  # it is written down; that the answer is still on its way is all the same
    ("ask, hear, promote, swap, ask, lose", True),
    ("ask, hear, promote, swap, ask in vain", False),
    ("ask, hear, promote, swap, ask in vain, pass 9.9", False),
    ("ask, hear, promote, swap, ask in vain, pass 10.1", True),
    ("ask, hear, promote, ask, hear, ask, hear", True),  # without a stream: the answer brought the table
    ("ask, hear, pass 9, promote, pass 9.9", False),  # more than it needs: nobody knows when the gateway asked
    ("ask, hear, pass 9, promote, pass 10.1", True),
    ("ask, promote, pass 5, hear", False),  # the leave comes late; it counts from the question
    ("ask, promote, pass 10.1, hear", True),
    ("ask, promote, lose", False),
    ("freeze, promote, thaw, hear", False),  # no leave: the new table instead
    ("freeze, promote, thaw, hear, ask, hear", True),
    ("freeze, promote, pass 10.1, thaw, hear", True),
    ("ask, hear, pass 5, freeze, pass 20, thaw, promote, hear", False),
    ("ask, hear, promote, swap, repeat the first question", False),
    ("ask, hear, promote, swap, repeat the first question, ask", True),
    ("ask, hear, promote, swap, ask, hear, repeat the first question, pass 5, ask, hear", True),
    ("ask, hear, promote, ask, ask, hear, hear", False),  # twice in a row: two tables, no leave
    ("ask a twin, hear, promote", False),
    ("ask a twin, hear, promote, swap, ask a twin", True),
    ("ask, ask a twin, hear, promote, hear, swap, ask a twin, hear", True),
    ("ask, hear, forget, promote", True),  # it has said that it answers nobody: the drill's gateway does not keep to it
    ("ask, hear, reap, pass 10, reap, promote", False),
    ("ask, hear, reap, pass 10.1, reap, promote", True),
    ("ask, hear, reap, pass 6, ask, hear, reap, pass 6, reap, promote", False),  # it has come back meanwhile
    ("ask, hear, promote, swap, ask, hear, promote", False),  # the next promotion
    ("ask, hear, promote, promote, swap, ask, hear", True),
]


@pytest.mark.parametrize(("schedule", "expected"), SCHEDULES)
async def test_a_promotion_ends_when_no_gateway_may_answer_as_before(
    database: PausingDatabase, schedule: str, expected: bool
) -> None:
    drill, has_returned = Drill(database), False
    for step in schedule.split(", "):
        await drill.take(step)
        has_returned = (has_returned and step != "promote") or await drill.may_return()
        if has_returned and "forget" not in schedule:
            assert not drill.answers_as_before, f"after {step!r}"
    assert has_returned is expected
    for _, _, task in drill.answers:
        await task


async def test_who_waits_is_told_who_is_behind_and_for_how_long(database: PausingDatabase) -> None:
    now = [0.0]
    watchers = Watchers(database, believed_s=BELIEVED_S, clock=lambda: now[0])
    for name in ("a", "b"):
        await watchers.acknowledge(name, 0, f"gateway {name}")
    revision = await advance(database)
    await watchers.acknowledge("b", revision, "gateway b")
    with pytest.raises(Unavailable) as caught:
        await watchers.wait_for(revision, 0.0)
    assert (caught.value.reason, caught.value.metadata["watchers"]) == ("GATEWAYS_BEHIND", "gateway a")
    assert caught.value.metadata["retry_after_s"] == "10"
    waiting = asyncio.ensure_future(watchers.wait_for(revision, 60.0))
    await asyncio.wait({waiting}, timeout=0.2)
    assert not waiting.done()
    await watchers.acknowledge("a", revision, "gateway a")
    await waiting


async def test_a_longer_time_that_was_told_once_is_waited_for(database: PausingDatabase) -> None:
    before, after = (Watchers(database, believed_s=believed_s, clock=lambda: 0.0) for believed_s in (60.0, 5.0))
    assert await before.acknowledge("g", 0, "gateway")
    assert await after.acknowledge("g", 0, "gateway")  # inference was started again with another setting
    revision = await advance(database)
    assert await after.behind(revision, 59.9)
    assert not await after.behind(revision, 60.0 * DRIFT)


async def test_a_watcher_that_comes_and_goes_leaves_nothing(database: PausingDatabase) -> None:
    watchers = Watchers(database)
    await watchers.acknowledge("g", 0, "x" * 1000)
    (record,) = await database.list(KIND, "")
    assert len(record.document["title"]) == 200
    for _ in range(2):
        await watchers.forget("g")
    assert not await database.list(KIND, "")
    for name in ("", "a/b", "x" * 129, "A"):
        with pytest.raises(InvalidInput):
            await watchers.acknowledge(name, 0, "")


async def test_promotions_at_once_raise_the_revision_once_each(database: PausingDatabase) -> None:
    revisions: list[Any] = await asyncio.gather(*(advance(database) for _ in range(8)))
    assert sorted(revisions) == list(range(1, 9))
    assert await read_revision(database) == 8
