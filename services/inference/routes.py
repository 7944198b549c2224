"""Routes: who answers for each name, as one table that is built from the database and watched by gateways.

The table is rebuilt after every change that this program makes and at short intervals for those of its twins, and told
to the watchers when it differs. Only replicas of the present generation of an active server stand in it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.common.errors import Unavailable
from services.common.names import project_of
from services.common.ports.database import Database, Record
from services.inference import catalogue, endpoint, model
from services.inference.catalogue import Entry
from services.inference.endpoint import Endpoint
from services.inference.model import Model
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Placement, Server

PAGE = 1000
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


class RouteTable:
    """The newest table with its version, and a place to wait for the next."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changed = asyncio.Condition()
        self._stale = asyncio.Event()
        self._version = 0
        self._routes: tuple[Route, ...] = ()

    def touch(self) -> None:
        """Say that something has changed."""
        self._stale.set()

    async def run(self) -> None:
        """Keep the table fresh until cancelled."""
        while True:
            with contextlib.suppress(Unavailable):  # the database is away; the old table is the best there is
                await self.refresh()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):  # wait_for of Python 3.11 can lose a cancellation
                    await self._stale.wait()
            self._stale.clear()

    async def refresh(self) -> None:
        """Build the table anew, and wake who waits where it differs."""
        routes = await build(self._database)
        async with self._changed:
            if routes != self._routes or not self._version:
                self._routes, self._version = routes, self._version + 1
                self._changed.notify_all()

    async def watch(self) -> AsyncIterator[tuple[Route, ...]]:
        """Yield the whole table at once, and again after every change."""
        if not self._version:
            await self.refresh()
        seen = 0
        while True:
            async with self._changed:
                while self._version == seen:
                    await self._changed.wait()
                seen, routes = self._version, self._routes
            yield routes

    async def wait(self, timeout_s: float) -> None:
        """Wait for a change, or for that long."""
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), timeout_s)


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
        for public_id in (entry.name.rpartition("/")[2], *entry.aliases):
            add(public_id, "", "base", entry.model, record.create_time)
    for known, create_time in models.values():
        if known.kind == "ADAPTER" and known.state == "ACTIVE":
            add(known.public_id, project_of(known.name), "adapter", known.name, create_time)
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


async def every(database: Database, kind: str, parent: str = "") -> Sequence[Record]:
    """Return all records of a kind under a parent, oldest first, however many there are."""
    records: list[Record] = []
    after: int | None = None
    while True:
        page = await database.list(kind, parent, after=after, limit=PAGE, newest_first=False)
        records += page
        if len(page) < PAGE:
            return records
        after = page[-1].sequence
