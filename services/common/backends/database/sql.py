"""Documents in SQL, through SQLAlchemy: one code for SQLite and PostgreSQL.

A write names the version that it has read and, when it came from a claim, the lease token; both are checked in the
UPDATE's own WHERE clause, so the database decides between two writers. Events are numbered by a counter in the
resource's row, raised in the transaction that inserts them: no gaps, whoever appends. A claim passes over rows that
another replica is claiming at the moment (SKIP LOCKED).

On PostgreSQL every service has a schema of its own (`?schema=NAME`), made where it is not there. A connection that broke
is noticed when it is taken from the pool and replaced; what was under way on it is Unavailable, and may have been done.
A server that is away when the program starts is met with the first transaction that finds it, which brings the tables
to their version.

When changing this: run the contract suite, and ask of every statement what a second replica sees between it and the next.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from services.common.backends.database import engines
from services.common.backends.database.migrations import MIGRATIONS, Migration, migrate
from services.common.backends.database.tables import dump, event_of, history, record_of, resources, state_of, time_of, us
from services.common.errors import AlreadyExists, Conflict, InvalidInput, NotFound, Unavailable
from services.common.ports.database import Census, Database, Document, NewEvent, Record, StoredEvent

T = TypeVar("T")

ANSWER_TIMEOUT_S = 20.0  # a server that is frozen, not gone, keeps its connections; more than its own limit for a statement
REPEATS = 5
# Source: PostgreSQL, appendix A: serialization_failure, deadlock_detected. It was rolled back; the same again may pass.
REPEATABLE = ("40001", "40P01")
DISK_FULL = "53100"


class SqlDatabase(Database):
    """A database behind a URL: `sqlite:////absolute/file.db`, or `postgresql://user:password@host/database?schema=name`.

    It is brought to the version of the code when it is opened, or with the first transaction once it can be reached.
    Raises: InvalidInput (no schema), WrongState (it is newer than the code).
    """

    def __init__(
        self,
        url: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        connections: int = engines.POSTGRES_CONNECTIONS,
        migrations: Sequence[Migration] = MIGRATIONS,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._clock, self._migrations = clock, migrations
        self._schema, self._is_migrated = "", False
        self._wakings: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        if url.startswith("postgresql"):
            self._engine, self._schema = engines.postgres(url, connections)
            self._answer_timeout_s: float | None = answer_timeout_s
        else:
            connections = 1  # SQLite has one writer anyway, and statements of a few µs do not profit from more
            self._engine = engines.sqlite(url)
            self._answer_timeout_s = None  # it waits for its lock within limits of its own
        self._executor = ThreadPoolExecutor(max_workers=connections, thread_name_prefix="database")
        with contextlib.suppress(Unavailable):  # told by whoever asks next
            self._transact(lambda connection: None)

    async def create(
        self,
        kind: str,
        name: str,
        document: Document,
        *,
        due_time: datetime | None = None,
        request_id: str = "",
        events: Sequence[NewEvent] = (),
    ) -> Record:
        """See the port."""

        def transaction(connection: sa.Connection) -> Record:
            if request_id:
                before = _select(connection, resources.c.kind == kind, resources.c.request_id == request_id)
                if before:
                    return record_of(before)
            now = us(self._clock())
            row = {
                "kind": kind, "name": name, "version": 1, "document": dump(document), "create_time_us": now,
                "update_time_us": now, "due_time_us": us(due_time), "request_id": request_id or None, "event_count": 0,
                "state": state_of(document),
            }  # fmt: skip
            connection.execute(resources.insert().values(row))
            self._append(connection, kind, name, events)
            return record_of(_require(connection, kind, name))

        try:
            return self._waking(await self._run(transaction))
        except exc.IntegrityError as error:
            if request_id:  # a twin may have won between our look and our insert
                r = resources.c
                twin = await self._run(lambda connection: _select(connection, r.kind == kind, r.request_id == request_id))
                if twin is not None:
                    return record_of(twin)
            raise AlreadyExists(f"{name} exists already.", metadata={"name": name}) from error

    async def get(self, kind: str, name: str) -> Record:
        """See the port."""
        return await self._run(lambda connection: record_of(_require(connection, kind, name)))

    async def update(
        self,
        record: Record,
        document: Document,
        *,
        due_time: datetime | None = None,
        events: Sequence[NewEvent] = (),
        of: tuple[str, str] | None = None,
    ) -> Record:
        """See the port."""

        def transaction(connection: sa.Connection) -> Record:
            now = self._clock()
            r = resources.c
            guard = [r.kind == record.kind, r.name == record.name, r.version == record.version]
            if record.lease_token is not None:
                guard += [r.lease_token == record.lease_token, r.lease_end_us > us(now)]
            changed = connection.execute(
                resources.update().where(*guard).values(
                    version=record.version + 1, document=dump(document), update_time_us=us(now),
                    due_time_us=us(due_time), lease_token=None, lease_end_us=None, state=state_of(document),
                )
            )  # fmt: skip
            if changed.rowcount != 1:
                _require(connection, record.kind, record.name)
                raise Conflict(
                    f"{record.name} was changed by somebody else; read it again and repeat.", metadata={"name": record.name}
                )
            self._append(connection, *(of or (record.kind, record.name)), events)
            return record_of(_require(connection, record.kind, record.name))

        return self._waking(await self._run(transaction))

    async def delete(self, record: Record) -> None:
        """See the port."""

        def transaction(connection: sa.Connection) -> None:
            r = resources.c
            mine = [r.kind == record.kind, r.name == record.name]
            if connection.execute(resources.delete().where(*mine, r.version == record.version)).rowcount != 1:
                if _select(connection, *mine) is not None:
                    raise Conflict(f"{record.name} was changed by somebody else; read it again and repeat.")
                return
            connection.execute(history.delete().where(history.c.kind == record.kind, history.c.name == record.name))

        await self._run(transaction)

    async def list(
        self, kind: str, parent: str, *, after: int | None = None, limit: int = 50, newest_first: bool = True
    ) -> Sequence[Record]:
        """See the port."""
        r = resources.c
        query = sa.select(resources).where(r.kind == kind)
        if parent:  # "/" is followed by "0": a range, which needs no escaping as LIKE would
            query = query.where(r.name >= f"{parent}/", r.name < f"{parent}0")
        if after is not None:
            query = query.where(r.sequence < after if newest_first else r.sequence > after)
        query = query.order_by(r.sequence.desc() if newest_first else r.sequence).limit(limit)
        return await self._run(lambda connection: [record_of(row) for row in connection.execute(query).mappings()])

    async def claim(self, kind: str, now: datetime, lease_s: float) -> Record | None:
        """See the port."""
        r = resources.c
        free = sa.or_(r.lease_end_us.is_(None), r.lease_end_us <= us(now))

        def transaction(connection: sa.Connection) -> Record | None:
            query = sa.select(resources).where(r.kind == kind, r.due_time_us <= us(now), free)
            query = query.order_by(r.due_time_us, r.sequence).limit(1).with_for_update(skip_locked=True)
            row = connection.execute(query).mappings().first()
            if row is None:
                return None
            token = secrets.token_hex(16)
            lease_end_us = us(now + timedelta(seconds=lease_s))
            changed = connection.execute(
                resources.update()
                .where(r.sequence == row["sequence"], r.version == row["version"], free)
                .values(lease_token=token, lease_end_us=lease_end_us)
            )
            return record_of(row, token) if changed.rowcount == 1 else None

        return await self._run(transaction)

    async def next_due(self, kind: str) -> datetime | None:
        """See the port."""
        r = resources.c
        is_leased = sa.and_(r.lease_end_us.is_not(None), r.lease_end_us > r.due_time_us)
        free_us = sa.case((is_leased, r.lease_end_us), else_=r.due_time_us)
        query = sa.select(sa.func.min(free_us)).where(r.kind == kind, r.due_time_us.is_not(None))
        due_us = await self._run(lambda connection: connection.scalar(query))
        return None if due_us is None else time_of(due_us)

    async def woken(self, kind: str, timeout_s: float) -> None:
        """See the port."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wakings[kind].wait()
        self._wakings[kind].clear()

    async def census(self, kind: str, now: datetime) -> Census:
        """See the port."""
        r = resources.c
        states = sa.select(r.state, sa.func.count()).where(r.kind == kind).group_by(r.state)
        free = sa.or_(r.lease_end_us.is_(None), r.lease_end_us <= us(now))
        due = sa.select(sa.func.count()).where(r.kind == kind, r.due_time_us <= us(now), free)

        def transaction(connection: sa.Connection) -> Census:
            by_state = {state or "": count for state, count in connection.execute(states)}
            return Census(by_state, connection.scalar(due) or 0)

        return await self._run(transaction)

    async def append(self, kind: str, name: str, events: Sequence[NewEvent]) -> None:
        """See the port."""
        await self._run(lambda connection: self._append(connection, kind, name, events))

    async def events(
        self, kind: str, name: str, *, after: int = 0, limit: int = 50, newest_first: bool = False
    ) -> Sequence[StoredEvent]:
        """See the port."""
        e = history.c
        query = sa.select(history).where(e.kind == kind, e.name == name)
        if after:
            query = query.where(e.sequence < after if newest_first else e.sequence > after)
        query = query.order_by(e.sequence.desc() if newest_first else e.sequence).limit(limit)
        return await self._run(lambda connection: [event_of(row) for row in connection.execute(query).mappings()])

    async def last_event(self, kind: str, name: str, type: str) -> StoredEvent | None:
        """See the port."""
        e = history.c
        query = sa.select(history).where(e.kind == kind, e.name == name, e.type == type).order_by(e.sequence.desc()).limit(1)

        def transaction(connection: sa.Connection) -> StoredEvent | None:
            row = connection.execute(query).mappings().first()
            return event_of(row) if row else None

        return await self._run(transaction)

    async def wake(self, kind: str, name: str, due_time: datetime) -> None:
        """See the port."""
        r = resources.c

        def transaction(connection: sa.Connection) -> None:
            _require(connection, kind, name)
            connection.execute(
                resources.update()
                .where(r.kind == kind, r.name == name, r.due_time_us > us(due_time))
                .values(due_time_us=us(due_time))
            )

        await self._run(transaction)
        self._wakings[kind].set()

    async def close(self) -> None:
        """See the port."""
        self._executor.shutdown(wait=True)
        self._engine.dispose()

    def _append(self, connection: sa.Connection, kind: str, name: str, events: Sequence[NewEvent]) -> None:
        if not events:
            return
        r = resources.c
        raised = connection.execute(
            resources.update()
            .where(r.kind == kind, r.name == name)
            .values(event_count=r.event_count + len(events))
            .returning(r.event_count)
        ).scalar()
        if raised is None:
            raise NotFound(f"There is no {name}.", metadata={"name": name})
        first = raised - len(events) + 1
        now = us(self._clock())
        connection.execute(
            history.insert(),
            [
                {"kind": kind, "name": name, "sequence": first + i, "create_time_us": now, "type": event.type,
                 "level": event.level, "message": event.message.replace("\0", "\ufffd"), "data": dump(dict(event.data))}
                for i, event in enumerate(events)
            ],
        )  # fmt: skip

    def _waking(self, record: Record) -> Record:
        if record.due_time is not None:
            self._wakings[record.kind].set()
        return record

    async def _run(self, transaction: Callable[[sa.Connection], T]) -> T:
        """Run a transaction in a thread. Raises: Unavailable (also where it is late; it may be carried out all the same)."""
        working = asyncio.get_running_loop().run_in_executor(self._executor, self._transact, transaction)
        try:
            async with asyncio.timeout(self._answer_timeout_s):
                return await working
        except TimeoutError as error:
            told = f"The database does not answer within {self._answer_timeout_s:g} s."
            raise Unavailable(told, reason="DATABASE_UNAVAILABLE") from error

    def _transact(self, transaction: Callable[[sa.Connection], T]) -> T:
        """Run a transaction, again where it lost to another one, and turn what the driver raises into our errors."""
        for attempt in range(REPEATS):
            try:
                with self._engine.begin() as connection:
                    if not self._is_migrated:
                        migrate(connection, self._schema, self._migrations)
                    result = transaction(connection)
                self._is_migrated = True
                return result
            except exc.DataError as error:
                raise InvalidInput(f"The database can't keep this: {error.orig}.", reason="VALUE_INVALID") from error
            except (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError) as error:
                told = getattr(error, "orig", None) or error
                if getattr(told, "sqlstate", None) not in REPEATABLE:
                    raise _unavailable(told) from error
                failure = error
            time.sleep(random.uniform(0, 0.02 * 2**attempt))
        raise Conflict("Others write the same all the time; read again and repeat.") from failure


def _unavailable(told: BaseException) -> Unavailable:
    is_full = getattr(told, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(told, "sqlstate", None) == DISK_FULL
    if is_full:
        return Unavailable("The disk of the database is full; free some space and repeat.", reason="DISK_FULL")
    what = " ".join(str(told).split()).rstrip(".?")
    return Unavailable(f"The database does not answer: {what}.", reason="DATABASE_UNAVAILABLE")


def _select(connection: sa.Connection, *where: Any) -> Any:
    return connection.execute(sa.select(resources).where(*where)).mappings().first()


def _require(connection: sa.Connection, kind: str, name: str) -> Any:
    row = _select(connection, resources.c.kind == kind, resources.c.name == name)
    if row is None:
        raise NotFound(f"There is no {name}.", metadata={"name": name})
    return row
