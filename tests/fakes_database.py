"""A database in memory, for thousands of schedules in a row; it keeps its port's contract as the SQL one does."""

import asyncio
import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import orjson

from services.common.errors import AlreadyExists, Conflict, NotFound
from services.common.ports.database import Census, Database, Document, NewEvent, Record, StoredEvent


@dataclass
class _Row:
    """A record with its lease and its history. The document is kept as JSON, so that nobody changes it from outside."""

    kind: str
    name: str
    sequence: int
    document: bytes
    create_time: datetime
    update_time: datetime
    due_time: datetime | None
    version: int = 1
    lease_token: str | None = None
    lease_end: datetime | None = None
    events: list[StoredEvent] = field(default_factory=list)

    def is_free(self, now: datetime) -> bool:
        return self.lease_end is None or self.lease_end <= now

    def record(self, lease_token: str | None = None) -> Record:
        return Record(
            self.kind, self.name, self.version, self.sequence, orjson.loads(self.document),
            self.create_time, self.update_time, self.due_time, lease_token,
        )  # fmt: skip


class MemoryDatabase(Database):
    """Records in a dictionary. Each verb is done in one go, between two of anybody else."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._rows: dict[str, dict[str, _Row]] = defaultdict(dict)
        self._requests: dict[tuple[str, str], _Row] = {}
        self._numbers, self._tokens = itertools.count(1), itertools.count(1)
        self._wakings: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def twin(self) -> "MemoryDatabase":
        """Return the same database as another program sees it: what that one writes wakes nobody here."""
        twin = MemoryDatabase(self._clock)
        twin._rows, twin._requests, twin._numbers, twin._tokens = self._rows, self._requests, self._numbers, self._tokens
        return twin

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
        if request_id and (kind, request_id) in self._requests:
            return self._requests[kind, request_id].record()
        if name in self._rows[kind]:
            raise AlreadyExists(f"{name} exists already.", metadata={"name": name})
        now = self._clock()
        row = _Row(kind, name, next(self._numbers), orjson.dumps(document), now, now, due_time)
        self._rows[kind][name] = row
        if request_id:
            self._requests[kind, request_id] = row
        self._append(row, events)
        self._wake(row)
        return row.record()

    async def get(self, kind: str, name: str) -> Record:
        return self._row(kind, name).record()

    async def update(
        self,
        record: Record,
        document: Document,
        *,
        due_time: datetime | None = None,
        events: Sequence[NewEvent] = (),
        of: tuple[str, str] | None = None,
    ) -> Record:
        told = self._row(*(of or (record.kind, record.name)))
        row, now = self._row(record.kind, record.name), self._clock()
        is_leased = record.lease_token is None or (row.lease_token == record.lease_token and not row.is_free(now))
        if row.version != record.version or not is_leased:
            raise Conflict(f"{record.name} was changed by somebody else.", metadata={"name": record.name})
        row.version, row.document, row.update_time, row.due_time = row.version + 1, orjson.dumps(document), now, due_time
        row.lease_token = row.lease_end = None
        self._append(told, events)
        self._wake(row)
        return row.record()

    async def delete(self, record: Record) -> None:
        row = self._rows[record.kind].get(record.name)
        if row is None:
            return
        if row.version != record.version:
            raise Conflict(f"{record.name} was changed by somebody else.")
        del self._rows[record.kind][record.name]
        self._requests = {key: other for key, other in self._requests.items() if other is not row}

    async def list(
        self, kind: str, parent: str, *, after: int | None = None, limit: int = 50, newest_first: bool = True
    ) -> Sequence[Record]:
        rows = [row for row in self._rows[kind].values() if not parent or row.name.startswith(f"{parent}/")]
        if after is not None:
            rows = [row for row in rows if (row.sequence < after if newest_first else row.sequence > after)]
        return [row.record() for row in sorted(rows, key=lambda row: row.sequence, reverse=newest_first)[:limit]]

    async def claim(self, kind: str, now: datetime, lease_s: float) -> Record | None:
        due = [(row.due_time, row.sequence, row) for row in self._due(kind) if row.due_time <= now and row.is_free(now)]  # type: ignore[operator]
        if not due:
            return None
        row = min(due, key=lambda one: one[:2])[2]
        row.lease_token, row.lease_end = f"lease-{next(self._tokens)}", now + timedelta(seconds=lease_s)
        return row.record(row.lease_token)

    async def next_due(self, kind: str) -> datetime | None:
        return min((max(row.due_time, row.lease_end or row.due_time) for row in self._due(kind)), default=None)  # type: ignore[type-var]

    async def woken(self, kind: str, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wakings[kind].wait()
        self._wakings[kind].clear()

    async def census(self, kind: str, now: datetime) -> Census:
        states = Counter(str(orjson.loads(row.document).get("state") or "") for row in self._rows[kind].values())
        due = [row for row in self._due(kind) if row.due_time <= now and row.is_free(now)]  # type: ignore[operator]
        return Census(dict(states), len(due))

    async def append(self, kind: str, name: str, events: Sequence[NewEvent]) -> None:
        self._append(self._row(kind, name), events)

    async def events(
        self, kind: str, name: str, *, after: int = 0, limit: int = 50, newest_first: bool = False
    ) -> Sequence[StoredEvent]:
        row = self._rows[kind].get(name)
        events = row.events if row else []
        if newest_first:
            return events[: after - 1 if after else None][::-1][:limit]
        return events[after : after + limit]

    async def last_event(self, kind: str, name: str, type: str) -> StoredEvent | None:
        row = self._rows[kind].get(name)
        return next((event for event in reversed(row.events if row else []) if event.type == type), None)

    async def wake(self, kind: str, name: str, due_time: datetime) -> None:
        row = self._row(kind, name)
        if row.due_time is not None:
            row.due_time = min(row.due_time, due_time)
        self._wake(row)

    async def close(self) -> None:
        return None

    def _due(self, kind: str) -> Iterator[_Row]:
        return (row for row in self._rows[kind].values() if row.due_time is not None)

    def _row(self, kind: str, name: str) -> _Row:
        row = self._rows[kind].get(name)
        if row is None:
            raise NotFound(f"There is no {name}.", metadata={"name": name})
        return row

    def _append(self, row: _Row, events: Sequence[NewEvent]) -> None:
        now = self._clock()
        for event in events:
            data = orjson.loads(orjson.dumps(dict(event.data)))
            message = event.message.replace("\0", "\ufffd")
            row.events.append(StoredEvent(len(row.events) + 1, now, event.type, message, event.level, data))

    def _wake(self, row: _Row) -> None:
        if row.due_time is not None:
            self._wakings[row.kind].set()
