"""Documents in SQL, through SQLAlchemy: one code for SQLite and PostgreSQL.

A write names the version that it has read and, when it came from a claim, the lease token; both are checked in the
UPDATE's own WHERE clause, so the database decides between two writers. Events are numbered by a counter in the
resource's row, raised in the transaction that inserts them: no gaps, whoever appends. A claim passes over rows that
another replica is claiming at the moment (SKIP LOCKED).

On PostgreSQL every service has a schema of its own (`?schema=NAME`), made where it is not there. A connection that broke
is noticed when it is taken from the pool and replaced; what was under way on it is Unavailable, and may have been done.

When changing this: run the contract suite, and ask of every statement what a second replica sees between it and the next.
"""

import asyncio
import random
import re
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy import exc

from services.common.backends.database.migrations import MIGRATIONS, Migration, migrate
from services.common.errors import AlreadyExists, Conflict, InvalidInput, NotFound, Unavailable
from services.common.ports.database import Database, Document, NewEvent, Record, StoredEvent

T = TypeVar("T")

POSTGRES_CONNECTIONS = 4
POOL_TIMEOUT_S = 10.0
REPEATS = 5
# Source: PostgreSQL, appendix A: serialization_failure, deadlock_detected. It was rolled back; the same again may pass.
REPEATABLE = ("40001", "40P01")
SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# Source: PostgreSQL, libpq connection parameters. A server that vanished is given up within some 20 s, whatever was sent to it.
POSTGRES_PARAMETERS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "afina",
}
POSTGRES_OPTIONS = (
    "-c search_path={schema} -c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s"
)

# As the last migration left them; `create_all` is never called.
_metadata = sa.MetaData()
_resources = sa.Table(
    "resources",
    _metadata,
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("kind", sa.Text),
    sa.Column("name", sa.Text),
    sa.Column("version", sa.Integer),
    sa.Column("document", sa.Text),
    sa.Column("create_time_us", sa.BigInteger),
    sa.Column("update_time_us", sa.BigInteger),
    sa.Column("due_time_us", sa.BigInteger),
    sa.Column("lease_token", sa.Text),
    sa.Column("lease_end_us", sa.BigInteger),
    sa.Column("request_id", sa.Text),
    sa.Column("event_count", sa.Integer),
)
_events = sa.Table(
    "events",
    _metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("create_time_us", sa.BigInteger),
    sa.Column("type", sa.Text),
    sa.Column("level", sa.Text),
    sa.Column("message", sa.Text),
    sa.Column("data", sa.Text),
)


