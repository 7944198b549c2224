"""The trainer: fine-tuning jobs and sweeps of two projects, on two replicas.

What has to hold, at every moment where it can be seen at every moment (`workloads.py` and `world.py` hold more):

- one worker at a time works for a job; none long after its end, or while it is paused; the launches of a job are numbered
  1, 2, 3 …, and a number is given to one launch;
- its states follow one another as its noun allows; a cancelled job ends CANCELLED, a paused one waits;
- a job is FAILED only after as many crashes in a row as end a job, no step saved between, and after no more of them; or
  because its model is wrong;
- a job that succeeded has one Model in its own project, under one name, registered before its end, and the manifest that it
  is named by holds the weights of straight training; it is proven, where it is no member of a sweep;
- the model of a job whose dataset holds rows out is compared with its base once, and has one verdict, told once;
- at most one checkpoint interval is computed again for each worker that did not leave by itself;
- a sweep ends with the best of its members whose model is right, and with no member at work;
- a request is one job, in each project that made it.
"""

import asyncio
import functools
import io
import json
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common import errors
from services.common.names import last, project_of
from services.common.ports.manifest import Manifest, ManifestFile
from services.trainer import sweeps, token_count, use_cases
from services.trainer.attempts import reconcile_job
from services.trainer.job import KIND, MAX_CRASHES, MOVES, Job
from services.trainer.sweep import KIND as SWEEP_KIND
from services.trainer.sweep import Sweep
from services.trainer.sweeps import reconcile_sweep
from services.trainer.token_counts import reconcile_count
from services.trainer.use_cases import Trainer
from tests.simulation.chaos import Chaos, Odds, Program
from tests.simulation.training_worker import CHECKPOINT_STEPS, STEPS, Fates, TrainingWorker, weights_after
from tests.simulation.virtual_time import VirtualLoop
from tests.simulation.workloads import GRACE_S, Run, SimulatedLauncher
from tests.simulation.world import Step, World

SILENCE_LIMIT_S = 60.0
MAX_AFTERWARDS_S = GRACE_S + 3.0  # a forgotten worker is told to leave, or learns at its next report that it is over
PROJECTS = ("default", "other")
BASE = "manifests/bases/b.json"
PART = {"key": "datasets/x", "size_bytes": 1, "sha256": "0" * 64, "row_count": 800}


@dataclass
class Registry:
    """dataset, inference and evaluator as far as a trainer sees them; what has a digest or a request id is made once."""

    chaos: Chaos
    store: Any
    fates: Fates
    models: dict[str, set[tuple[str, str]]] = field(default_factory=dict)  # by job: names with their public ids
    proven: set[str] = field(default_factory=set)
    files: Counter[str] = field(default_factory=Counter)
    evaluations: dict[str, str] = field(default_factory=dict)  # by request id

    async def finalize(self, file: str, split: Mapping[str, Any], validation_file: str) -> str:
        return f"projects/{project_of(file)}/datasets/plain"

    async def dataset(self, name: str) -> dict[str, Any]:
        validation = PART if last(name) == "validated" else None
        rows = {"train": PART, "validation": validation, "test": validation, "row_count": 800}
        return {"name": name, "digest": last(name).ljust(64, "d"), "warnings": [], **rows}

    async def file_exists(self, name: str) -> None:
        return None

    async def base(self, public_id: str) -> dict[str, Any]:
        return {"manifest_key": BASE, "digest": "b" * 64, "name": "models/b", "public_id": public_id}

    async def register(self, project: str, manifest_key: str, suffix: str, step: int = 0) -> tuple[str, str]:
        manifest = Manifest.from_json(self.store.read(manifest_key))
        job = manifest.data["job"]
        if project != project_of(job):
            self.chaos.object(f"the model of {job} is registered in {project}")
        name = f"projects/{project}/models/{manifest.digest}"
        known = name, f"ft:tiny:{project}::{manifest.digest[:8]}"
        self.models.setdefault(job, set()).add(known)
        return known

    async def keep_results(self, project: str, display_name: str, content: bytes, request_id: str) -> str:
        self.files[f"projects/{project}/files/{request_id.replace('/', '-')}"] += 1
        return f"projects/{project}/files/{request_id.replace('/', '-')}"

    async def prove(self, model: str) -> dict[str, Any]:
        job = next(job for job, known in self.models.items() if model in {name for name, _ in known})
        if self.chaos.happens(0.3):
            raise errors.Unavailable("No server has it yet.", reason="MODEL_NOT_READY")
        if self.fates.of(job).is_wrong:
            raise errors.WrongState("The server's answers are not the model's.", reason="MODEL_QUARANTINED")
        self.proven.add(model)
        return {"mean_difference": 0.05}

    async def suite(self, name: str) -> None:
        return None

    async def default_suite(self, project: str, dataset: str) -> str:
        return f"projects/{project}/suites/default"

    async def begin_evaluation(
        self, project: str, suite: str, subjects: Mapping[str, Sequence[str]], request_id: str
    ) -> dict[str, Any]:
        if not self.proven.issuperset(name for name in subjects if name != "models/b"):
            self.chaos.object(f"{request_id} asks a model that is not proven")
        name = self.evaluations.setdefault(request_id, f"projects/{project}/evaluations/{len(self.evaluations)}")
        return {"name": name, "question_count": 160}

    async def evaluation(self, name: str) -> dict[str, Any]:
        has_ended = self.chaos.happens(0.3)
        return {"state": "SUCCEEDED" if has_ended else "RUNNING", "has_ended": has_ended, "error": ""}

    async def judge(self, model: str, evaluation: str) -> dict[str, Any]:
        return {"answer": "BETTER", "sentence": "Better.", "evaluation": evaluation, "items_needed": 0}


