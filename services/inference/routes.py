"""Routes: who answers for each name, as one table that is built from the database and watched by gateways.

The table is rebuilt after every change that this program makes, at short intervals for those of its twins, and at once when a
twin has promoted; it is told to the watchers when it differs. Only replicas of the present generation of an active server stand
in it. Its revision says which promotions it has, and `watchers.py` what that is for.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from services.common.errors import Unavailable
from services.common.names import project_of
from services.common.ports.database import Database
from services.inference import catalogue, endpoint, model
from services.inference.catalogue import Entry
from services.inference.endpoint import Endpoint
from services.inference.model import Model
from services.inference.records import every
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Placement, Server
from services.inference.watchers import BELIEVED_S, REVISION_LOOK_S, Watchers, read_revision

LOOK_S = 1.0  # for what a twin changes; what this program changes is told at once


@dataclass(frozen=True)
class Replica:
    """A model server on which a model is proven."""

    url: str
    served_name: str
    api_key: str


@dataclass(frozen=True)
class Route:
    """Who answers for a name; no replica means that EnsureServed has to be asked."""

    public_id: str
    project: str
    kind: str
    model: str
    digest: str
    replicas: tuple[Replica, ...]
    create_time: datetime


@dataclass(frozen=True)
class Table:
    """Every route, and the revision that was read before any of them: promotions up to it are in it."""

    revision: int
    routes: tuple[Route, ...]


class RouteTable:
    """The newest table, a place to wait for the next, and who answers by it."""

    def __init__(self, database: Database, *, believed_s: float = BELIEVED_S) -> None:
        self._database = database
        self.watchers = Watchers(database, believed_s=believed_s)
        self._changed = asyncio.Condition()
        self._stale = asyncio.Event()
        self._building = asyncio.Lock()  # one after another, so that none puts an older table in the place of a newer
        self._table: Table | None = None

    def touch(self) -> None:
        """Say that something has changed."""
        self._stale.set()

    async def run(self) -> None:
        """Keep the table fresh until cancelled."""
        while True:
            with contextlib.suppress(Unavailable):  # the database is away; the old table is the best there is
                await self.refresh()
            await self._rest()
            self._stale.clear()

    async def refresh(self) -> Table:
        """Build the table anew, wake who waits where it differs, and return it."""
        async with self._building:
            revision = await read_revision(self._database)
            table = Table(revision, await build(self._database))
            async with self._changed:
                if table != self._table:
                    self._table = table
                    self._changed.notify_all()
        return table

    async def watch(self) -> AsyncIterator[Table]:
        """Yield the whole table at once, and again after every change."""
        seen = self._table or await self.refresh()
        while True:
            yield seen
            async with self._changed:
                while self._table in (None, seen):
                    await self._changed.wait()
                seen = self._table or seen

    async def _rest(self) -> None:
        """Return when something may have changed: it was said, a twin has promoted, or it is time to look."""
        known = revision = self._table.revision if self._table else 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                while revision == known:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(REVISION_LOOK_S):
                            await self._stale.wait()
                            return
                    with contextlib.suppress(Unavailable):
                        revision = await read_revision(self._database)

    async def wait(self, timeout_s: float) -> None:
        """Wait for a change, or for that long."""
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()


async def build(database: Database) -> tuple[Route, ...]:
    """Return every route, in order of creation of the names."""
    models = {m.name: (m, r.create_time) for r in await every(database, model.KIND) for m in [Model.from_document(r.document)]}
    replicas = await _replicas(database)
    routes: list[Route] = []

    def add(public_id: str, project: str, kind: str, name: str, create_time: datetime) -> None:
        if name not in models:
            return
        target = models[name][0]
        answering = tuple(replicas.get(name, ())) if target.state == "ACTIVE" else ()
        routes.append(Route(public_id, project, kind, name, target.digest, answering, create_time))

    for record in await every(database, catalogue.KIND):
        entry = Entry.from_document(record.document)
        for public_id in entry.public_ids:
            add(public_id, "", "base", entry.model, record.create_time)
    for known, create_time in models.values():
        if known.kind != "BASE" and known.state == "ACTIVE":
            add(known.public_id, project_of(known.name), known.kind.lower(), known.name, create_time)
    for record in await every(database, endpoint.KIND):
        pointing = Endpoint.from_document(record.document)
        add(pointing.name.rpartition("/")[2], project_of(pointing.name), "endpoint", pointing.model, record.create_time)
    return tuple(routes)


async def _replicas(database: Database) -> dict[str, list[Replica]]:
    servers = {s.name: s for r in await every(database, SERVER_KIND) for s in [Server.from_document(r.document)]}
    found: dict[str, list[Replica]] = {}
    for server in servers.values():
        if server.state == "ACTIVE":
            found.setdefault(server.base, []).append(Replica(server.url, server.digest, server.api_key))
    for record in await every(database, PLACEMENT_KIND):
        placement = Placement.from_document(record.document)
        holder = servers.get(placement.server)
        if placement.state == "PROVEN" and holder and holder.state == "ACTIVE" and holder.generation == placement.generation:
            found.setdefault(placement.model, []).append(Replica(holder.url, placement.digest, holder.api_key))
    return found


async def replicas_of(database: Database, name: str) -> tuple[Replica, ...]:
    """Return where a model is proven now."""
    return tuple((await _replicas(database)).get(name, ()))
