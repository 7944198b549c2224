"""The loop that moves every long thing: due → observe → decide → apply if unchanged.

A resource that has work left carries a due time. The loop claims the one that is longest due, under a lease, and hands
it to a step: a coroutine that looks at the world (launcher, object store, other services) and returns the document as
it should be, with the time of the next look. The write carries version and lease token, so a step whose world moved on
meanwhile – a user cancelled, another replica took over – changes nothing, and the next look sees the new truth.

A step must therefore be safe to repeat from any point: launches adopt what exists, manifests are committed once.
It must also end well inside the lease; what takes longer is a look, not a wait.

Between looks the loop sleeps: until the next resource is due, or this process writes one that is; every `idle_s` it looks
whether another replica left work behind. While the database is away it asks less and less often, and says so once.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from services.common.errors import Conflict, NotFound, Unavailable
from services.common.metrics import Metrics
from services.common.ports.database import Database, Document, NewEvent, Record
from services.common.telemetry import log, resume

_logger = logging.getLogger("afina.reconcile")
IDLE_S = 5.0
MAX_BACKOFF_S = 30.0
MAX_AWAY_BACKOFF_S = 5.0  # how late a loop notices that its database is back
LOOK_FAILED = "Something went wrong inside, so this is looked at again later; the program's log has what it was."


@dataclass(frozen=True)
class Change:
    """What a step decided: the new document, when to look again (None: it has ended), and what happened."""

    document: Document
    due_in_s: float | None
    events: Sequence[NewEvent] = ()

    def stamped(self, has_ended: bool, time: datetime) -> "Change":
        """Return it with the time of the end, where the resource has ended and that is not written yet."""
        if not has_ended or self.document.get("end_time"):
            return self
        return replace(self, document={**self.document, "end_time": time.isoformat()})


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
        idle_s: float = IDLE_S,
        concurrency: int = 8,
        metrics: Metrics | None = None,
    ) -> None:
        self._database, self._kind, self._step, self._clock = database, kind, step, clock
        self._lease_s, self._idle_s, self._concurrency = lease_s, idle_s, concurrency
        self._metrics = metrics or Metrics()
        self._failures: dict[str, tuple[int, str]] = {}  # by name: how often in a row, and what the last one said
        self._misses = 0  # claims in a row that the database did not answer
        self._states: set[str] = set()  # those that were ever counted

    async def run(self) -> None:
        """Reconcile until cancelled."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                if len(running) >= self._concurrency:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                try:
                    record = await self._database.claim(self._kind, self._clock(), self._lease_s)
                    self._note_answer()
                    if record is None:
                        await self._database.woken(self._kind, await self._rest_s())
                        continue
                except Unavailable as error:
                    await asyncio.sleep(self._note_miss(error))
                    continue
                task = asyncio.create_task(self._move(record))
                running.add(task)
                task.add_done_callback(running.discard)
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

    async def count(self) -> None:
        """Bring the gauges of this kind up to date. Raises: Unavailable."""
        census = await self._database.census(self._kind, self._clock())
        self._metrics.due.labels(self._kind).set(census.due_count)
        for state in self._states - census.by_state.keys():
            self._metrics.resources.labels(self._kind, state).set(0)
        for state, count in census.by_state.items():
            self._metrics.resources.labels(self._kind, state).set(count)
        self._states |= census.by_state.keys()

    async def _rest_s(self) -> float:
        """How long nothing of this kind can be claimed, as far as this process knows, and at most `idle_s`."""
        due = await self._database.next_due(self._kind)
        return self._idle_s if due is None else min(self._idle_s, max(0.0, (due - self._clock()).total_seconds()))

    def _note_answer(self) -> None:
        if self._misses:
            log(_logger, logging.INFO, "the database answers again", kind=self._kind, misses=self._misses)
            self._misses = 0

    def _note_miss(self, error: Unavailable) -> float:
        """Say once that the database is away; return how long to wait."""
        self._misses += 1
        if self._misses == 1:
            log(_logger, logging.WARNING, "the database is away; this waits for it", kind=self._kind, error=error.message)
        return _backoff_s(self._misses, MAX_AWAY_BACKOFF_S)

    async def _move(self, record: Record) -> None:
        resume(record.document.get("trace_id") or "")
        begin_s = _monotonic_s()
        if record.due_time is not None:
            late_s = (self._clock() - record.due_time).total_seconds()
            self._metrics.lag_seconds.labels(self._kind).observe(max(0.0, late_s))
        outcome = await self._look(record)
        self._metrics.look_seconds.labels(self._kind).observe(_monotonic_s() - begin_s)
        self._metrics.looks.labels(self._kind, outcome).inc()

    async def _look(self, record: Record) -> str:
        """Look at a record, and write what was decided. Returns: what came of it, as a label."""
        begin_s = _monotonic_s()
        try:
            change = await self._step(record)
        except Exception as error:  # a step that fails is looked at again, whatever it raised
            await self._put_back(record, error)
            return "failed"
        try:
            await self._apply_within_lease(record, change, begin_s)
        except (Conflict, NotFound, Unavailable) as error:
            log(_logger, logging.INFO, "the world moved on", name=record.name, error=error.message)
            return "overtaken"
        if self._failures.pop(record.name, None):
            log(_logger, logging.INFO, "the step works again", name=record.name)
        return "moved" if change.document != record.document or change.events else "unchanged"

    async def _apply_within_lease(self, record: Record, change: Change, begin_s: float) -> None:
        """Write, again and again while the database is away and the lease lasts: what was seen need not be looked at twice.

        A write that was carried out and whose answer was lost is a Conflict the second time, so nothing is written twice.
        Raises: Conflict, NotFound, Unavailable (the lease is over).
        """
        tries = 0
        while True:
            try:
                return await self._apply(record, change)
            except Unavailable:
                tries += 1
                pause_s = _backoff_s(tries, MAX_AWAY_BACKOFF_S)
                if _monotonic_s() + pause_s - begin_s > self._lease_s:
                    raise
                await asyncio.sleep(pause_s)

    async def _apply(self, record: Record, change: Change) -> None:
        due = None if change.due_in_s is None else self._clock() + timedelta(seconds=change.due_in_s)
        await self._database.update(record, change.document, due_time=due, events=change.events)

    async def _put_back(self, record: Record, error: Exception) -> None:
        """Have a record looked at later. What passes by itself is logged when it begins and when it changes."""
        count, said = self._failures.get(record.name, (0, ""))
        failures, text = count + 1, str(error)
        self._failures[record.name] = (failures, text)
        expected = isinstance(error, Unavailable | Conflict)  # a conflict: somebody else was here meanwhile
        if not expected or text != said:
            fields = {"name": record.name, "failures": failures, "error": text}
            level = logging.WARNING if expected else logging.ERROR
            _logger.log(level, "step failed", exc_info=None if expected else error, extra={"fields": fields})
        try:
            told = [] if expected or failures & (failures - 1) else [NewEvent("LOOK_FAILED", LOOK_FAILED, "WARNING")]
            await self._apply(record, Change(record.document, _backoff_s(failures, MAX_BACKOFF_S), told))
        except (Conflict, NotFound, Unavailable) as refusal:
            log(_logger, logging.INFO, "not put back; the lease will end", name=record.name, error=refusal.message)


def _monotonic_s() -> float:
    """Return the event loop's time, which a simulator's loop has in its own hands."""
    return asyncio.get_running_loop().time()


def _backoff_s(failures: int, most_s: float) -> float:
    return min(most_s, 0.5 * 2.0 ** min(failures, 8)) * random.uniform(0.5, 1.0)
