"""A training worker in virtual time: a chain of digests for weights, checkpoints and a manifest as the real ones.

The weights of step n are the digest of those of step n-1, so a step that was left out, repeated or taken from somebody
else shows in the result.
"""

import hashlib
import io
import json
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from services.common.errors import ArtifactNotFound
from services.common.ports.database import NewEvent
from services.common.ports.manifest import Manifest, ManifestFile
from services.common.ports.object_store import Artifact
from tests.simulation.workloads import Crashed, Worker

STEPS = 20
STEP_S = 0.5
CHECKPOINT_STEPS = 5


def weights_after(steps: int, seed: str) -> str:
    """Return what straight training of a job gives."""
    weights = seed
    for step in range(steps):
        weights = hashlib.sha256(f"{weights}/{step}".encode()).hexdigest()
    return weights


@dataclass(frozen=True)
class Fate:
    """What is certain about a job from the beginning, whatever else happens."""

    validation_loss: float  # of its model
    is_cursed: bool  # its workers crash at the same step each time
    is_wrong: bool  # no server will ever answer as its model does


class Fates:
    """The fates of a schedule's jobs, drawn as they are first asked for: names are random, and the schedule must not be."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(f"fates of {seed}")
        self._fates: dict[str, Fate] = {}

    def of(self, job: str) -> Fate:
        """Return a job's fate."""
        if job not in self._fates:
            self._fates[job] = Fate(self._dice.random(), self._dice.random() < 0.07, self._dice.random() < 0.07)
        return self._fates[job]


class TrainingWorker(Worker):
    """Trains, saves a checkpoint every few steps, and publishes."""

    exit_when_cut_off = 75
    steps_done: Counter[str]
    fates: Fates

    async def work(self) -> int:
        spec = json.loads(await self.call(self.store.read, self.run.environment["AFINA_SPEC"]))
        job, result = spec["job"], spec["result"]
        if spec["attempt"] != self.run.number:
            self.chaos.object(f"{self.run.key} is told that it is attempt {spec['attempt']}")
        with suppress(ArtifactNotFound):
            await self.call(self.store.head, result["manifest_key"])
            return 0
        step, weights = await self._newest(job, result["checkpoint_prefix"])
        while step < STEPS:
            await self.pass_time(STEP_S)
            if self.fates.of(job).is_cursed and step == 7:
                raise Crashed
            weights = hashlib.sha256(f"{weights}/{step}".encode()).hexdigest()
            step += 1
            self.steps_done[self.run.owner] += 1
            number = self._first_number + len(self._events)
            data = {"step": step, "total_steps": STEPS, "attempt": self.run.number, "number": number}
            await self.tell(job, NewEvent("STEP", f"Step {step}.", data=data))
            if self.should_leave:
                await self._save(result["checkpoint_prefix"], step, weights)
                return 75
            if step % CHECKPOINT_STEPS == 0:
                await self._save(result["checkpoint_prefix"], step, weights)
        await self._publish(job, spec, weights)
        return 0

    async def _publish(self, job: str, spec: dict[str, Any], weights: str) -> None:
        artifact: Artifact = await self.call(lambda: self.store.put(spec["result"]["prefix"], io.BytesIO(weights.encode())))
        validation = [{"step": STEPS, "loss": self.fates.of(job).validation_loss}] if spec["dataset"]["validation"] else []
        data = {
            "job": job, "attempt": spec["attempt"], "metrics": [], "published_checkpoints": [],
            "validation": validation, "best_step": STEPS,
        }  # fmt: skip
        manifest = Manifest("adapter", (ManifestFile("adapter", artifact),), data)
        await self.call(self.store.commit, spec["result"]["manifest_key"], manifest.to_json())

    async def _newest(self, job: str, prefix: str) -> tuple[int, str]:
        keys = sorted(await self.call(lambda: list(self.store.list(f"{prefix}/"))))
        if not keys:
            return 0, job
        state = json.loads(await self.call(self.store.read, keys[-1]))
        return state["step"], state["weights"]

    async def _save(self, prefix: str, step: int, weights: str) -> None:
        document = json.dumps({"step": step, "weights": weights}).encode()
        await self.call(self.store.commit, f"{prefix}/{step:08d}-{self.run.number:04d}.json", document)
