"""A launcher whose workers train in virtual time: a chain of digests for weights, checkpoints and a manifest as real ones.

A worker here does with the store and the trainer what `services/trainer/worker` does, in the same order, and nothing
with numbers: the weights of step n are the digest of those of step n-1, so a step that was left out, repeated or taken
from somebody else shows in the result.
"""

import asyncio
import contextlib
import hashlib
import io
import json
from collections.abc import Awaitable, Callable
from typing import Any

from services.common.errors import ArtifactNotFound, Unauthenticated, Unavailable
from services.common.ports.database import NewEvent
from services.common.ports.launcher import Launcher, LaunchManifest, Observation, Workload, WorkloadState
from services.common.ports.manifest import Manifest, ManifestFile
from services.common.ports.object_store import Artifact, ObjectStore
from tests.simulation.chaos import Chaos

STEPS = 20
STEP_S = 0.5
CHECKPOINT_STEPS = 5
GRACE_S = 10.0
Report = Callable[[str, int, str, int, list[NewEvent]], Awaitable[bool]]


def weights_after(steps: int) -> str:
    """Return what straight training gives."""
    weights = "initial"
    for step in range(steps):
        weights = hashlib.sha256(f"{weights}/{step}".encode()).hexdigest()
    return weights


class SimulatedLauncher(Launcher):
    """Runs so many workers at a time; the others wait. It outlives every program, as a cluster does."""

    def __init__(self, chaos: Chaos, store: ObjectStore, report: Report, places: int = 2) -> None:
        self._chaos, self._store, self._report = chaos, store, report
        self._places = asyncio.Semaphore(places)
        self.observations: dict[str, Observation] = {}
        self.launches: list[tuple[float, str]] = []
        self.crash_counts: dict[str, int] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._terminations: dict[str, asyncio.Event] = {}

    def plan(self, workload: Workload) -> LaunchManifest:
        return {"key": workload.key, "kind": workload.kind, "environment": dict(workload.environment)}

    async def launch(self, manifest: LaunchManifest) -> None:
        key = manifest["key"]
        if key in self.observations:
            return
        self.launches.append((asyncio.get_running_loop().time(), key))
        self.observations[key] = Observation(WorkloadState.PENDING, position=1, message="It waits.")
        self._terminations[key] = asyncio.Event()
        run = self._run_errand if manifest["kind"] == "errand" else self._run
        self._tasks[key] = asyncio.create_task(run(key, manifest["environment"]))

    async def observe(self, key: str) -> Observation:
        return self.observations.get(key, Observation(WorkloadState.GONE))

    async def stop(self, key: str) -> None:
        if key in self._terminations and not self.observations[key].has_ended:
            self._chaos.note(f"{key} is told to leave")
            self._terminations[key].set()
            asyncio.get_running_loop().call_later(GRACE_S, self.kill, key)

    async def logs(self, key: str, after: int = 0) -> tuple[bytes, int]:
        return b"", after

    def kill(self, key: str) -> None:
        """End a workload between two instructions."""
        if not self.observations[key].has_ended:
            self._tasks[key].cancel()

    def alive(self) -> list[str]:
        """Return the workloads that run or wait."""
        return [key for key, seen in self.observations.items() if not seen.has_ended]

    async def _run(self, key: str, environment: dict[str, str]) -> None:
        exit_code = 137
        try:
            async with self._places:
                if self._terminations[key].is_set():
                    exit_code = 143
                    return
                self.observations[key] = Observation(WorkloadState.RUNNING)
                self._chaos.note(f"{key} runs")
                exit_code = await Worker(self._chaos, self._store, self._report, environment, self._terminations[key]).work()
        except asyncio.CancelledError:
            pass  # killed
        finally:
            self._end(key, exit_code)

    async def _run_errand(self, key: str, environment: dict[str, str]) -> None:
        """Count tokens: a few seconds, beside the jobs; then the result is committed, or it has crashed."""
        exit_code = 137
        try:
            self.observations[key] = Observation(WorkloadState.RUNNING)
            await asyncio.sleep(self._chaos.dice.uniform(0.5, 5))
            if not self._chaos.happens(self._chaos.odds.death * 5):
                spec = json.loads(self._store.read(environment["AFINA_SPEC"]))
                counted = {"train": {"lengths": [20] * 800, "trained_token_count": 4000}}
                self._store.commit(spec["result_key"], json.dumps(counted).encode())
                exit_code = 0
        except asyncio.CancelledError:
            pass
        finally:
            self._end(key, exit_code)

    def _end(self, key: str, exit_code: int) -> None:
        if exit_code not in (0, 75, 143):
            owner = key.rpartition("-")[0]
            self.crash_counts[owner] = self.crash_counts.get(owner, 0) + 1
        state = WorkloadState.SUCCEEDED if exit_code == 0 else WorkloadState.FAILED
        self.observations[key] = Observation(state, exit_code, f"It ended with {exit_code}.")
        self._chaos.note(f"{key} ends with {exit_code}")


