"""Attempts: how a worker is launched, known again and given up; the same for everything that has workers.

    number → spec → record → is it there? → token → launch → … → it ended → the next number

An attempt is one launch of a worker for a resource: a number, a spec in the object store, a workload of the launcher, and
a token that lets it report.

History. Jobs, evaluations and token counts each had a copy of this, and each took a new number for every try. So a
launcher that was away for half an hour used up all numbers, and jobs failed of it. Now a number is counted only once it
was launched, and a try that came to nothing is made again under the same number.

Mechanism. A resource's next number is its newest launched one plus one, so however many replicas try, they try the same.
Spec and record are written once, by whoever comes first. Whether a number was launched is asked of the launcher, not of
our own notes: what it knows is adopted, though the program that launched it died before it could say so.

A launcher runs one workload under a key, but two replicas may try at once, one of them frozen in the middle. Therefore
each try has a token of its own, whose hash is in the record before the workload is: whichever try the launcher heard
first, its worker may report. The record is written over the version that was read before the launcher was asked, so a
worker that has reported in between is never taken for one that was not there.

A report names the number of its first event, as the worker counts, and the count is written with the events, all or
nothing: one that is sent again after a lost answer is recorded once. An attempt reports until its resource has a later one,
or has ended.

When changing this: ask of every line what another replica sees that comes in between, and what happens when this one
stays there for an hour; then run `python -m tests.simulation`, whose schedules do just that.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from services.common import store_access, telemetry
from services.common.errors import AlreadyExists, ArtifactNotFound, InvalidInput, NotFound, Unauthenticated, Violation
from services.common.names import last, project_of
from services.common.ports.database import Database, Document, NewEvent, Record
from services.common.ports.launcher import Launcher, Observation, Workload, WorkloadState
from services.common.ports.manifest import sealed
from services.common.ports.object_store import ObjectStore
from services.common.store_access import NOTHING, Grant, granted

KIND = "attempt"
EXIT_INVALID_INPUT = 64  # what was asked for can't work; the worker has said why
EXITS_STOPPED = (75, 143)  # told to leave: with what it had saved, or before it had begun
MAX_TRIES = 8  # whose tokens are kept; an older one than that is long dead
LAST_WORDS = 3  # lines of output


class Ports(Protocol):
    """What a program has that launches workers."""

    @property
    def database(self) -> Database:
        """Where its resources are, and the records of attempts beside them."""

    @property
    def store(self) -> ObjectStore:
        """Where specs and results are."""

    @property
    def launcher(self) -> Launcher:
        """What runs workers."""

    @property
    def worker_environment(self) -> Mapping[str, str]:
        """What every worker of this program is given."""


@dataclass(frozen=True)
class Attempt:
    """One launch of a worker: for which resource, the how-manieth, and what is to run."""

    resource: str
    number: int
    module: str
    spec_key: str
    label: str  # of the resource's kind, for people who look at workloads
    kind: str = "job"
    grant: Grant = NOTHING  # what its worker may touch of the store

    @property
    def key(self) -> str:
        """The launcher's key."""
        return f"{last(self.resource)}-{self.number}"


@dataclass(frozen=True)
class Issued:
    """What one try is given beside its token: secrets for the worker, and what is kept of them in the record."""

    environment: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)


Issue = Callable[[Sequence[Document]], Awaitable[Issued]]


async def issue_nothing(dropped: Sequence[Document]) -> Issued:
    """A worker that needs its token alone."""
    return Issued()


async def ensure_launched(ports: Ports, attempt: Attempt, spec: Mapping[str, Any], issue: Issue = issue_nothing) -> Observation:
    """Launch an attempt, or adopt it. Returns: where it stands. Idempotent.

    `issue` is asked what a try is given just before the launch, with the tries that are dropped from the record for it.
    Raises: Conflict (another try came in between), Unavailable – then it is tried again under the same number.
    """
    await asyncio.to_thread(ports.store.commit, attempt.spec_key, sealed(spec))
    record = await _take(ports.database, attempt)
    seen = await ports.launcher.observe(attempt.key)
    if seen.state != WorkloadState.GONE or record.document["next_number"]:  # one that has reported was there, and is over
        return seen
    token, tries = secrets.token_urlsafe(32), tries_of(record)
    issued = await issue(tries[: 1 - MAX_TRIES])
    mine = {"token_sha256": _sha256(token), **issued.kept}
    kept = [*tries[1 - MAX_TRIES :], mine]
    await ports.database.update(record, {"next_number": 0, "tries": kept, **granted(attempt.grant)})
    workload = Workload(
        key=attempt.key,
        kind=attempt.kind,
        command=(sys.executable, "-m", attempt.module),
        environment={**environment(ports, attempt, token), **issued.environment},
        labels={attempt.label: last(attempt.resource), "afina.dev/project": project_of(attempt.resource)},
    )
    await ports.launcher.launch(ports.launcher.plan(workload))
    return await ports.launcher.observe(attempt.key)