class Training(World[Trainer]):
    """Trainers, who asks them, and their workers."""

    def __init__(self, seed: int, loop: VirtualLoop, odds: Odds) -> None:
        super().__init__(seed, loop, odds)
        works = {"services.trainer.worker": self._train, "services.trainer.worker.count": self._count}
        self.launcher = SimulatedLauncher(self.chaos, works)
        self.launcher.saved_step = self._saved_step
        self.fates = Fates(seed)
        self.registry = Registry(self.chaos, self.store, self.fates)
        self.steps_done: Counter[str] = Counter()
        self.requested: set[str] = set()
        self.made: dict[str, set[str]] = {}
        self.cancelled: set[str] = set()  # for sure
        self.asked_to_cancel: set[str] = set()
        self.pause_count: Counter[str] = Counter()
        self.idle_s: Counter[str] = Counter()  # of workers at work where none should be
        self.last_states: dict[str, str] = {}
        self.last_attempts: Counter[str] = Counter()

    async def prepare(self) -> None:
        config = json.dumps({"hidden_size": 64, "architectures": ["LlamaForCausalLM"]}).encode()
        placed = ManifestFile("config.json", self.store.put("bases", io.BytesIO(config)))
        self.store.commit(BASE, Manifest("base", (placed,), {}).to_json())

    def service(self, program: Program) -> Trainer:
        return Trainer(
            database=self.seen_by(program, self._twin(), "database"),
            store=self.seen_by(program, self.store, "store"),
            launcher=self.seen_by(program, self.launcher, "launcher"),
            peers=self.seen_by(program, self.registry, "peers"),
            worker_environment={},
            clock=self.loop.clock,
            silence_limit_s=SILENCE_LIMIT_S,
        )

    def steps(self, service: Trainer) -> Mapping[str, Step]:
        return {
            KIND: functools.partial(reconcile_job, service),
            token_count.KIND: functools.partial(reconcile_count, service),
            SWEEP_KIND: functools.partial(reconcile_sweep, service),
        }

    def users(self) -> Sequence[Coroutine[Any, Any, None]]:
        dice = self.chaos.dice
        users = [self._user_of_jobs(number, dice.choice(PROJECTS)) for number in range(dice.randint(1, 3))]
        return [*users, self._user_of_sweeps(dice.choice(PROJECTS))] if dice.random() < 0.3 else users

    def others(self) -> Sequence[Coroutine[Any, Any, None]]:
        return [self.unreliable_node(self.launcher), self._stranger()]

    # Who asks.

    async def _user_of_jobs(self, number: int, project: str) -> None:
        """Create a job, and perhaps change one's mind. Two users of two projects choose the same request ids."""
        dice = self.chaos.dice
        await asyncio.sleep(dice.uniform(0, 60))
        asked = Job(name="", base_model="tiny", training_file=f"projects/{project}/files/file-1")
        request = f"request-{number // 2}"
        name = await self._create(project, request, lambda t: use_cases.create_job(t, f"projects/{project}", asked, request))
        for _ in range(dice.randint(0, 4)):
            await asyncio.sleep(dice.choice([dice.uniform(0, 1), dice.uniform(0, 30)]))
            await self._wish(name, dice.choice(["pause", "pause", "resume", "resume", "cancel"]))
        if dice.random() < 0.4:
            await self.until_running(last(name))
            await self._wish(name, dice.choice(["pause", "cancel"]))
        if dice.random() < 0.8:
            await self._wish(name, "resume")

    async def _user_of_sweeps(self, project: str) -> None:
        dice = self.chaos.dice
        await asyncio.sleep(dice.uniform(0, 60))
        recipes = [{"learning_rate": rate} for rate in (1e-4, 3e-4, 1e-3)[: dice.randint(1, 3)]]
        asked = Sweep("", "tiny", f"projects/{project}/datasets/validated", recipes)
        request = "sweep"
        name = await self._create(project, request, lambda t: sweeps.create_sweep(t, f"projects/{project}", asked, request))
        if dice.random() < 0.5:
            await asyncio.sleep(dice.uniform(0, 60))
            await self._asked(name, "cancel", lambda trainer: sweeps.cancel_sweep(trainer, name))

    async def _create(self, project: str, request: str, call: Any) -> str:
        name: str = (await self.insist(call)).name
        if project_of(name) != project:
            self.chaos.object(f"a request of {project} is answered with {name}")
        self.made.setdefault(f"{project}/{request}", set()).add(name)
        return name

    async def _wish(self, name: str, verb: str) -> None:
        call = {"pause": use_cases.pause_job, "resume": use_cases.resume_job, "cancel": use_cases.cancel_job}[verb]
        await self._asked(name, verb, lambda trainer: call(trainer, name))

    async def _asked(self, name: str, verb: str, call: Any) -> None:
        self.chaos.note(f"a user wants {verb} of {last(name)}")
        if verb == "cancel":
            self.asked_to_cancel.add(name)
        if verb == "pause":
            self.pause_count[last(name)] += 1
        try:
            record = await self.insist(call)
        except errors.WrongState as error:
            self.chaos.note(f"but: {error.message}")
            return
        if verb == "cancel":
            self.cancelled.add(name)
            if record.document["state"] not in ("CANCELLING", "CANCELLED"):
                self.chaos.object(f"{name} was cancelled and is {record.document['state']}")

    async def _stranger(self) -> None:
        """Try old tokens and wrong ones; nobody listens."""
        dice = self.chaos.dice
        while True:
            await asyncio.sleep(dice.uniform(5, 40))
            runs = [run for run in self.launcher.runs.values() if run.module == "services.trainer.worker"]
            if not runs:
                continue
            run, token = dice.choice(runs), ""
            name = next(job.name for job in await self._jobs() if job.id == run.owner)
            if await self._is_over(name, run.number):
                token = run.environment["AFINA_ATTEMPT_TOKEN"]
            try:
                await self.heard(lambda t, n=name, r=run, k=token: use_cases.report_progress(t, n, r.number, k, 0, []))  # type: ignore[misc]
            except (errors.Unauthenticated, errors.Unavailable, errors.Conflict):
                continue
            self.chaos.object(f"a stranger reports for {run.key}")

    # What works.

    async def _train(self, run: Run) -> int:
        report = functools.partial(self.report, use_cases.report_progress, self._is_over, self._should_stop)
        worker = TrainingWorker(self.chaos, self.store, report, run)
        worker.steps_done, worker.fates = self.steps_done, self.fates
        try:
            exit_code = await worker.live()
        finally:
            job = next(job for job in await self._jobs() if job.id == run.owner)
            if job.state == "CANCELLED" and run.number <= job.attempt:
                self.chaos.object(f"{job.id} was CANCELLED before {run.key} had ended")
        if exit_code == 0 and not self.launcher.is_newest(run):
            self.chaos.object(f"{run.key} published after a later attempt was launched")
        return exit_code

    def _saved_step(self, owner: str) -> int:
        return max((int(last(key).partition("-")[0]) for key in self.store.list(f"jobs/{owner}/checkpoints/")), default=0)

    async def _count(self, run: Run) -> int:
        """Count tokens: a few seconds, beside the jobs; then the result is committed, or it has crashed."""
        await asyncio.sleep(self.chaos.dice.uniform(0.5, 5))
        if self.chaos.happens(self.chaos.odds.death * 5):
            return 1
        spec = json.loads(self.store.read(run.environment["AFINA_SPEC"]))
        parts = [part for part in ("train", "validation") if spec["dataset"][part]]
        counted = {part: {"lengths": [20] * 800, "trained_token_count": 4000} for part in parts}
        self.store.commit(spec["result_key"], json.dumps(counted).encode())
        return 0

    async def _is_over(self, name: str, attempt: int) -> bool:
        job = Job.from_document((await self.database.get(KIND, name)).document)
        return job.has_ended or attempt < job.attempt

    async def _should_stop(self, name: str) -> bool:
        return (await self.database.get(KIND, name)).document["state"] in ("PAUSING", "PAUSED", "CANCELLING")

    # What must hold.

    async def look(self) -> None:
        busy = {run.owner for run in self.launcher.running() if run.module == "services.trainer.worker"}
        over = {sweep.name for sweep in await self._sweeps() if sweep.has_ended}
        for job in await self._jobs():
            if job.attempt < self.last_attempts[job.id] or job.attempt > self.launcher.launch_counts[job.id]:
                self.chaos.object(f"{job.id} is at attempt {job.attempt}")
            self.last_attempts[job.id] = job.attempt
            if job.id in busy and (job.has_ended or job.state == "PAUSED" or job.sweep in over):
                self.idle_s[job.id] += 1
                if self.idle_s[job.id] > MAX_AFTERWARDS_S:
                    self.chaos.object(f"{job.id} is {job.state} and has a worker")
            else:
                self.idle_s[job.id] = 0

    async def is_at_rest(self) -> bool:
        jobs, going = await self._jobs(), await self._sweeps()
        rests = all(job.has_ended or job.state == "PAUSED" for job in jobs) and all(sweep.has_ended for sweep in going)
        is_idle = not self.launcher.alive() and await self.database.next_due(KIND) is None
        return rests and is_idle

    async def states(self) -> Mapping[str, str]:
        found: list[Job | Sweep] = [*await self._jobs(), *await self._sweeps()]
        self.counts["workers launched"] = sum(self.launcher.launch_counts.values())
        self.counts["workers crashed"] = sum(self.launcher.crash_counts.values())
        return {one.name: one.state for one in found}

    async def wrong(self) -> list[str]:
        jobs, ended_sweeps = await self._jobs(), await self._sweeps()
        names = {job.name for job in jobs} | {sweep.name for sweep in ended_sweeps}
        members = {sweep.job_name(at) for sweep in ended_sweeps for at in range(len(sweep.recipes))}
        made = [name for one in self.made.values() for name in one]
        wrong = [f"{name} is lost" for name in made if name not in names]
        wrong += [f"{name} was asked for by nobody" for name in names - members - set(made)]
        wrong += [f"{request} made {sorted(one)}" for request, one in self.made.items() if len(one) > 1]
        for job in jobs:
            wrong += self._wrong_with(job, job.name in members)
            wrong += await self._wrong_with_history_of(job)
        for sweep in ended_sweeps:
            wrong += self._wrong_with_sweep(sweep, {job.name: job for job in jobs})
        wrong += [f"{key} still runs" for key in self.launcher.alive()]
        return wrong

    def _wrong_with(self, job: Job, is_member: bool) -> list[str]:
        wrong, told = [], job.error.get("reason")
        crashes, launches = self.launcher.crashes_in_a_row[job.id], self.launcher.launch_counts[job.id]
        if not job.has_ended and (job.state != "PAUSED" or not self.pause_count[job.id]):
            wrong.append(f"{job.id} is stuck as {job.state}")
        if bool(job.end_time) != job.has_ended:
            wrong.append(f"{job.id} is {job.state} and its end was {job.end_time!r}")
        if job.name in self.cancelled and job.state != "CANCELLED":
            wrong.append(f"{job.id} was cancelled and is {job.state}")
        if job.state == "CANCELLED" and job.name not in self.asked_to_cancel and not is_member:
            wrong.append(f"{job.id} was cancelled by nobody")
        counting = self.launcher.crash_counts[last(job.token_count)]
        right = {"WORKER_CRASHED": max(crashes, counting) >= MAX_CRASHES, "MODEL_QUARANTINED": self.fates.of(job.name).is_wrong}
        if job.state == "FAILED" and not right.get(str(told), False):
            wrong.append(f"{job.id} failed after {crashes} crashes in a row: {job.error}")
        if (most := self.launcher.most_in_a_row[job.id]) > MAX_CRASHES + self.pause_count[job.id]:
            wrong.append(f"{job.id} crashed {most} times in a row")
        interrupted = launches - self.launcher.stop_counts[job.id]
        if self.steps_done[job.id] > STEPS + interrupted * CHECKPOINT_STEPS:
            wrong.append(f"{job.id} computed {self.steps_done[job.id]} steps in {launches} attempts, {interrupted} interrupted")
        return wrong + self._wrong_with_model_of(job, is_member)

    def _wrong_with_model_of(self, job: Job, is_member: bool) -> list[str]:
        wrong, models = [], self.registry.models.get(job.name, set())
        if job.state == "SUCCEEDED" and models != {(job.model, job.fine_tuned_model)}:
            wrong.append(f"{job.id} succeeded with {models} and says {job.model}")
        if (
            job.state == "SUCCEEDED"
            and (self.fates.of(job.name).is_wrong or job.model not in self.registry.proven)
            and not is_member
        ):
            wrong.append(f"{job.id} succeeded and is not proven")
        judged_by = self.registry.evaluations.get(f"verdict-{job.id}")
        is_due = job.state == "SUCCEEDED" and job.is_to_be_judged and not is_member
        if job.awaits_verdict or (is_due and not judged_by) or job.verdict.get("evaluation") != judged_by:
            wrong.append(f"{job.id} is {job.state}, was evaluated by {judged_by} and has the verdict {dict(job.verdict)}")
        if job.state == "SUCCEEDED" and self.fates.of(job.name).is_cursed:
            wrong.append(f"{job.id} succeeded where no worker can")
        if job.state == "SUCCEEDED" and (not job.result_file or project_of(job.result_file) != project_of(job.name)):
            wrong.append(f"{job.id} left its metrics in {job.result_file!r}")
        if models:
            manifest = Manifest.from_json(self.store.read(job.manifest_key))
            if {name for name, _ in models} != {f"projects/{project_of(job.name)}/models/{manifest.digest}"}:
                wrong.append(f"{job.id} has a model that its manifest does not describe")
            if self.store.read(manifest.file("adapter").key).decode() != weights_after(STEPS, job.name):
                wrong.append(f"{job.id} has other weights than straight training gives")
            if manifest.data["job"] != job.name:
                wrong.append(f"{job.id} has the manifest of {manifest.data['job']}")
        return wrong

    async def _wrong_with_history_of(self, job: Job) -> list[str]:
        wrong = await self.wrong_with_events_of(KIND, job.name, "STEP")
        wrong += await self.wrong_with_moves_of(KIND, job.name, job.state, "VALIDATING", MOVES)
        events = await self.database.events(KIND, job.name, limit=10_000)
        told = Counter(event.type for event in events)
        once = ("MODEL_REGISTERED", "RESULTS_KEPT", "MODEL_PROVEN", "EVALUATION_STARTED", "VERDICT")
        wrong += [f"{job.id} was told {type} {told[type]} times" for type in once if told[type] > 1]
        if told["VERDICT"] != bool(job.verdict):
            wrong.append(f"{job.id} has the verdict {dict(job.verdict)} and was told {told['VERDICT']}")
        return wrong

    def _wrong_with_sweep(self, sweep: Sweep, jobs: Mapping[str, Job]) -> list[str]:
        name = last(sweep.name)
        if not sweep.has_ended:
            return [f"{name} is stuck as {sweep.state}"]
        members = [jobs[sweep.job_name(at)] for at in range(len(sweep.recipes)) if sweep.job_name(at) in jobs]
        wrong = [f"{name} is {sweep.state}, its {one.id} {one.state}" for one in members if not one.has_ended]
        if sweep.name in self.cancelled and sweep.state != "CANCELLED":
            wrong.append(f"{name} was cancelled and is {sweep.state}")
        if sweep.state == "CANCELLED" and sweep.name not in self.asked_to_cancel:
            wrong.append(f"{name} was cancelled by nobody")
        good = [one for one in members if one.state == "SUCCEEDED" and not self.fates.of(one.name).is_wrong]
        if sweep.state == "SUCCEEDED":
            best = min(good, key=lambda one: self.fates.of(one.name).validation_loss, default=None)
            if best is None or sweep.winner is None or sweep.job_name(sweep.winner) != best.name:
                wrong.append(f"{name} was won by {sweep.winner}")
            elif best.model not in self.registry.proven:
                wrong.append(f"{name} was won by a model that is not proven")
            if len(members) != len(sweep.recipes):
                wrong.append(f"{name} tried {len(members)} of {len(sweep.recipes)}")
        if sweep.state == "FAILED" and good:
            wrong.append(f"{name} failed though {good[0].id} is right: {sweep.error}")
        return wrong

    async def _jobs(self) -> list[Job]:
        return [Job.from_document(record.document) for record in await self.database.list(KIND, "", limit=1000)]

    async def _sweeps(self) -> list[Sweep]:
        return [Sweep.from_document(record.document) for record in await self.database.list(SWEEP_KIND, "", limit=1000)]