class _Crashed(Exception):
    """The worker died by itself."""


class Worker:
    """One attempt, as its process."""

    def __init__(
        self, chaos: Chaos, store: ObjectStore, report: Report, environment: dict[str, str], termination: asyncio.Event
    ) -> None:
        self._chaos, self._store, self._report, self._termination = chaos, store, report, termination
        self._token = environment["AFINA_ATTEMPT_TOKEN"]
        self._spec_key = environment["AFINA_SPEC"]
        self._events: list[NewEvent] = []
        self._first_number = 0  # of the oldest event that nobody has confirmed
        self._is_stop_requested = False

    async def work(self) -> int:
        """Train to the manifest and return the exit code."""
        try:
            return await self._work()
        except (_Crashed, Unavailable):
            return 1
        except Unauthenticated:
            return 1  # a later attempt has taken over

    async def _work(self) -> int:
        self._spec = json.loads(await self._call(self._store.read, self._spec_key))
        result = self._spec["result"]
        with contextlib.suppress(ArtifactNotFound):
            await self._call(self._store.head, result["manifest_key"])
            return 0
        step, weights = await self._newest(result["checkpoint_prefix"])
        while step < STEPS:
            await asyncio.sleep(STEP_S)
            weights = hashlib.sha256(f"{weights}/{step}".encode()).hexdigest()
            step += 1
            await self._tell(step)
            if self._is_stop_requested or self._termination.is_set():
                await self._save(result["checkpoint_prefix"], step, weights)
                return 75
            if step % CHECKPOINT_STEPS == 0:
                await self._save(result["checkpoint_prefix"], step, weights)
        artifact: Artifact = await self._call(lambda: self._store.put(result["prefix"], io.BytesIO(weights.encode())))
        data = {"job": self._spec["job"], "attempt": self._spec["attempt"], "metrics": [], "published_checkpoints": []}
        manifest = Manifest("adapter", (ManifestFile("adapter", artifact),), data)
        await self._call(self._store.commit, result["manifest_key"], manifest.to_json())
        return 0

    async def _newest(self, prefix: str) -> tuple[int, str]:
        keys = sorted(await self._call(lambda: list(self._store.list(f"{prefix}/"))))
        if not keys:
            return 0, "initial"
        state = json.loads(await self._call(self._store.read, keys[-1]))
        return state["step"], state["weights"]

    async def _save(self, prefix: str, step: int, weights: str) -> None:
        document = json.dumps({"step": step, "weights": weights}).encode()
        await self._call(self._store.commit, f"{prefix}/{step:08d}-{self._spec['attempt']:04d}.json", document)

    async def _tell(self, step: int) -> None:
        """Report a step, with all that nobody has confirmed; a trainer that is away hears of it next time."""
        event = NewEvent("STEP", f"Step {step}.", data={"step": step, "total_steps": STEPS, "attempt": self._spec["attempt"]})
        self._events.append(event)
        number, batch = self._first_number, list(self._events)
        with contextlib.suppress(Unavailable):
            asked = await self._report(self._spec["job"], self._spec["attempt"], self._token, number, batch)
            if self._chaos.happens(self._chaos.odds.lost_answer):
                raise Unavailable("The trainer's answer was lost.")
            self._is_stop_requested = self._is_stop_requested or asked
            del self._events[: len(batch)]
            self._first_number += len(batch)

    async def _call(self, verb: Callable[..., Any], *args: Any) -> Any:
        """Use the store, again where it does not answer, as a backend does; the worker may die before and after."""
        for _ in range(20):
            self._may_crash()
            try:
                if self._chaos.happens(self._chaos.odds.lost_call):
                    raise Unavailable("The store is away.")
                found = verb(*args)
                if self._chaos.happens(self._chaos.odds.lost_answer):
                    raise Unavailable("The store's answer was lost.")
            except Unavailable:
                await asyncio.sleep(0.5)
                continue
            self._may_crash()
            return found
        raise Unavailable("The store stays away.")

    def _may_crash(self) -> None:
        if self._chaos.happens(self._chaos.odds.death / 2):
            raise _Crashed
