"""A launcher whose workers live in virtual time, and what all workers have in common.

A worker here does with the store and its service what the real one does, in the same order, and nothing with numbers. It
may crash between any two calls, hang for ever, or be taken away by its node, with a word of warning or without.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common.attempts import EXITS_STOPPED
from services.common.errors import Conflict, Unauthenticated, Unavailable
from services.common.ports.database import NewEvent
from services.common.ports.launcher import Launcher, LaunchManifest, Observation, Workload, WorkloadState
from services.common.ports.object_store import ObjectStore
from tests.simulation.chaos import Chaos

GRACE_S = 10.0
WAITING = Observation(WorkloadState.PENDING, position=1, message="It waits.")
Report = Callable[[str, int, str, int, Sequence[NewEvent]], Awaitable[bool]]


@dataclass
class Run:
    """One workload that was launched, and how it stands."""

    key: str
    module: str
    environment: dict[str, str]
    seen: Observation = WAITING
    termination: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    is_cut_off: bool = False  # it left without what it had done since its last checkpoint

    @property
    def owner(self) -> str:
        """The id of the resource that it works for."""
        return self.key.rpartition("-")[0]

    @property
    def number(self) -> int:
        """Which attempt it is."""
        return int(self.key.rpartition("-")[2])


Work = Callable[[Run], Coroutine[Any, Any, int]]


class SimulatedLauncher(Launcher):
    """Runs so many jobs at a time; the others wait. It outlives every program, as a cluster does.

    It watches over what nobody may ever do: launch a number twice or leave one out, or run two workers for one resource.
    """

    def __init__(
        self, chaos: Chaos, works: Mapping[str, Work], places: int = 2, *, numbers_may_be_left_out: bool = False
    ) -> None:
        self._chaos, self._works = chaos, works
        self._places = asyncio.Semaphore(places)
        self._numbers_may_be_left_out = numbers_may_be_left_out
        self.runs: dict[str, Run] = {}
        self.launch_counts: Counter[str] = Counter()
        self.crash_counts: Counter[str] = Counter()
        self.stop_counts: Counter[str] = Counter()  # of those that left with all that they had done
        self.saved_step: Callable[[str], int] = lambda owner: 0  # of an owner's newest checkpoint
        self.crashes_in_a_row: Counter[str] = Counter()  # with no step saved between
        self.most_in_a_row: Counter[str] = Counter()
        self._last_saved: Counter[str] = Counter()

    def plan(self, workload: Workload) -> LaunchManifest:
        environment, module = dict(workload.environment), workload.command[2]
        return {"key": workload.key, "kind": workload.kind, "module": module, "environment": environment}

    async def launch(self, manifest: LaunchManifest) -> None:
        key = manifest["key"]
        if key in self.runs:
            return
        run = self.runs[key] = Run(key, manifest["module"], manifest["environment"])
        self.launch_counts[run.owner] += 1
        if run.number != self.launch_counts[run.owner] and not self._numbers_may_be_left_out:
            self._chaos.object(f"{key} is launch {self.launch_counts[run.owner]}")
        places = self._places if manifest["kind"] == "job" else contextlib.nullcontext()
        run.task = asyncio.create_task(self._live(run, places))

    async def observe(self, key: str) -> Observation:
        return self.runs[key].seen if key in self.runs else Observation(WorkloadState.GONE)

    async def stop(self, key: str) -> None:
        run = self.runs.get(key)
        if run is not None and not run.seen.has_ended and not run.termination.is_set():
            self._chaos.note(f"{key} is told to leave")
            run.termination.set()
            asyncio.get_running_loop().call_later(GRACE_S, self.kill, key)

    async def logs(self, key: str, after: int = 0) -> tuple[bytes, int]:
        return b"", after

    def kill(self, key: str) -> None:
        """End a workload between two instructions."""
        run = self.runs[key]
        if not run.seen.has_ended and run.task is not None:
            run.task.cancel()

    def alive(self) -> list[str]:
        """Return the workloads that run or wait."""
        return [key for key, run in self.runs.items() if not run.seen.has_ended]

    def running(self) -> list[Run]:
        """Return the workloads that run."""
        return [run for run in self.runs.values() if run.seen.state == WorkloadState.RUNNING]

    def is_newest(self, run: Run) -> bool:
        """Whether nothing was launched after it for its resource."""
        return run.number == self.launch_counts[run.owner]

    async def _live(self, run: Run, places: Any) -> None:
        exit_code = 137
        try:
            async with places:
                if run.termination.is_set():
                    exit_code = 143
                    return
                if others := [other.key for other in self.running() if other.owner == run.owner]:
                    self._chaos.object(f"{run.key} runs beside {others}")
                run.seen = Observation(WorkloadState.RUNNING)
                self._chaos.note(f"{run.key} runs")
                exit_code = await self._works[run.module](run)
        except asyncio.CancelledError:
            pass  # killed
        finally:
            self._end(run, exit_code)

    def _end(self, run: Run, exit_code: int) -> None:
        if (saved := self.saved_step(run.owner)) > self._last_saved[run.owner]:
            self._last_saved[run.owner], self.crashes_in_a_row[run.owner] = saved, 0
        if exit_code in EXITS_STOPPED:
            self.stop_counts[run.owner] += not run.is_cut_off
        elif exit_code:
            self.crash_counts[run.owner] += 1
            self.crashes_in_a_row[run.owner] += 1
            self.most_in_a_row[run.owner] = max(self.most_in_a_row[run.owner], self.crashes_in_a_row[run.owner])
        state = WorkloadState.SUCCEEDED if exit_code == 0 else WorkloadState.FAILED
        run.seen = Observation(state, exit_code, f"It ended with {exit_code}.")
        self._chaos.note(f"{run.key} ends with {exit_code}")


class Crashed(Exception):
    """The worker died by itself."""


class Worker:
    """One attempt, as its process: what every worker does, whatever it works on."""

    exit_when_cut_off = 1

    def __init__(self, chaos: Chaos, store: ObjectStore, report: Report, run: Run) -> None:
        self.chaos, self.store, self.run = chaos, store, run
        self._report, self._token = report, run.environment["AFINA_ATTEMPT_TOKEN"]
        self._events: list[NewEvent] = []
        self._first_number = 0  # of the oldest event that nobody has confirmed
        self.is_stop_requested = False

    async def live(self) -> int:
        """Work to the manifest and return the exit code."""
        try:
            return await self.work()
        except Unavailable:
            self.run.is_cut_off = True
            return self.exit_when_cut_off
        except (Crashed, Unauthenticated):
            return 1  # the last: a later attempt has taken over

    async def work(self) -> int:
        """Do what this worker is for."""
        raise NotImplementedError

    @property
    def should_leave(self) -> bool:
        """Whether it was told to leave, by its node or by its service."""
        return self.is_stop_requested or self.run.termination.is_set()

    async def pass_time(self, s: float) -> None:
        """Work for a while, and perhaps hang there, deaf and silent, until somebody ends it."""
        await asyncio.sleep(s)
        if self.chaos.happens(self.chaos.odds.death / 4):
            self.chaos.note(f"{self.run.key} hangs")
            await asyncio.Event().wait()

    async def tell(self, resource: str, event: NewEvent) -> None:
        """Report an event with all that nobody has confirmed; a service that is away hears of it next time."""
        self._events.append(event)
        batch = list(self._events)
        with contextlib.suppress(Unavailable, Conflict):
            asked = await self._report(resource, self.run.number, self._token, self._first_number, batch)
            self.is_stop_requested = self.is_stop_requested or asked
            del self._events[: len(batch)]
            self._first_number += len(batch)

    async def call(self, verb: Callable[..., Any], *args: Any) -> Any:
        """Use the store, again where it does not answer, as a backend does; the worker may die before and after."""
        for _ in range(20):
            self.may_crash()
            try:
                self.chaos.require_there("store")
                if self.chaos.happens(self.chaos.odds.lost_call):
                    raise Unavailable("The store is away.")
                found = verb(*args)
                if self.chaos.happens(self.chaos.odds.lost_answer):
                    raise Unavailable("The store's answer was lost.")
            except Unavailable:
                await asyncio.sleep(0.5)
                continue
            self.may_crash()
            return found
        raise Unavailable("The store stays away.")

    def may_crash(self) -> None:
        """Die here, perhaps."""
        if self.chaos.happens(self.chaos.odds.death / 2):
            raise Crashed
