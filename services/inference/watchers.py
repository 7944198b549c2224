"""Watchers: the gateways that answer by the table of routes, and how a promotion knows that none answers by an old one.

History: gateways heard of changes by a stream alone, so one whose stream or process was frozen could answer with the model
before for five minutes after `promote` had returned. A table is now believed only for a time, as a lease is held.

Mechanism: there is one revision, a counter in the database. A promotion writes its endpoint, *then* raises the revision to R,
and waits. A table carries the revision that was read *before* its routes were, so a table of R or more has the change. A gateway
that has put a table in the place of the one before acknowledges it: the acknowledgement is written down first and the revision
read after, and only where the two are equal is there leave to answer for endpoints, for BELIEVED_S counted by the gateway from
before it asked. So of a promotion and a leave for an older table, one sees the other: either the promotion finds the gateway
written down as behind, and waits; or the gateway reads R, and gets the new table in the place of a leave. And since no leave for
an older table is given after R was written, BELIEVED_S later none holds, wherever it was lost, delayed or repeated: who is gone,
frozen or cut off costs a promotion that long and no more. No two clocks are compared, only lengths of time by each one's own.
It works across replicas because all of it is in the shared database; another replica of this program reads the revision every
REVISION_LOOK_S. A program that dies between endpoint and revision has promised nothing: the next look spreads the change, and
whoever repeats the call raises the revision again and waits.

The price: while no `inference` answers for longer than BELIEVED_S, gateways answer for endpoints with 503 and Retry-After, and
for everything else as before. A request that was read before `promote` returned may still be answered by the model before.

When changing it: nothing may come between "written down" and "read" in `acknowledge` or change their order; `advance` comes
after the endpoint's write; who answers by a table is a process, so its name is never used again; `wait_for` has to run after
`advance`, also where a promotion is repeated. The fault schedules in test_watchers.py try the orders.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from services.common.errors import AlreadyExists, Conflict, InvalidInput, NotFound, Unavailable
from services.common.ports.database import Database, Record
from services.inference.records import change, every

KIND = "route_watcher"
REVISION_KIND = "route_revision"
REVISION_NAME = "routes/revision"
BELIEVED_S = 60.0
REVISION_LOOK_S = 0.2
DRIFT = 1.002  # two clocks, each slewed by 500 ppm at most. Source: adjtimex(2), Linux's MAXFREQ; and as much again
WATCHER = re.compile(r"[a-z0-9.-]{1,128}")
MAX_TITLE_CHARACTERS = 200


@dataclass(frozen=True)
class Watcher:
    """A gateway as it is stored: the revision of the table that it answers by, and the longest time it was ever told to."""

    title: str
    revision: int
    believed_s: float


async def read_revision(database: Database) -> int:
    """Return the revision; 0 before the first promotion."""
    try:
        return (await database.get(REVISION_KIND, REVISION_NAME)).version
    except NotFound:
        return 0


async def advance(database: Database) -> int:
    """Raise the revision, and return it. What was promoted has been written: however many write at once, this goes on."""
    while True:
        with contextlib.suppress(NotFound, Conflict):
            return (await change(database, REVISION_KIND, REVISION_NAME, lambda document: document, None)).version
        with contextlib.suppress(AlreadyExists):
            return (await database.create(REVISION_KIND, REVISION_NAME, {})).version


class Watchers:
    """Gives leaves, and waits for their ends. `clock` is monotonic, in seconds."""

    def __init__(
        self, database: Database, *, believed_s: float = BELIEVED_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database, self.believed_s, self._clock = database, believed_s, clock
        self._unchanged: dict[str, tuple[int, float]] = {}  # by record: its version, and since when it has it as seen from here

    async def acknowledge(self, watcher: str, revision: int, title: str) -> bool:
        """Write down by which table a gateway answers, and return whether that is the newest. Raises: InvalidInput."""
        if not WATCHER.fullmatch(watcher):
            raise InvalidInput("watcher has 1 to 128 characters of a-z, 0-9, . and -.", reason="WATCHER_INVALID")
        await self._write(f"watchers/{watcher}", Watcher(title[:MAX_TITLE_CHARACTERS], revision, self.believed_s))
        return revision == await read_revision(self._database)

    async def forget(self, watcher: str) -> None:
        """Forget a gateway that answers nobody any more; the absent is success."""
        with contextlib.suppress(NotFound, Conflict):  # a conflict is a late acknowledgement, which `reap` deals with
            await self._database.delete(await self._database.get(KIND, f"watchers/{watcher}"))

    async def wait_for(self, revision: int, timeout_s: float) -> None:
        """Return once nobody may answer by a table older than a revision, which has been reached already.

        Raises: Unavailable (some still may after that time; metadata says who, and for how long at most).
        """
        begin = self._clock()
        while behind := await self.behind(revision, self._clock() - begin):
            passed_s = self._clock() - begin
            if passed_s >= timeout_s:
                left_s = max(watcher.believed_s for watcher in behind) - passed_s
                who = ", ".join(sorted(watcher.title or "an unnamed gateway" for watcher in behind))
                told = f"{who} may answer by an older table for up to {left_s:.0f} s more."
                raise Unavailable(told, reason="GATEWAYS_BEHIND", metadata={"watchers": who, "retry_after_s": f"{left_s:.0f}"})
            await asyncio.sleep(REVISION_LOOK_S / 4)

    async def behind(self, revision: int, passed_s: float) -> list[Watcher]:
        """Return who may still answer by a table older than a revision that was reached so many seconds ago at least."""
        watchers = [Watcher(**record.document) for record in await every(self._database, KIND)]
        return [watcher for watcher in watchers if watcher.revision < revision and passed_s < watcher.believed_s * DRIFT]

    async def reap(self) -> None:
        """Forget gateways from which nothing has come for as long as any leave of theirs can last."""
        records = await every(self._database, KIND)
        now = self._clock()  # after: a leave given before this was asked for before this
        seen = {record.name: self._unchanged.get(record.name, (0, now)) for record in records}
        self._unchanged = {r.name: seen[r.name] if seen[r.name][0] == r.version else (r.version, now) for r in records}
        for record in records:
            if now - self._unchanged[record.name][1] > Watcher(**record.document).believed_s * DRIFT:
                with contextlib.suppress(Conflict):  # it has just come back
                    await self._database.delete(record)

    async def run(self) -> None:
        """Reap until cancelled."""
        while True:
            with contextlib.suppress(Unavailable):  # the database is away
                await self.reap()
            await asyncio.sleep(self.believed_s / 4)

    async def _write(self, name: str, watcher: Watcher) -> Record:
        def longest(document: dict[str, object]) -> dict[str, object]:
            before = Watcher(**document)  # type: ignore[arg-type]
            return asdict(watcher) | {"believed_s": max(watcher.believed_s, before.believed_s)}

        while True:
            with contextlib.suppress(NotFound):
                return await change(self._database, KIND, name, longest, None)
            with contextlib.suppress(AlreadyExists):
                return await self._database.create(KIND, name, asdict(watcher))
