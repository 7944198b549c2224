"""One schedule of fine-tuning jobs: two trainers on one database, users, workers, and everything that can go wrong.

What has to hold at the end of every schedule, whatever the dice showed:

- a job that was answered for exists, once for each request, and has ended or waits for its user (no job lost or stuck);
- it ended as it was allowed to: CANCELLED only if somebody asked, FAILED only after as many crashes as end a job;
- a job that succeeded has one Model, and its manifest holds the weights of straight training, step for step;
- and its model was compared with its base once, and has one verdict, told once;
- what a worker told is in the job's events at most once, numbered without gaps;
- no worker is left, and workers of one job were never long at work beside one another.

Time is virtual. After `CHAOS_S` nothing goes wrong any more, and what is not at rest by `END_S` is stuck.
"""

import asyncio
import collections
import functools
import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common import errors
from services.common.backends.database.sql import SqlDatabase
from services.common.ports.database import NewEvent
from services.common.ports.manifest import Manifest, ManifestFile
from services.common.reconcile import Reconciler
from services.trainer import token_count, use_cases
from services.trainer.attempts import reconcile_job
from services.trainer.job import KIND, MAX_CRASHES, Job
from services.trainer.token_counts import reconcile_count
from services.trainer.use_cases import Trainer
from tests.fakes import MemoryObjectStore
from tests.simulation.chaos import CALM, LEASE_S, Chaos, Odds, Program, as_seen_by
from tests.simulation.virtual_time import VirtualLoop
from tests.simulation.workloads import STEPS, SimulatedLauncher, weights_after

CHAOS_S = 180.0
END_S = 3600.0
LOOK_S = 5.0
MAX_OVERLAP_S = 3.0  # a forgotten attempt learns at its next report, one every step, that it is over
REPLICAS = 2
FILE = "projects/default/files/file-1"
DATASET = "projects/default/datasets/ds-1"
BASE = "manifests/bases/b.json"


@dataclass
class Outcome:
    """What a schedule came to: what is wrong with it, what happened, and how much of it."""

    seed: int
    violations: list[str]
    history: list[str]
    states: Mapping[str, str]
    death_count: int
    launch_count: int


@dataclass
class Registry:
    """dataset, inference and evaluator as far as a trainer sees them; what has a digest or a request id is made once."""

    chaos: Chaos
    store: MemoryObjectStore
    models: dict[str, set[str]] = field(default_factory=dict)
    evaluations: dict[str, str] = field(default_factory=dict)  # by request id

    async def finalize(self, file: str, split: Mapping[str, Any], validation_file: str) -> str:
        return DATASET

    async def dataset(self, name: str) -> dict[str, Any]:
        part = {"key": "datasets/x", "size_bytes": 1, "sha256": "0" * 64, "row_count": 800}
        return {
            "name": name,
            "digest": "d" * 64,
            "train": part,
            "validation": None,
            "test": part,
            "row_count": 800,
            "warnings": [],
        }

    async def file_exists(self, name: str) -> None:
        return None

    async def base(self, public_id: str) -> dict[str, Any]:
        return {"manifest_key": BASE, "digest": "b" * 64, "name": "models/b", "public_id": public_id}

    async def register(self, project: str, manifest_key: str, suffix: str, step: int = 0) -> tuple[str, str]:
        manifest = Manifest.from_json(self.store.read(manifest_key))
        self.models.setdefault(manifest.data["job"], set()).add(manifest.digest)
        return f"projects/default/models/{manifest.digest}", f"ft:tiny:default::{manifest.digest[:8]}"

    async def keep_results(self, project: str, display_name: str, content: bytes, request_id: str) -> str:
        return f"projects/{project}/files/{request_id.replace('/', '-')}"

    async def prove(self, model: str) -> dict[str, Any]:
        if self.chaos.happens(0.3):
            raise errors.Unavailable("No server has it yet.", reason="MODEL_NOT_READY")
        return {"mean_difference": 0.05}

    async def suite(self, name: str) -> None:
        return None

    async def default_suite(self, project: str, dataset: str) -> str:
        return f"projects/{project}/suites/default"

    async def begin_evaluation(
        self, project: str, suite: str, subjects: Mapping[str, Sequence[str]], request_id: str
    ) -> dict[str, Any]:
        name = self.evaluations.setdefault(request_id, f"projects/{project}/evaluations/{len(self.evaluations)}")
        return {"name": name, "question_count": 160}

    async def evaluation(self, name: str) -> dict[str, Any]:
        has_ended = self.chaos.happens(0.3)
        return {"state": "SUCCEEDED" if has_ended else "RUNNING", "has_ended": has_ended, "error": ""}

    async def judge(self, model: str, evaluation: str) -> dict[str, Any]:
        return {"answer": "BETTER", "sentence": "Better.", "evaluation": evaluation, "items_needed": 0}