class SqlDatabase(Database):
    """A database behind a URL: `sqlite:////absolute/file.db`, or `postgresql://user:password@host/database?schema=name`.

    It is brought to the version of the code when it is opened.
    Raises: InvalidInput (no schema), WrongState (it is newer than the code), Unavailable.
    """

    def __init__(
        self,
        url: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        connections: int = POSTGRES_CONNECTIONS,
        migrations: Sequence[Migration] = MIGRATIONS,
    ) -> None:
        self._clock = clock
        schema = ""
        if url.startswith("postgresql"):
            self._engine, schema = _postgres(url, connections)
        else:
            connections = 1  # SQLite has one writer anyway, and statements of a few µs do not profit from more
            self._engine = sa.create_engine(url)
            _tame_sqlite(self._engine)
        self._executor = ThreadPoolExecutor(max_workers=connections, thread_name_prefix="database")
        self._transact(lambda connection: migrate(connection, schema, migrations))

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
                before = _select(connection, _resources.c.kind == kind, _resources.c.request_id == request_id)
                if before:
                    return _record(before)
            now = _us(self._clock())
            row = {
                "kind": kind, "name": name, "version": 1, "document": _dump(document), "create_time_us": now,
                "update_time_us": now, "due_time_us": _us(due_time), "request_id": request_id or None, "event_count": 0,
            }  # fmt: skip
            connection.execute(_resources.insert().values(row))
            self._append(connection, kind, name, events)
            return _record(_require(connection, kind, name))

        try:
            return await self._run(transaction)
        except exc.IntegrityError as error:
            if request_id:  # a twin may have won between our look and our insert
                r = _resources.c
                twin = await self._run(lambda connection: _select(connection, r.kind == kind, r.request_id == request_id))
                if twin is not None:
                    return _record(twin)
            raise AlreadyExists(f"{name} exists already.", metadata={"name": name}) from error

    async def get(self, kind: str, name: str) -> Record:
        """See the port."""
        return await self._run(lambda connection: _record(_require(connection, kind, name)))

    async def update(
        self,
        record: Record,
        document: Document,
        *,
        due_time: datetime | None = None,
        events: Sequence[NewEvent] = (),
    ) -> Record:
        """See the port."""

        def transaction(connection: sa.Connection) -> Record:
            now = self._clock()
            r = _resources.c
            guard = [r.kind == record.kind, r.name == record.name, r.version == record.version]
            if record.lease_token is not None:
                guard += [r.lease_token == record.lease_token, r.lease_end_us > _us(now)]
            changed = connection.execute(
                _resources.update().where(*guard).values(
                    version=record.version + 1, document=_dump(document), update_time_us=_us(now),
                    due_time_us=_us(due_time), lease_token=None, lease_end_us=None,
                )
            )  # fmt: skip
            if changed.rowcount != 1:
                _require(connection, record.kind, record.name)
                raise Conflict(
                    f"{record.name} was changed by somebody else; read it again and repeat.", metadata={"name": record.name}
                )
            self._append(connection, record.kind, record.name, events)
            return _record(_require(connection, record.kind, record.name))

        return await self._run(transaction)

    async def delete(self, record: Record) -> None:
        """See the port."""

        def transaction(connection: sa.Connection) -> None:
            r = _resources.c
            mine = [r.kind == record.kind, r.name == record.name]
            if connection.execute(_resources.delete().where(*mine, r.version == record.version)).rowcount != 1:
                if _select(connection, *mine) is not None:
                    raise Conflict(f"{record.name} was changed by somebody else; read it again and repeat.")
                return
            connection.execute(_events.delete().where(_events.c.kind == record.kind, _events.c.name == record.name))

        await self._run(transaction)

    async def list(
        self, kind: str, parent: str, *, after: int | None = None, limit: int = 50, newest_first: bool = True
    ) -> Sequence[Record]:
        """See the port."""
        r = _resources.c
        query = sa.select(_resources).where(r.kind == kind)
        if parent:  # "/" is followed by "0": a range, which needs no escaping as LIKE would
            query = query.where(r.name >= f"{parent}/", r.name < f"{parent}0")
        if after is not None:
            query = query.where(r.sequence < after if newest_first else r.sequence > after)
        query = query.order_by(r.sequence.desc() if newest_first else r.sequence).limit(limit)
        return await self._run(lambda connection: [_record(row) for row in connection.execute(query).mappings()])

    async def claim(self, kind: str, now: datetime, lease_s: float) -> Record | None:
        """See the port."""
        r = _resources.c
        free = sa.or_(r.lease_end_us.is_(None), r.lease_end_us <= _us(now))

        def transaction(connection: sa.Connection) -> Record | None:
            query = sa.select(_resources).where(r.kind == kind, r.due_time_us <= _us(now), free)
            query = query.order_by(r.due_time_us, r.sequence).limit(1).with_for_update(skip_locked=True)
            row = connection.execute(query).mappings().first()
            if row is None:
                return None
            token = secrets.token_hex(16)
            lease_end_us = _us(now + timedelta(seconds=lease_s))
            changed = connection.execute(
                _resources.update()
                .where(r.sequence == row["sequence"], r.version == row["version"], free)
                .values(lease_token=token, lease_end_us=lease_end_us)
            )
            return _record(row, token) if changed.rowcount == 1 else None

        return await self._run(transaction)

    async def append(self, kind: str, name: str, events: Sequence[NewEvent]) -> None:
        """See the port."""
        await self._run(lambda connection: self._append(connection, kind, name, events))

    async def events(self, kind: str, name: str, *, after: int = 0, limit: int = 50) -> Sequence[StoredEvent]:
        """See the port."""
        e = _events.c
        query = sa.select(_events).where(e.kind == kind, e.name == name, e.sequence > after).order_by(e.sequence).limit(limit)
        return await self._run(lambda connection: [_event(row) for row in connection.execute(query).mappings()])

    async def last_event(self, kind: str, name: str, type: str) -> StoredEvent | None:
        """See the port."""
        e = _events.c
        query = sa.select(_events).where(e.kind == kind, e.name == name, e.type == type).order_by(e.sequence.desc()).limit(1)

        def transaction(connection: sa.Connection) -> StoredEvent | None:
            row = connection.execute(query).mappings().first()
            return _event(row) if row else None

        return await self._run(transaction)

    async def wake(self, kind: str, name: str, due_time: datetime) -> None:
        """See the port."""
        r = _resources.c

        def transaction(connection: sa.Connection) -> None:
            _require(connection, kind, name)
            connection.execute(
                _resources.update()
                .where(r.kind == kind, r.name == name, r.due_time_us > _us(due_time))
                .values(due_time_us=_us(due_time))
            )

        await self._run(transaction)

    async def close(self) -> None:
        """See the port."""
        self._executor.shutdown(wait=True)
        self._engine.dispose()

    def _append(self, connection: sa.Connection, kind: str, name: str, events: Sequence[NewEvent]) -> None:
        if not events:
            return
        r = _resources.c
        raised = connection.execute(
            _resources.update()
            .where(r.kind == kind, r.name == name)
            .values(event_count=r.event_count + len(events))
            .returning(r.event_count)
        ).scalar()
        if raised is None:
            raise NotFound(f"There is no {name}.", metadata={"name": name})
        first = raised - len(events) + 1
        now = _us(self._clock())
        connection.execute(
            _events.insert(),
            [
                {"kind": kind, "name": name, "sequence": first + i, "create_time_us": now, "type": event.type,
                 "level": event.level, "message": event.message.replace("\0", "\ufffd"), "data": _dump(dict(event.data))}
                for i, event in enumerate(events)
            ],
        )  # fmt: skip

    async def _run(self, transaction: Callable[[sa.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._transact, transaction)

    def _transact(self, transaction: Callable[[sa.Connection], T]) -> T:
        """Run a transaction, again where it lost to another one, and turn what the driver raises into our errors."""
        for attempt in range(REPEATS):
            try:
                with self._engine.begin() as connection:
                    return transaction(connection)
            except exc.DataError as error:
                raise InvalidInput(f"The database can't keep this: {error.orig}.", reason="VALUE_INVALID") from error
            except (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError) as error:
                told = getattr(error, "orig", None) or error
                if getattr(told, "sqlstate", None) not in REPEATABLE:
                    what = " ".join(str(told).split()).rstrip(".?")
                    raise Unavailable(f"The database does not answer: {what}.", reason="DATABASE_UNAVAILABLE") from error
                failure = error
            time.sleep(random.uniform(0, 0.02 * 2**attempt))
        raise Conflict("Others write the same all the time; read again and repeat.") from failure


def _postgres(url: str, connections: int) -> tuple[sa.Engine, str]:
    """Return an engine whose connections see one schema, and the schema's name. Raises: InvalidInput."""
    parts = sa.make_url(url).set(drivername="postgresql+psycopg")
    schema = parts.query.get("schema", "")
    if not isinstance(schema, str) or not SCHEMA.fullmatch(schema):
        text = f"{parts.render_as_string()} names no schema; end it with ?schema=NAME (a-z, 0-9, _), one for each program."
        raise InvalidInput(text, reason="URL_INVALID")
    given = str(parts.query.get("options", ""))
    engine = sa.create_engine(
        parts.difference_update_query(["schema", "options"]),
        connect_args={**POSTGRES_PARAMETERS, "options": f"{POSTGRES_OPTIONS.format(schema=schema)} {given}".strip()},
        pool_size=connections,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_pre_ping=True,
    )
    return engine, schema


def _tame_sqlite(engine: sa.Engine) -> None:
    """Let several processes share the file, and take the write lock when a transaction begins, not in its middle."""

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=20000")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _select(connection: sa.Connection, *where: Any) -> Any:
    return connection.execute(sa.select(_resources).where(*where)).mappings().first()


def _require(connection: sa.Connection, kind: str, name: str) -> Any:
    row = _select(connection, _resources.c.kind == kind, _resources.c.name == name)
    if row is None:
        raise NotFound(f"There is no {name}.", metadata={"name": name})
    return row


def _record(row: Any, lease_token: str | None = None) -> Record:
    """Return a row as a record; only the claimer's own record carries the lease."""
    return Record(
        kind=row["kind"],
        name=row["name"],
        version=row["version"],
        sequence=row["sequence"],
        document=orjson.loads(row["document"]),
        create_time=_time(row["create_time_us"]),
        update_time=_time(row["update_time_us"]),
        due_time=_time(row["due_time_us"]) if row["due_time_us"] is not None else None,
        lease_token=lease_token,
    )


def _event(row: Any) -> StoredEvent:
    return StoredEvent(
        row["sequence"], _time(row["create_time_us"]), row["type"], row["message"], row["level"], orjson.loads(row["data"])
    )


def _dump(document: Any) -> str:
    return orjson.dumps(document).decode()


def _us(time: datetime | None) -> Any:
    return None if time is None else int(time.timestamp() * 1_000_000)


def _time(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1_000_000, UTC)
