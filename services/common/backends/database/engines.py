"""Engines for the two databases: what their connections are told before anybody uses them."""

import re
from typing import Any

import sqlalchemy as sa

from services.common.errors import InvalidInput
from services.common.settings import mask

POSTGRES_CONNECTIONS = 4
POOL_TIMEOUT_S = 10.0
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
    "-c search_path={schema} -c statement_timeout=15s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s"
)


def postgres(url: str, connections: int) -> tuple[sa.Engine, str]:
    """Return an engine whose connections see one schema, and the schema's name. Raises: InvalidInput."""
    parts = sa.make_url(url).set(drivername="postgresql+psycopg")
    schema = parts.query.get("schema", "")
    if not isinstance(schema, str) or not SCHEMA.fullmatch(schema):
        text = f"{mask(parts.render_as_string())} names no schema; end it with ?schema=NAME (a-z, 0-9, _), one for each program."
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


def sqlite(url: str) -> sa.Engine:
    """Return an engine for a file that several processes may share."""
    engine = sa.create_engine(url)
    _tame(engine)
    return engine


def _tame(engine: sa.Engine) -> None:
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