class Schedule:
    """The world of one seed."""

    def __init__(self, seed: int, loop: VirtualLoop, odds: Odds) -> None:
        random.seed(seed)
        self.seed, self.loop = seed, loop
        self.chaos = Chaos(random.Random(seed), odds)
        self.store = MemoryObjectStore()
        self.database = SqlDatabase("sqlite://", loop.clock)
        self.launcher = SimulatedLauncher(self.chaos, self.store, self._report)
        self.registry = Registry(self.chaos, self.store)
        self.trainers: list[tuple[Program, Trainer]] = []
        self.created: dict[str, str] = {}
        self.cancelled: set[str] = set()
        self.overlap_s: collections.Counter[str] = collections.Counter()
        self.afterwards_s: collections.Counter[str] = collections.Counter()
        self.deaths = 0

    async def play(self) -> Outcome:
        """Play to the end and look."""
        self._build_base()
        replicas = [asyncio.create_task(self._replica(number)) for number in range(REPLICAS)]
        users = [asyncio.create_task(self._user(number)) for number in range(self.chaos.dice.randint(1, 3))]
        watch = asyncio.create_task(self._watch_workers())
        node = asyncio.create_task(self._unreliable_node())
        await asyncio.sleep(CHAOS_S)
        self.chaos.odds = CALM
        self.chaos.note("from here on nothing goes wrong")
        await asyncio.gather(*users)
        await self._until_at_rest()
        for task in (*replicas, watch, node):
            task.cancel()
        await asyncio.gather(*replicas, watch, node, return_exceptions=True)
        return await self._outcome()

    def _build_base(self) -> None:
        config = json.dumps({"hidden_size": 64, "architectures": ["LlamaForCausalLM"]}).encode()
        placed = ManifestFile("config.json", self.store.put("bases", io.BytesIO(config)))
        self.store.commit(BASE, Manifest("base", (placed,), {}).to_json())

    async def _replica(self, number: int) -> None:
        """Run a trainer, again and again."""
        for life in range(1_000_000):
            program = Program(f"trainer-{number}.{life}", self.chaos)
            trainer = Trainer(
                database=as_seen_by(program, self.database, "database"),
                store=as_seen_by(program, self.store, "store"),
                launcher=as_seen_by(program, self.launcher, "launcher"),
                peers=as_seen_by(program, self.registry, "peers"),
                worker_environment={},
            )
            steps = {KIND: reconcile_job, token_count.KIND: reconcile_count}
            loops = [
                Reconciler(trainer.database, kind, functools.partial(step, trainer), clock=self.loop.clock, lease_s=LEASE_S)
                for kind, step in steps.items()
            ]
            self.trainers.append((program, trainer))
            program.task = asyncio.ensure_future(asyncio.gather(*(loop.run() for loop in loops)))
            try:
                await asyncio.gather(program.task, return_exceptions=True)
            finally:
                program.task.cancel()
            self.deaths += 1
            await asyncio.sleep(self.chaos.dice.uniform(0.5, 10))

    def _living(self) -> Trainer:
        living = [trainer for program, trainer in self.trainers[-2 * REPLICAS :] if not program.is_dead]
        if not living:
            raise errors.Unavailable("No trainer is there.", reason="UNREACHABLE")
        return self.chaos.dice.choice(living)

    async def _report(self, job: str, attempt: int, token: str, number: int, events: list[NewEvent]) -> bool:
        await asyncio.sleep(0.01)
        return bool(await self._heard(lambda trainer: use_cases.report_progress(trainer, job, attempt, token, number, events)))

    async def _heard(self, call: Any) -> Any:
        """Call a trainer over a wire: when it dies under the call, the caller hears Unavailable."""
        trainer = self._living()
        task = asyncio.ensure_future(call(trainer))
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
        if task.cancelled():
            raise errors.Unavailable("The trainer is gone.", reason="UNREACHABLE")
        return task.result()

    async def _user(self, number: int) -> None:
        """Create a job, and perhaps change one's mind."""
        dice = self.chaos.dice
        await asyncio.sleep(dice.uniform(0, 60))
        asked = Job(name="", base_model="tiny", training_file=FILE)
        name = await self._insist(lambda t: use_cases.create_job(t, "projects/default", asked, f"request-{number}"))
        self.created[f"request-{number}"] = name.name
        for _ in range(dice.randint(0, 4)):
            await asyncio.sleep(dice.choice([dice.uniform(0, 1), dice.uniform(0, 30)]))
            await self._wish(name.name, dice.choice(["pause", "pause", "resume", "resume", "cancel"]))
        await self._wish(name.name, "resume")

    async def _wish(self, name: str, verb: str) -> None:
        self.chaos.note(f"a user wants {verb}")
        if verb == "cancel":
            self.cancelled.add(name)
        call = {"pause": use_cases.pause_job, "resume": use_cases.resume_job, "cancel": use_cases.cancel_job}[verb]
        try:
            await self._insist(lambda trainer: call(trainer, name))
        except errors.WrongState as error:
            self.chaos.note(f"but: {error.message}")

    async def _insist(self, call: Any) -> Any:
        while True:
            try:
                return await self._heard(call)
            except (errors.Unavailable, errors.Conflict):
                await asyncio.sleep(1)

    async def _unreliable_node(self) -> None:
        """Take workers away now and then: with a word of warning, or without."""
        dice = self.chaos.dice
        while True:
            await asyncio.sleep(dice.uniform(10, 60))
            alive = self.launcher.alive()
            if alive and self.chaos.odds.death and self.chaos.happens(0.5):
                key = dice.choice(alive)
                if self.chaos.happens(0.5):
                    await self.launcher.stop(key)
                else:
                    self.launcher.kill(key)

    async def _watch_workers(self) -> None:
        """Measure for how long a job has had two workers at work, and for how long one that had ended."""
        while True:
            await asyncio.sleep(1)
            running = [k.rpartition("-")[0] for k, seen in self.launcher.observations.items() if seen.state == "RUNNING"]
            self.overlap_s.update({job for job in running if running.count(job) > 1})
            ended = {job.id for job in await self._jobs() if job.has_ended}
            self.afterwards_s.update(ended & set(running))

    async def _until_at_rest(self) -> None:
        while self.loop.time() < END_S:
            jobs = await self._jobs()
            if all(job.has_ended and not job.awaits_verdict for job in jobs) and not self.launcher.alive():
                return
            await asyncio.sleep(LOOK_S)

    async def _jobs(self) -> list[Job]:
        records = await self.database.list(KIND, "projects/default/fineTuningJobs", limit=1000)
        return [Job.from_document(record.document) for record in records]

    async def _outcome(self) -> Outcome:
        jobs = await self._jobs()
        violations = [text for job in jobs for text in self._wrong_with(job)]
        names = {job.name for job in jobs}
        violations += [f"{name} is lost" for name in self.created.values() if name not in names]
        if len(jobs) != len(self.created):
            violations.append(f"{len(jobs)} jobs for {len(self.created)} requests")
        for job in jobs:
            violations += await self._wrong_with_events_of(job)
        violations += [f"{key} still runs" for key in self.launcher.alive()]
        violations += [f"{job} had two workers for {s:g} s" for job, s in self.overlap_s.items() if s > MAX_OVERLAP_S]
        violations += [f"{job} had a worker {s:g} s after its end" for job, s in self.afterwards_s.items() if s > MAX_OVERLAP_S]
        states = {job.name: job.state for job in jobs}
        return Outcome(self.seed, violations, self.chaos.history, states, self.deaths, len(self.launcher.launches))

    async def _wrong_with_events_of(self, job: Job) -> list[str]:
        events = await self.database.events(KIND, job.name, limit=10_000)
        told = [(event.data["attempt"], event.data["step"]) for event in events if event.type == "STEP"]
        wrong = [f"{job.id} was told {step} {told.count(step)} times" for step in set(told) if told.count(step) > 1]
        if [event.sequence for event in events] != list(range(1, len(events) + 1)):
            wrong.append(f"{job.id} has gaps in its events")
        verdicts = [event.type for event in events].count("VERDICT")
        if verdicts != (job.state == "SUCCEEDED"):
            wrong.append(f"{job.id} is {job.state} and was told {verdicts} verdicts")
        return wrong

    def _wrong_with(self, job: Job) -> list[str]:
        wrong = []
        crashes = self.launcher.crash_counts.get(job.id, 0)
        models = self.registry.models.get(job.name, set())
        if not job.has_ended:
            wrong.append(f"{job.id} is stuck as {job.state}")
        if job.state == "CANCELLED" and job.name not in self.cancelled:
            wrong.append(f"{job.id} was cancelled by nobody")
        crashes = max(crashes, self.launcher.crash_counts.get(job.token_count.rpartition("/")[2], 0))
        if job.state == "FAILED" and crashes < MAX_CRASHES:
            wrong.append(f"{job.id} failed after {crashes} crashes: {job.error.get('message')}")
        if job.state == "SUCCEEDED" and len(models) != 1:
            wrong.append(f"{job.id} succeeded with {len(models)} models")
        if job.state == "SUCCEEDED" and job.verdict.get("evaluation") != self.registry.evaluations.get(f"verdict-{job.id}"):
            wrong.append(f"{job.id} has no verdict, or that of another evaluation")
        if models:
            manifest = Manifest.from_json(self.store.read(job.manifest_key))
            if models != {manifest.digest}:
                wrong.append(f"{job.id} has a model that its manifest does not describe")
            if self.store.read(manifest.file("adapter").key).decode() != weights_after(STEPS):
                wrong.append(f"{job.id} has other weights than straight training gives")
        return wrong
