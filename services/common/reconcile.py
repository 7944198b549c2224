"""The loop that moves every long thing: due → observe → decide → apply if unchanged.

A resource that has work left carries a due time. The loop claims the one that is longest due, under a lease, and hands
it to a step: a coroutine that looks at the world (launcher, object store, other services) and returns the document as
it should be, with the time of the next look. The write carries version and lease token, so a step whose world moved on
meanwhile – a user cancelled, another replica took over – changes nothing, and the next look sees the new truth.

A step must therefore be safe to repeat from any point: launches adopt what exists, manifests are committed once.
It must also end well inside the lease; what takes longer is a look, not a wait.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.common.errors import Conflict, NotFound, Unavailable
from services.common.ports.database import Database, Document, NewEvent, Record
from services.common.telemetry import log, trace_id

_logger = logging.getLogger("afina.reconcile")
MAX_BACKOFF_S = 30.0
LOOK_FAILED = "Something went wrong inside, so this is looked at again later; the program's log has what it was."


@dataclass(frozen=True)
class Change:
    """What a step decided: the new document, when to look again (None: it has ended), and what happened."""

    document: Document
    due_in_s: float | None
    events: Sequence[NewEvent] = ()


Step = Callable[[Record], Awaitable[Change]]


class Reconciler:
    """Moves the resources of one kind, several at a time."""

    def __init__(
        self,
        database: Database,
        kind: str,
        step: Step,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        lease_s: float = 60.0,
        idle_s: float = 0.3,
        concurrency: int = 8,
    ) -> None:
        self._database, self._kind, self._step, self._clock = database, kind, step, clock
        self._lease_s, self._idle_s, self._concurrency = lease_s, idle_s, concurrency
        self._failures: dict[str, int] = {}

    async def run(self) -> None:
        """Reconcile until cancelled."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                record = None
                if len(running) < self._concurrency:
                    try:
                        record = await self._database.claim(self._kind, self._clock(), self._lease_s)
                    except Unavailable as error:
                        log(_logger, logging.WARNING, "the database is away", kind=self._kind, error=error.message)
                if record is not None:
                    task = asyncio.create_task(self._move(record))
                    running.add(task)
                    task.add_done_callback(running.discard)
                else:
                    await asyncio.sleep(self._idle_s)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def run_once(self) -> bool:
        """Move the one record that is longest due; False where nothing was due. For tests and simulators."""
        record = await self._database.claim(self._kind, self._clock(), self._lease_s)
        if record is None:
            return False
        await self._move(record)
        return True

    async def _move(self, record: Record) -> None:
        trace_id.set(record.document.get("trace_id") or secrets.token_hex(8))
        try:
            change = await self._step(record)
        except Exception as error:  # a step that fails is looked at again, whatever it raised
            await self._put_back(record, error)
            return
        try:
            await self._apply(record, change)
            self._failures.pop(record.name, None)
        except (Conflict, NotFound, Unavailable) as error:
            log(_logger, logging.INFO, "the world moved on", name=record.name, error=error.message)

    async def _apply(self, record: Record, change: Change) -> None:
        due = None if change.due_in_s is None else self._clock() + timedelta(seconds=change.due_in_s)
        await self._database.update(record, change.document, due_time=due, events=change.events)

    async def _put_back(self, record: Record, error: Exception) -> None:
        failures = self._failures[record.name] = self._failures.get(record.name, 0) + 1
        expected = isinstance(error, Unavailable)
        _logger.log(
            logging.WARNING if expected else logging.ERROR,
            "step failed",
            exc_info=None if expected else error,
            extra={"fields": {"name": record.name, "failures": failures, "error": str(error)}},
        )
        backoff_s = min(MAX_BACKOFF_S, 0.5 * 2 ** min(failures, 8)) * random.uniform(0.5, 1.0)
        try:
            told = [] if expected or failures & (failures - 1) else [NewEvent("LOOK_FAILED", LOOK_FAILED, "WARNING")]
            await self._apply(record, Change(record.document, backoff_s, told))
        except (Conflict, NotFound, Unavailable) as refusal:
            log(_logger, logging.INFO, "not put back; the lease will end", name=record.name, error=refusal.message)
