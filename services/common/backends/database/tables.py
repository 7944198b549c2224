"""The two tables as SQLAlchemy knows them, and their rows as the port's values."""

from datetime import UTC, datetime
from typing import Any

import orjson
import sqlalchemy as sa

from services.common.ports.database import Document, Record, StoredEvent

# As the last migration left them; `create_all` is never called.
metadata = sa.MetaData()
resources = sa.Table(
    "resources",
    metadata,
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
    sa.Column("state", sa.Text),
)
history = sa.Table(
    "events",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("create_time_us", sa.BigInteger),
    sa.Column("type", sa.Text),
    sa.Column("level", sa.Text),
    sa.Column("message", sa.Text),
    sa.Column("data", sa.Text),
)


def record_of(row: Any, lease_token: str | None = None) -> Record:
    """Return a row as a record; only the claimer's own record carries the lease."""
    return Record(
        kind=row["kind"],
        name=row["name"],
        version=row["version"],
        sequence=row["sequence"],
        document=orjson.loads(row["document"]),
        create_time=time_of(row["create_time_us"]),
        update_time=time_of(row["update_time_us"]),
        due_time=time_of(row["due_time_us"]) if row["due_time_us"] is not None else None,
        lease_token=lease_token,
    )


def event_of(row: Any) -> StoredEvent:
    """Return a row of the history as an event."""
    return StoredEvent(
        row["sequence"], time_of(row["create_time_us"]), row["type"], row["message"], row["level"], orjson.loads(row["data"])
    )


def state_of(document: Document) -> str | None:
    """Return what stands beside a document so that it can be counted: its state, where it has one."""
    state = document.get("state")
    return state if isinstance(state, str) else None


def dump(document: Any) -> str:
    """Return a document as its column holds it."""
    return orjson.dumps(document).decode()


def us(time: datetime | None) -> Any:
    """Return a time as its column holds it. Units: µs since 1970."""
    return None if time is None else int(time.timestamp() * 1_000_000)


def time_of(time_us: int) -> datetime:
    """Return the time of a column, in UTC."""
    return datetime.fromtimestamp(time_us / 1_000_000, UTC)
