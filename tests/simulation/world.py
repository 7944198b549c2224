"""The world of one seed: programs that are restarted when they die, users, workers, and time for everything to go wrong.

What a kind of world adds (`training.py`, `evaluating.py`, `serving.py`) are its services, its users and what must hold.
Time is virtual. After a few minutes, or when the last outage is over, nothing goes wrong any more, and what is not at rest
a bounded time later is stuck. Every twentieth schedule is played on SQL, the others on a database in memory that keeps the
same contract: they are many times faster.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from services.common import errors
from services.common.backends.database.sql import SqlDatabase
from services.common.metrics import Metrics
from services.common.ports.database import Database, NewEvent, Record
from services.common.reconcile import Change, Reconciler
from tests.fakes import MemoryObjectStore
from tests.fakes_database import MemoryDatabase
from tests.simulation.chaos import LEASE_S, Chaos, Odds, Program, as_seen_by
from tests.simulation.virtual_time import VirtualLoop
from tests.simulation.workloads import SimulatedLauncher

CHAOS_S = 150.0
SETTLE_S = 900.0
LOOK_S = 1.0
IDLE_S = 20.0
SQL_EVERY = 20
REPLICAS = 2
S = TypeVar("S")
Step = Callable[[Record], Awaitable[Change]]


@dataclass
class Outcome:
    """What a schedule came to: what is wrong with it, what happened, and how much of it."""

    seed: int
    violations: list[str]
    history: list[str]
    states: Mapping[str, str]
    counts: Mapping[str, int]


class World(Generic[S]):
    """One schedule. `S` is the service whose replicas it runs."""

    ports: tuple[str, ...] = ("store", "launcher", "database", "peers")
    launcher: SimulatedLauncher

    def __init__(self, seed: int, loop: VirtualLoop, odds: Odds) -> None:
        random.seed(seed)
        self.seed, self.loop = seed, loop
        self.chaos = Chaos(random.Random(seed), odds)
        self.store = MemoryObjectStore()
        self.database: Database = MemoryDatabase(loop.clock) if seed % SQL_EVERY else SqlDatabase("sqlite://", loop.clock)
        self.counts: Counter[str] = Counter()
        self._metrics = Metrics()
        self._programs: dict[int, tuple[Program, S]] = {}
        self._confirmed: set[tuple[str, int, int]] = set()

    # What a kind of world adds.

    async def prepare(self) -> None:
        """Make what is there from the beginning."""

    def service(self, program: Program) -> S:
        """Return a replica's service."""
        raise NotImplementedError

    def steps(self, service: S) -> Mapping[str, Step]:
        """Return what its loops do, by kind."""
        raise NotImplementedError

    def loops(self, service: S) -> Sequence[Coroutine[Any, Any, None]]:
        """Return its other loops."""
        return []

    def users(self) -> Sequence[Coroutine[Any, Any, None]]:
        """Return what users do; it ends."""
        raise NotImplementedError

    def others(self) -> Sequence[Coroutine[Any, Any, None]]:
        """Return what else goes on, without end."""
        return []

    async def look(self) -> None:
        """Hold what can be seen now against what must hold always."""

    async def is_at_rest(self) -> bool:
        """Whether nothing will happen any more."""
        raise NotImplementedError

    async def states(self) -> Mapping[str, str]:
        """Return in which state everything has ended, by name."""
        raise NotImplementedError

    async def wrong(self) -> list[str]:
        """Return what is wrong at the end."""
        raise NotImplementedError

    # The play.

    async def play(self) -> Outcome:
        """Play to the end and look."""
        await self.prepare()
        replicas = [asyncio.create_task(self._replica(number)) for number in range(REPLICAS)]
        users = [asyncio.create_task(user) for user in self.users()]
        trouble = asyncio.create_task(self.chaos.begin_outages(self.ports, CHAOS_S))
        endless = [asyncio.create_task(one) for one in (self._watch(), self._freeze_programs(), *self.others())]
        await asyncio.sleep(CHAOS_S)
        await trouble
        self.chaos.calm()
        await asyncio.gather(*users)
        end_s = self.loop.time() + SETTLE_S
        while not await self.is_at_rest() and self.loop.time() < end_s:
            await asyncio.sleep(5 * LOOK_S)
        await self.look()
        for task in (*replicas, *endless):
            task.cancel()
        for ended in await asyncio.gather(*replicas, *endless, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        violations = [*self.chaos.violations, *await self.wrong()]
        return Outcome(self.seed, violations, self.chaos.history, await self.states(), self.counts)

    async def _replica(self, number: int) -> None:
        """Run a program, again and again."""
        for life in range(1_000_000):
            program = Program(f"replica-{number}.{life}", self.chaos)
            service = self.service(program)
            database = self.seen_by(program, self._twin(), "database")
            reconcilers = [
                Reconciler(
                    database,
                    kind,
                    self._checked(step),
                    clock=self.loop.clock,
                    lease_s=LEASE_S,
                    idle_s=IDLE_S,
                    metrics=self._metrics,
                )
                for kind, step in self.steps(service).items()
            ]
            self._programs[number] = (program, service)
            program.task = asyncio.ensure_future(asyncio.gather(*(one.run() for one in reconcilers), *self.loops(service)))
            try:
                ended = (await asyncio.gather(program.task, return_exceptions=True))[0]
                if isinstance(ended, Exception):
                    raise ended
            finally:
                program.task.cancel()
            self.counts["programs killed"] += 1
            await asyncio.sleep(self.chaos.dice.uniform(0.5, 10))

    def _twin(self) -> Database:
        return self.database.twin() if isinstance(self.database, MemoryDatabase) else self.database

    def _checked(self, step: Step) -> Step:
        """A step may find that something is away or was changed; anything else would be tried again for ever."""

        async def checked(record: Record) -> Change:
            try:
                return await step(record)
            except (errors.Unavailable, errors.Conflict):
                raise
            except Exception as error:
                self.chaos.object(f"a look at {record.name} raised {error!r}")
                raise

        return checked

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S if self.launcher.running() else 10 * LOOK_S)
            await self.look()

    async def _freeze_programs(self) -> None:
        dice = self.chaos.dice
        while True:
            await asyncio.sleep(dice.uniform(5, CHAOS_S))
            if self.chaos.happens(self.chaos.odds.stopped):
                program, _ = self._programs[dice.randrange(REPLICAS)]
                program.freeze(dice.uniform(LEASE_S, 4 * LEASE_S))

    def seen_by(self, program: Program, port: Any, label: str) -> Any:
        """Return a port as a program sees it."""
        return as_seen_by(program, port, label)

    async def unreliable_node(self, launcher: SimulatedLauncher) -> None:
        """Take workers away now and then: with a word of warning, or without."""
        dice = self.chaos.dice
        while True:
            await asyncio.sleep(dice.uniform(3, 25))
            alive = launcher.alive()
            if alive and self.chaos.odds.death and self.chaos.happens(0.5):
                key = dice.choice(alive)
                if self.chaos.happens(0.5):
                    await launcher.stop(key)
                else:
                    launcher.kill(key)

    async def until_running(self, owner: str) -> None:
        """Wait until a worker is at work for somebody, for a while, and a little longer."""
        for _ in range(100):
            if any(run.owner == owner for run in self.launcher.running()):
                break
            await asyncio.sleep(1)
        await asyncio.sleep(self.chaos.dice.uniform(0, 5))

    # Calls over a wire.

    async def heard(self, call: Callable[[S], Coroutine[Any, Any, Any]]) -> Any:
        """Call a replica. When it dies under the call, or its answer is lost, the caller hears Unavailable.

        Now and then a call arrives twice: whoever sends again after a lost answer may be heard both times.
        """
        await asyncio.sleep(0.01)
        living = [service for program, service in self._programs.values() if not program.is_dead]
        if not living:
            raise errors.Unavailable("No replica is there.", reason="UNREACHABLE")
        calls = [self._once(call, self.chaos.dice.choice(living))]
        if self.chaos.happens(self.chaos.odds.lost_answer):
            calls.append(self._once(call, self.chaos.dice.choice(living)))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        if self.chaos.happens(self.chaos.odds.lost_answer):
            raise errors.Unavailable("The answer was lost.", reason="UNREACHABLE")
        answer = answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @staticmethod
    async def _once(call: Callable[[S], Coroutine[Any, Any, Any]], service: S) -> Any:
        task = asyncio.ensure_future(call(service))
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
        if task.cancelled():
            raise errors.Unavailable("The replica is gone.", reason="UNREACHABLE")
        return task.result()

    async def insist(self, call: Callable[[S], Coroutine[Any, Any, Any]]) -> Any:
        """Call until somebody has answered."""
        while True:
            try:
                return await self.heard(call)
            except (errors.Unavailable, errors.Conflict):
                await asyncio.sleep(1)

    async def report(
        self,
        verb: Callable[[S, str, int, str, int, Sequence[NewEvent]], Coroutine[Any, Any, bool]],
        is_over: Callable[[str, int], Awaitable[bool]],
        should_stop: Callable[[str], Awaitable[bool]],
        name: str,
        attempt: int,
        token: str,
        first: int,
        events: Sequence[NewEvent],
    ) -> bool:
        """Report for a worker, and see that it is refused if and only if its attempt is over, and told to stop when it should."""
        numbers = {(name, attempt, first + i) for i in range(len(events))}
        was_over, had_to_stop = await is_over(name, attempt), await should_stop(name)
        try:
            asked = bool(await self.heard(lambda service: verb(service, name, attempt, token, first, events)))
        except errors.Unauthenticated as error:
            if not await is_over(name, attempt):
                self.chaos.object(f"attempt {attempt} of {name} is refused: {error.message}")
            raise
        if was_over:
            self.chaos.object(f"attempt {attempt} of {name} is over and may still report")
        if had_to_stop and not asked and await should_stop(name) and not await is_over(name, attempt):
            self.chaos.object(f"attempt {attempt} of {name} is not told to stop")
        self._confirmed |= numbers
        return asked

    async def wrong_with_events_of(self, kind: str, name: str, type: str) -> list[str]:
        """Return what is wrong with a history: reports that were answered and are not there once, or gaps in its numbers."""
        events = await self.database.events(kind, name, limit=10_000)
        told = Counter((name, event.data["attempt"], event.data["number"]) for event in events if event.type == type)
        wrong = [f"{name} was told {one[1:]} {times} times" for one, times in told.items() if times > 1]
        due = {one for one in self._confirmed if one[0] == name}
        wrong += [f"{name} was told {one[1:]} and has forgotten it" for one in sorted(due - told.keys())]
        if [event.sequence for event in events] != list(range(1, len(events) + 1)):
            wrong.append(f"{name} has gaps in its events")
        return wrong

    async def wrong_with_moves_of(
        self, kind: str, name: str, state: str, first: str, moves: Mapping[str, Sequence[str]]
    ) -> list[str]:
        """Return what is wrong with the states that a history tells: moves that are none, or another end."""
        events = await self.database.events(kind, name, limit=10_000)
        told = {"STATE_CHANGED": lambda data: data["state"], "ATTEMPT_ENDED": lambda data: "PENDING"}
        states = [told[event.type](event.data) for event in events if event.type in told]
        wrong = [f"{name} became {to} from {at}" for at, to in itertools.pairwise(states) if to not in moves[at]]
        if states[0] != first or states[-1] != state:
            wrong.append(f"{name} is {state} and says {states}")
        return wrong