def environment(ports: Ports, attempt: Attempt, token: str) -> dict[str, str]:
    """Return the environment of an attempt's worker: where it learns what to do, and what it may do it with."""
    return {
        **ports.worker_environment,
        **store_access.environment(
            ports.store,
            ports.worker_environment.get("AFINA_REPORT_TO", ""),
            attempt.resource,
            attempt.number,
            store_access.WORKER_PATIENCE_S,
        ),
        "AFINA_SPEC": attempt.spec_key,
        "AFINA_ATTEMPT_TOKEN": token,
        **telemetry.carried(telemetry.TRACEPARENT_VARIABLE),
    }


async def stop_all(ports: Ports, resource: str, since: int) -> bool:
    """Stop the attempts from a number on, also one that was launched and noted nowhere. Returns: whether all have ended."""
    numbers = [int(last(record.name)) for record in await recorded(ports.database, resource)]
    keys = [f"{last(resource)}-{number}" for number in numbers if number >= since]
    for key in keys:
        await ports.launcher.stop(key)
    return all([(await ports.launcher.observe(key)).has_ended for key in keys])


async def recorded(database: Database, resource: str) -> Sequence[Record]:
    """Return the records of all attempts, newest first."""
    return await database.list(KIND, f"{resource}/attempts", limit=1000)


async def find(database: Database, resource: str, number: int) -> Record:
    """Return the record of an attempt. Raises: NotFound."""
    return await database.get(KIND, _name(resource, number))


def tries_of(record: Record) -> list[Document]:
    """Return what is kept of an attempt's tries, oldest first; a record from before there were several is its own."""
    tries: list[Document] = record.document.get("tries", [record.document])
    return tries


async def note_running(database: Database, resource: str, number: int) -> None:
    """Note that an attempt is seen to run: from now on it is silent where it reports nothing. Raises: Conflict."""
    record = await find(database, resource, number)
    await database.update(record, record.document)


async def silence_s(database: Database, resource: str, number: int, now: datetime) -> float:
    """Return for how long an attempt that runs has reported nothing new."""
    record = await find(database, resource, number)
    return (now - record.update_time).total_seconds()


async def require(database: Database, resource: str, number: int, token: str) -> Record:
    """Return the attempt that a token belongs to. Raises: Unauthenticated."""
    try:
        record = await find(database, resource, number)
    except NotFound as error:
        raise Unauthenticated("There is no such attempt.", reason="ATTEMPT_UNKNOWN") from error
    given = _sha256(token)
    if not any(hmac.compare_digest(one["token_sha256"], given) for one in tries_of(record)):
        raise Unauthenticated("The token is not this attempt's.", reason="TOKEN_WRONG")
    return record


async def record_events(
    database: Database, attempt: Record, kind: str, resource: str, first_number: int, events: Sequence[NewEvent]
) -> None:
    """Append what an attempt reports to its resource's history, each event once. Raises: Conflict (it is reported twice now)."""
    fresh = events[max(0, int(attempt.document["next_number"]) - first_number) :]
    if fresh:
        counted = {**attempt.document, "next_number": first_number + len(events)}
        await database.update(attempt, counted, events=fresh, of=(kind, resource))


async def told_by(store: ObjectStore, error_key: str) -> Document | None:
    """Return what a worker said when it gave up, None where it said nothing."""
    try:
        told: Document = json.loads(await asyncio.to_thread(store.read, error_key))
    except ArtifactNotFound:
        return None
    return told


def refusal_of(told: Mapping[str, Any]) -> InvalidInput:
    """Return why what was asked for can't work, as a worker said it."""
    return InvalidInput(
        told["message"],
        reason=told["reason"],
        metadata=told.get("metadata"),
        violations=[Violation(**violation) for violation in told.get("violations", [])],
        violation_count=told.get("violation_count"),
    )


async def last_words(launcher: Launcher, key: str) -> str:
    """Return the end of a worker's output as a sentence."""
    output, _ = await launcher.logs(key)
    lines = output.decode(errors="replace").strip().splitlines()[-LAST_WORDS:]
    return f"Its last words: {' | '.join(lines)}" if lines else "It said nothing."


async def _take(database: Database, attempt: Attempt) -> Record:
    """Return the record of an attempt, which nobody can report for before there is a token."""
    name = _name(attempt.resource, attempt.number)
    try:
        return await database.create(KIND, name, {"next_number": 0, "tries": []})
    except AlreadyExists:
        return await database.get(KIND, name)


def _name(resource: str, number: int) -> str:
    return f"{resource}/attempts/{number}"


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
