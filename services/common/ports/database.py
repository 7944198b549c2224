"""The database: resources as documents, with versions, events and leases.

Every service keeps its nouns in the same small shape – a kind, a name, a JSON document – because what a service needs
from a database is always the same: create once, read, update what has not changed meanwhile, page, and claim what is
due. A claim carries a lease token: the claimer may write with that token until the lease ends, so of two replicas of a
service only one moves a resource, and one that froze past its lease can't write any more.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """One resource as it is stored. `version` counts its writes; `sequence` orders records by creation.

    `lease_token` is set only on the record that `claim` returned.
    """

    kind: str
    name: str
    version: int
    sequence: int
    document: Document
    create_time: datetime
    update_time: datetime
    due_time: datetime | None = None
    lease_token: str | None = None


@dataclass(frozen=True)
class Census:
    """How many records of a kind there are: by the `state` in their documents ("" for none), and how many wait to be claimed."""

    by_state: Mapping[str, int]
    due_count: int


@dataclass(frozen=True)
class NewEvent:
    """An event that is to be appended to a resource's history."""

    type: str
    message: str
    level: str = "INFO"
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredEvent:
    """An event as it is stored: `sequence` is 1, 2, 3 … per resource, without gaps."""

    sequence: int
    create_time: datetime
    type: str
    message: str
    level: str
    data: Mapping[str, Any]


class Database(ABC):
    """Keeps documents by kind and name. All verbs are coroutines; each is one transaction, without network calls inside."""

    @abstractmethod
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
        """Create a record. With a request_id that was used before for this kind, return that record instead.

        Raises: AlreadyExists (the name is taken).
        """

    @abstractmethod
    async def get(self, kind: str, name: str) -> Record:
        """Return a record. Raises: NotFound."""

    @abstractmethod
    async def update(
        self,
        record: Record,
        document: Document,
        *,
        due_time: datetime | None = None,
        events: Sequence[NewEvent] = (),
        of: tuple[str, str] | None = None,
    ) -> Record:
        """Write a new document and due time over the version that `record` holds, and append events, all or nothing.

        The events go into the record's own history, or into that of another resource, which `of` gives by kind and name.
        A record that came from `claim` is written with its lease and gives it back.
        Raises: Conflict (stale version; or the lease has ended, been taken or been given back); NotFound (also of the other).
        """

    @abstractmethod
    async def delete(self, record: Record) -> None:
        """Delete a record with its events. Raises: Conflict (stale version). Deleting the absent succeeds."""

    @abstractmethod
    async def list(
        self, kind: str, parent: str, *, after: int | None = None, limit: int = 50, newest_first: bool = True
    ) -> Sequence[Record]:
        """Return records whose name begins with `parent/` (all of the kind where parent is empty), in order of creation.

        `after` is the sequence of the last record of the page before; pages stay stable while records are created.
        """

    @abstractmethod
    async def claim(self, kind: str, now: datetime, lease_s: float) -> Record | None:
        """Lease the record of a kind that is longest due and not leased by anybody, or None. Lease tokens are never reused."""

    @abstractmethod
    async def next_due(self, kind: str) -> datetime | None:
        """Return when a record can be claimed next: when it is due, or when its lease ends; None where nothing has work left."""

    @abstractmethod
    async def woken(self, kind: str, timeout_s: float) -> None:
        """Return when this process has given a record of a kind a due time since the last return, or after the timeout.

        What another process writes wakes nobody here, so a caller looks again from time to time. One waits for each kind.
        """

    @abstractmethod
    async def census(self, kind: str, now: datetime) -> Census:
        """Count the records of a kind. Cheap however many there are, so that it can be asked every few seconds."""

    @abstractmethod
    async def append(self, kind: str, name: str, events: Sequence[NewEvent]) -> None:
        """Append events to a resource's history, numbered without gaps also when several callers append at once.

        Raises: NotFound.
        """

    @abstractmethod
    async def events(
        self, kind: str, name: str, *, after: int = 0, limit: int = 50, newest_first: bool = False
    ) -> Sequence[StoredEvent]:
        """Return events with a sequence larger than `after`, oldest first.

        With `newest_first` those with a smaller one, newest first; from the newest on where `after` is 0.
        """

    @abstractmethod
    async def last_event(self, kind: str, name: str, type: str) -> StoredEvent | None:
        """Return the newest event of a type, or None where there is none."""

    @abstractmethod
    async def wake(self, kind: str, name: str, due_time: datetime) -> None:
        """Make a record due no later than `due_time`; a record that has ended (no due time) stays so. Raises: NotFound."""

    @abstractmethod
    async def close(self) -> None:
        """Give back connections."""
