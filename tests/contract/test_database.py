"""Each promise of the Database port, on every backend."""

import asyncio
import contextlib
import sqlite3
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import exc

from services.common.backends.database.migrations import DIALECTS, MIGRATIONS, Migration
from services.common.backends.database.sql import SqlDatabase
from services.common.backends.measured import measured
from services.common.errors import AlreadyExists, Conflict, NotFound, Unavailable, WrongState
from services.common.metrics import Metrics
from services.common.ports.database import Database, NewEvent, Record
from services.common.reconcile import Change, Reconciler
from tests.builders import eventually
from tests.fakes_database import MemoryDatabase
from tests.servers import PostgresServer

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def url_of(request: pytest.FixtureRequest) -> str:
    """A database that nobody has used."""
    if request.param == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path')}/test.db"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.url(schema=f"contract_{uuid.uuid4().hex}")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    return url_of(request)


@pytest.fixture(params=["sqlite", "postgresql", "memory"])
async def twins(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[tuple[Database, Database]]:
    """One database as two replicas of a service see it; the first as a program has it, with its metrics around it."""
    if request.param == "memory":
        memory = MemoryDatabase(clock)
        yield memory, memory.twin()
        return
    url = url_of(request)
    twins = measured(SqlDatabase(url, clock), "database", Metrics()), SqlDatabase(url, clock)
    yield twins
    for twin in twins:
        await twin.close()


@pytest.fixture
def database(twins: tuple[Database, Database]) -> Database:
    return twins[0]


@pytest.fixture
def replica(twins: tuple[Database, Database]) -> Database:
    return twins[1]


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
    assert [e.sequence for e in await database.events("job", "a", limit=2, newest_first=True)] == [51, 50]
    assert [e.sequence for e in await database.events("job", "a", after=3, newest_first=True)] == [2, 1]


async def test_a_write_appends_to_another_history_with_the_document_or_not_at_all(database: Database) -> None:
    await database.create("job", "a", {}, events=[NewEvent("CREATED", "m")])
    old = await database.create("attempt", "a/1", {"n": 0})
    await database.update(old, {"n": 1}, events=[NewEvent("STEP", "1")], of=("job", "a"))
    assert [event.type for event in await database.events("job", "a")] == ["CREATED", "STEP"]
    assert await database.events("attempt", "a/1") == []
    with pytest.raises(Conflict):
        await database.update(old, {"n": 2}, events=[NewEvent("STEP", "2")], of=("job", "a"))
    newest = await database.get("attempt", "a/1")
    with pytest.raises(NotFound):
        await database.update(newest, {"n": 2}, events=[NewEvent("STEP", "2")], of=("job", "gone"))
    assert (await database.get("attempt", "a/1")).document == {"n": 1}
    assert len(await database.events("job", "a")) == 2


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


async def test_who_waits_is_woken_by_what_this_process_makes_due_and_by_nothing_else(
    database: Database, replica: Database
) -> None:
    ended = await database.create("job", "ended", {})
    await replica.create("job", "elsewhere", {}, due_time=START)
    await database.create("other", "a", {}, due_time=START)
    waiting = asyncio.create_task(database.woken("job", 30))
    await asyncio.wait({waiting}, timeout=0.2)
    assert not waiting.done()
    due = await database.create("job", "a", {}, due_time=START)
    await asyncio.wait_for(waiting, 5)
    for write in (
        database.update(due, {}, due_time=START),
        database.wake("job", "a", START),
        database.update(ended, {}, due_time=START),
    ):
        waiting = asyncio.create_task(database.woken("job", 30))
        await write
        await asyncio.wait_for(waiting, 5)


@pytest.mark.parametrize("ticks", range(4))
async def test_who_is_cancelled_in_the_moment_of_waking_is_cancelled(database: Database, ticks: int) -> None:
    waiting = asyncio.create_task(database.woken("job", 30))
    await asyncio.wait({waiting}, timeout=0.1)
    await database.create("job", "a", {}, due_time=START)
    for _ in range(ticks):
        await asyncio.sleep(0)
    was_cancelled = waiting.cancel()
    await asyncio.wait({waiting}, timeout=5)
    assert waiting.cancelled() == was_cancelled


async def test_the_next_due_is_the_earliest_that_nobody_holds_a_lease_on(database: Database, clock: Clock) -> None:
    assert await database.next_due("job") is None
    await database.create("job", "ended", {})
    await database.create("job", "soon", {}, due_time=START + timedelta(seconds=5))
    await database.create("job", "now", {}, due_time=START)
    assert await database.next_due("job") == START
    await database.claim("job", START, 60)
    assert await database.next_due("job") == START + timedelta(seconds=5)
    clock.now += timedelta(seconds=10)
    await database.claim("job", clock.now, 120)
    assert await database.next_due("job") == START + timedelta(seconds=60)  # the first lease ends


async def test_a_census_counts_by_state_and_what_waits_to_be_claimed(database: Database) -> None:
    for n, state in enumerate(("RUNNING", "RUNNING", "DONE")):
        await database.create("job", f"{n}", {"state": state}, due_time=START if state == "RUNNING" else None)
    await database.create("job", "none", {"n": 1})
    await database.create("other", "x", {"state": "RUNNING"})
    await database.update(await database.get("job", "1"), {"state": "PAUSED"}, due_time=START + timedelta(seconds=9))
    census = await database.census("job", START)
    assert (census.by_state, census.due_count) == ({"RUNNING": 1, "PAUSED": 1, "DONE": 1, "": 1}, 1)
    await database.claim("job", START, 60)
    assert (await database.census("job", START)).due_count == 0


async def test_deleting_takes_the_events_too_and_the_absent_is_success(database: Database) -> None:
    record = await database.create("job", "a", {}, events=[NewEvent("X", "x")])
    await database.delete(record)
    await database.delete(record)
    again = await database.create("job", "a", {})
    assert await database.events("job", "a") == []
    assert again.sequence > record.sequence


async def test_a_name_is_compared_by_its_bytes(database: Database) -> None:
    for name in ("p/a", "p/B", "P/a", "p-/a", "p.x/a", "p0", "p/ä"):
        await database.create("job", name, {})
    assert [r.name for r in await database.list("job", "p", newest_first=False)] == ["p/a", "p/B", "p/ä"]


async def test_a_message_with_a_nul_is_kept_without_it(database: Database) -> None:
    await database.create("job", "a", {"text": "a\0b"}, events=[NewEvent("X", "a\0b", data={"text": "\0"})])
    assert (await database.get("job", "a")).document == {"text": "a\0b"}
    assert (await database.events("job", "a"))[0].message == "a\ufffdb"


async def test_of_two_replicas_that_write_one_version_one_wins(database: Database, replica: Database) -> None:
    record = await database.create("job", "a", {"n": 0})

    async def attempt(one: Database, n: int) -> int:
        try:
            return int((await one.update(record, {"n": n})).document["n"])
        except Conflict:
            return -1

    results = await asyncio.gather(*(attempt(one, n) for n, one in enumerate([database, replica] * 5, start=1)))
    [winner] = [n for n in results if n > 0]
    assert (await replica.get("job", "a")).document == {"n": winner}


async def test_many_claims_at_once_by_two_replicas_claim_each_record_once(database: Database, replica: Database) -> None:
    for n in range(30):
        await database.create("job", f"{n}", {}, due_time=START)
    claimed = await asyncio.gather(*(one.claim("job", START, 60) for one in [database, replica] * 20))
    names = [record.name for record in claimed if record is not None]
    assert sorted(names, key=int) == [f"{n}" for n in range(30)]


async def test_two_replicas_of_a_loop_never_hold_one_resource_at_once(
    database: Database, replica: Database, clock: Clock
) -> None:
    held: set[str] = set()
    moved: dict[str, int] = {}

    async def step(record: Record) -> Change:
        assert record.name not in held, "two replicas hold it"
        held.add(record.name)
        await asyncio.sleep(0.002)
        held.discard(record.name)
        count = moved[record.name] = moved.get(record.name, 0) + 1
        return Change({"moved": count}, None if count == 5 else 0.0)

    async def have_ended() -> bool:
        return all(record.due_time is None for record in await database.list("job", ""))

    for n in range(12):
        await database.create("job", f"{n}", {"moved": 0}, due_time=START)
    loops = [Reconciler(one, "job", step, clock=clock, idle_s=0.01) for one in (database, replica)]
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        await eventually(have_ended, timeout_s=30)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    records = [await database.get("job", f"{n}") for n in range(12)]
    assert all(r.document == {"moved": 5} and r.version == 6 for r in records)


async def test_what_a_replica_decided_that_was_frozen_past_its_lease_happens_once_by_the_other(
    database: Database, replica: Database, clock: Clock
) -> None:
    is_frozen, thaw = asyncio.Event(), asyncio.Event()

    async def freezes(record: Record) -> Change:
        is_frozen.set()
        await thaw.wait()
        return Change({"state": "LAUNCHED", "by": "frozen"}, None, [NewEvent("LAUNCHED", "by the frozen one")])

    async def moves(record: Record) -> Change:
        return Change({"state": "LAUNCHED", "by": "awake"}, None, [NewEvent("LAUNCHED", "by the one awake")])

    await database.create("job", "a", {"state": "PENDING"}, due_time=START)
    frozen = asyncio.create_task(Reconciler(database, "job", freezes, clock=clock).run_once())
    await asyncio.wait_for(is_frozen.wait(), 10)
    other = Reconciler(replica, "job", moves, clock=clock)
    assert not await other.run_once()  # the lease lasts
    clock.now += timedelta(seconds=61)
    assert await other.run_once()
    thaw.set()
    await frozen
    assert (await replica.get("job", "a")).document == {"state": "LAUNCHED", "by": "awake"}
    assert [event.message for event in await replica.events("job", "a")] == ["by the one awake"]


async def test_what_was_written_is_there_after_the_program_was_killed(url: str) -> None:
    first = SqlDatabase(url)
    await first.create("job", "a", {"n": 1})
    second = SqlDatabase(url)  # the first was never closed
    assert (await second.get("job", "a")).document == {"n": 1}
    await second.close()
    await first.close()


async def test_replicas_that_start_at_once_make_the_tables_once(url: str) -> None:
    with ThreadPoolExecutor(6) as threads:
        databases = list(threads.map(lambda _: SqlDatabase(url), range(6)))
    await databases[0].create("job", "a", {})
    assert all([(await database.get("job", "a")).version == 1 for database in databases])
    for database in databases:
        await database.close()


async def test_a_step_is_applied_once_and_older_code_refuses_what_newer_code_made(url: str) -> None:
    count = Migration("a counter of steps", ("CREATE TABLE counts (n INTEGER)", "INSERT INTO counts VALUES (1)"))
    old = SqlDatabase(url)
    await old.create("job", "a", {"n": 1})
    await old.close()
    with ThreadPoolExecutor(4) as threads:
        newer = list(threads.map(lambda _: SqlDatabase(url, migrations=(*MIGRATIONS, count)), range(4)))
    assert (await newer[0].get("job", "a")).document == {"n": 1}
    for database in newer:
        await database.close()
    with pytest.raises(WrongState) as caught:
        SqlDatabase(url)
    assert caught.value.reason == "DATABASE_TOO_NEW"
    assert caught.value.metadata == {"found": str(len(MIGRATIONS) + 1), "known": str(len(MIGRATIONS))}


async def test_a_file_from_before_there_were_steps_is_taken_over_with_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        for statement in MIGRATIONS[0].statements:
            connection.execute(statement.format(**DIALECTS["sqlite"]))
        row = "(7, 'job', 'a', 1, '{\"state\":\"DONE\"}', 0, 0, NULL, NULL, NULL, NULL, 0)"
        connection.execute(f"INSERT INTO resources VALUES {row}")
        connection.commit()
    database = SqlDatabase(f"sqlite:///{file}")
    assert (await database.get("job", "a")).document == {"state": "DONE"}
    assert (await database.census("job", START)).by_state == {"DONE": 1}
    assert (await database.create("job", "b", {})).sequence == 8
    await database.close()


async def test_a_step_that_fails_leaves_the_database_as_it_was(url: str) -> None:
    await SqlDatabase(url).close()
    broken = Migration("half of it", ("CREATE TABLE half (n INTEGER)", "INSERT INTO nowhere VALUES (1)"))
    with pytest.raises((exc.DBAPIError, Unavailable)):
        await SqlDatabase(url, migrations=(*MIGRATIONS, broken)).get("job", "a")
    mended = Migration("half of it", ("CREATE TABLE half (n INTEGER)",))
    await SqlDatabase(url, migrations=(*MIGRATIONS, mended)).close()
