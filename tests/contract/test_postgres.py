"""What only a database behind a network has to promise: it goes away and comes back, and several programs share it."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from services.common.backends import choose
from services.common.backends.database.sql import SqlDatabase
from services.common.errors import Conflict, InvalidInput, NotFound, Unavailable
from services.common.ports.database import Record
from services.common.reconcile import Change, Reconciler
from tests.builders import eventually
from tests.servers import PostgresServer

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def database(postgres_server: PostgresServer) -> AsyncIterator[SqlDatabase]:
    database = postgres_server.database(f"p_{uuid.uuid4().hex}")
    yield database
    await database.close()


async def test_a_server_that_was_away_is_unavailable_and_good_again_without_a_restart() -> None:
    with PostgresServer() as server:
        database = server.database("away")
        await database.create("job", "a", {"n": 1}, due_time=NOW)
        moved = asyncio.Event()

        async def step(record: Record) -> Change:
            moved.set()
            return Change({"n": 2}, None)

        server.stop()
        began = time.monotonic()
        for call in (database.get("job", "a"), database.create("job", "b", {}), database.claim("job", NOW, 60)):
            with pytest.raises(Unavailable) as caught:
                await call
            assert caught.value.reason == "DATABASE_UNAVAILABLE"
        assert time.monotonic() - began < 10
        loop = asyncio.create_task(Reconciler(database, "job", step, idle_s=0.05).run())  # it begins while nobody answers
        await asyncio.to_thread(server.start)
        await asyncio.wait_for(moved.wait(), 20)
        await eventually(lambda: _is(database, {"n": 2}))
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await database.close()


async def test_a_server_that_is_frozen_is_unavailable_in_bounded_time_and_good_again_when_it_thaws() -> None:
    with PostgresServer() as server:
        database = server.database("frozen", answer_timeout_s=0.5)
        await database.create("job", "a", {"n": 1})
        server.freeze()
        began = time.monotonic()
        for _ in range(2):  # more at once than there are connections
            failed = await asyncio.gather(*(database.get("job", "a") for _ in range(6)), return_exceptions=True)
            assert {getattr(error, "reason", error) for error in failed} == {"DATABASE_UNAVAILABLE"}
        assert time.monotonic() - began < 5
        server.thaw()
        await eventually(lambda: _answers(database))
        await database.close()


async def _answers(database: SqlDatabase) -> bool:
    try:
        return (await database.get("job", "a")).document == {"n": 1}
    except Unavailable:
        return False


async def _is(database: SqlDatabase, document: dict[str, int]) -> bool:
    return (await database.get("job", "a")).document == document


async def test_connections_that_were_cut_are_replaced_unnoticed(database: SqlDatabase, postgres_server: PostgresServer) -> None:
    await asyncio.gather(*(database.create("job", f"{n}", {}) for n in range(20)))
    postgres_server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'afina' AND pid <> pg_backend_pid()"
    )
    records = await asyncio.gather(*(database.get("job", f"{n}") for n in range(20)))
    assert len(records) == 20


async def test_two_programs_in_one_database_do_not_see_each_other(postgres_server: PostgresServer) -> None:
    one, other = (choose.database(postgres_server.url(schema=f"{name}_{uuid.uuid4().hex}")) for name in ("dataset", "trainer"))
    await one.create("job", "a", {})
    with pytest.raises(NotFound):
        await other.get("job", "a")
    await one.close()
    await other.close()


@pytest.mark.parametrize("schema", ["", "Trainer", "a-b", "x; DROP SCHEMA public", "a" * 64])
def test_a_url_without_a_proper_schema_is_refused_and_its_password_is_not_told(schema: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        choose.database(f"postgresql://afina:geheim@127.0.0.1:1/db?schema={schema}")
    assert "schema=NAME" in caught.value.message
    assert "geheim" not in caught.value.message


async def test_a_refused_password_is_told_in_words_and_without_it(postgres_server: PostgresServer) -> None:
    host = postgres_server.url(schema="x").rpartition("@")[2]
    database = choose.database(f"postgresql://afina:geheim@{host}")
    with pytest.raises(Unavailable, match="password authentication failed") as caught:
        await database.get("job", "a")
    assert "geheim" not in caught.value.message


async def test_a_transaction_that_lost_to_another_is_done_again_and_not_for_ever(database: SqlDatabase) -> None:
    attempts = []

    def lose(times: int, code: str) -> int:
        def transaction(connection: sa.Connection) -> int:
            attempts.append(code)
            if attempts.count(code) <= times:
                connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '{code}'; END $$")
            return attempts.count(code)

        return database._transact(transaction)

    assert await asyncio.to_thread(lose, 2, "40001") == 3
    with pytest.raises(Conflict):
        await asyncio.to_thread(lose, 99, "40P01")
    assert attempts.count("40P01") == 5


async def test_claims_do_not_wait_for_each_other(database: SqlDatabase, postgres_server: PostgresServer) -> None:
    for n in range(2):
        await database.create("job", f"{n}", {}, due_time=NOW)

    def hold(connection: sa.Connection) -> None:
        first = connection.exec_driver_sql(
            "SELECT name FROM resources ORDER BY due_time_us, sequence LIMIT 1 FOR UPDATE"
        ).scalar()
        claimed = asyncio.run_coroutine_threadsafe(database.claim("job", NOW, 60), running).result(10)
        assert claimed is not None
        assert (first, claimed.name) == ("0", "1")

    running = asyncio.get_running_loop()
    await asyncio.to_thread(database._transact, hold)


async def test_names_are_kept_and_compared_by_bytes_whatever_the_language_of_the_database(database: SqlDatabase) -> None:
    def collations(connection: sa.Connection) -> set[tuple[str, str]]:
        query = (
            "SELECT table_name || '.' || column_name, collation_name FROM information_schema.columns "
            "WHERE table_schema = current_schema AND column_name IN ('kind', 'name')"
        )
        return {(row[0], row[1]) for row in connection.exec_driver_sql(query)}

    columns = ("resources.kind", "resources.name", "events.kind", "events.name")
    assert await asyncio.to_thread(database._transact, collations) == {(column, "C") for column in columns}
