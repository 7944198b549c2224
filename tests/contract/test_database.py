"""Each promise of the Database port, on every backend."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.common.backends.database.sql import SqlDatabase
from services.common.errors import AlreadyExists, Conflict, NotFound
from services.common.ports.database import Database, NewEvent

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite"])
async def database(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Database]:
    database = SqlDatabase(f"sqlite:///{tmp_path}/test.db", clock)
    yield database
    await database.close()


async def test_what_was_created_is_there_with_version_one(database: Database) -> None:
    await database.create("job", "projects/p/jobs/a", {"state": "PENDING"})
    record = await database.get("job", "projects/p/jobs/a")
    assert (record.version, record.document, record.create_time) == (1, {"state": "PENDING"}, START)


async def test_a_taken_name_is_already_exists_and_the_absent_is_not_found(database: Database) -> None:
    await database.create("job", "a", {})
    with pytest.raises(AlreadyExists):
        await database.create("job", "a", {})
    with pytest.raises(NotFound):
        await database.get("job", "b")


async def test_a_request_id_that_was_used_returns_the_record_of_then(database: Database) -> None:
    first = await database.create("job", "a", {"n": 1}, request_id="r")
    second = await database.create("job", "b", {"n": 2}, request_id="r")
    assert second.name == first.name == "a"
    with pytest.raises(NotFound):
        await database.get("job", "b")


async def test_twenty_creations_with_one_request_id_are_one_record(database: Database) -> None:
    records = await asyncio.gather(*(database.create("job", f"n{i}", {}, request_id="r") for i in range(20)))
    assert len({record.name for record in records}) == 1


async def test_a_stale_write_is_a_conflict_and_changes_nothing(database: Database) -> None:
    old = await database.create("job", "a", {"n": 1})
    await database.update(old, {"n": 2})
    with pytest.raises(Conflict):
        await database.update(old, {"n": 3}, events=[NewEvent("LOST", "never")])
    assert (await database.get("job", "a")).document == {"n": 2}
    assert await database.events("job", "a") == []


async def test_pages_are_stable_while_records_are_created(database: Database) -> None:
    for i in range(5):
        await database.create("job", f"projects/p/jobs/{i}", {})
    first = await database.list("job", "projects/p", limit=2)
    await database.create("job", "projects/p/jobs/new", {})
    second = await database.list("job", "projects/p", after=first[-1].sequence, limit=2)
    assert [r.name[-1] for r in [*first, *second]] == ["4", "3", "2", "1"]


async def test_list_keeps_to_its_parent_and_kind(database: Database) -> None:
    for name in ("projects/p/jobs/a", "projects/pp/jobs/b", "projects/p0/jobs/c"):
        await database.create("job", name, {})
    await database.create("other", "projects/p/jobs/x", {})
    assert [r.name for r in await database.list("job", "projects/p")] == ["projects/p/jobs/a"]


async def test_the_longest_due_is_claimed_by_one_only(database: Database) -> None:
    await database.create("job", "late", {}, due_time=START + timedelta(seconds=5))
    await database.create("job", "early", {}, due_time=START)
    await database.create("job", "never", {})
    now = START + timedelta(seconds=10)
    first, second, third = [await database.claim("job", now, 60) for _ in range(3)]
    assert first is not None
    assert second is not None
    assert [first.name, second.name, third] == ["early", "late", None]


async def test_what_is_not_due_yet_is_not_claimed(database: Database) -> None:
    await database.create("job", "a", {}, due_time=START + timedelta(seconds=5))
    assert await database.claim("job", START, 60) is None


async def test_a_lease_that_ended_can_be_claimed_again_and_its_first_holder_is_refused(database: Database, clock: Clock) -> None:
    await database.create("job", "a", {"by": "nobody"}, due_time=START)
    frozen = await database.claim("job", clock.now, 60)
    clock.now += timedelta(seconds=61)
    awake = await database.claim("job", clock.now, 60)
    assert frozen is not None
    assert awake is not None
    with pytest.raises(Conflict):
        await database.update(frozen, {"by": "frozen"})
    assert (await database.update(awake, {"by": "awake"})).document == {"by": "awake"}


async def test_a_holder_whose_lease_ended_is_refused_though_nobody_took_over(database: Database, clock: Clock) -> None:
    await database.create("job", "a", {}, due_time=START)
    frozen = await database.claim("job", clock.now, 60)
    clock.now += timedelta(seconds=61)
    assert frozen is not None
    with pytest.raises(Conflict):
        await database.update(frozen, {"by": "frozen"})


async def test_a_user_who_writes_takes_the_lease_away(database: Database, clock: Clock) -> None:
    created = await database.create("job", "a", {}, due_time=START)
    claimed = await database.claim("job", clock.now, 60)
    await database.update(created, {"state": "CANCELLING"}, due_time=START)
    assert claimed is not None
    with pytest.raises(Conflict):
        await database.update(claimed, {"state": "RUNNING"})
    assert (await database.claim("job", clock.now, 60)) is not None


async def test_a_reader_of_a_claimed_record_holds_no_lease_and_writes_by_version(database: Database, clock: Clock) -> None:
    await database.create("job", "a", {}, due_time=START)
    await database.claim("job", clock.now, 60)
    clock.now += timedelta(seconds=61)  # the claimer is dead
    read = await database.get("job", "a")
    assert read.lease_token is None
    assert (await database.update(read, {"state": "CANCELLING"})).document == {"state": "CANCELLING"}


async def test_events_are_numbered_without_gaps_when_many_append_at_once(database: Database) -> None:
    await database.create("job", "a", {}, events=[NewEvent("CREATED", "m")])
    await asyncio.gather(*(database.append("job", "a", [NewEvent("STEP", "m", data={"i": i})] * 2) for i in range(25)))
    events = await database.events("job", "a", limit=100)
    assert [event.sequence for event in events] == list(range(1, 52))
    assert [e.sequence for e in await database.events("job", "a", after=49)] == [50, 51]


async def test_the_newest_event_of_a_type_is_found(database: Database) -> None:
    await database.create(
        "job", "a", {}, events=[NewEvent("STEP", "1", data={"n": 1}), NewEvent("STEP", "2", data={"n": 2}), NewEvent("X", "x")]
    )
    newest = await database.last_event("job", "a", "STEP")
    assert newest is not None
    assert newest.data == {"n": 2}
    assert await database.last_event("job", "a", "NONE") is None


async def test_wake_makes_it_due_sooner_but_never_later_and_leaves_the_ended_alone(database: Database) -> None:
    await database.create("job", "a", {}, due_time=START + timedelta(seconds=100))
    await database.create("job", "ended", {})
    await database.wake("job", "a", START)
    await database.wake("job", "a", START + timedelta(seconds=50))
    await database.wake("job", "ended", START)
    assert (await database.get("job", "a")).due_time == START
    assert (await database.get("job", "ended")).due_time is None


async def test_deleting_takes_the_events_too_and_the_absent_is_success(database: Database) -> None:
    record = await database.create("job", "a", {}, events=[NewEvent("X", "x")])
    await database.delete(record)
    await database.delete(record)
    again = await database.create("job", "a", {})
    assert await database.events("job", "a") == []
    assert again.sequence > record.sequence


async def test_what_was_written_is_there_after_the_program_was_killed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/kept.db"
    first = SqlDatabase(url)
    await first.create("job", "a", {"n": 1})
    second = SqlDatabase(url)  # the first was never closed
    assert (await second.get("job", "a")).document == {"n": 1}
    await second.close()
    await first.close()
