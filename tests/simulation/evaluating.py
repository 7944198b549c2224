"""The evaluator: evaluations of two projects, on two replicas, with workers that ask a gateway.

What has to hold, besides what `workloads.py` and `world.py` hold:

- an evaluation ends as it was allowed to: CANCELLED if and only if somebody asked, FAILED only after as many crashes as end
  one; one that succeeded has the scores that its one manifest holds, of the suite and the models that it was created for;
- the key that a worker was given works as long as its attempt does, is of its project, and of an evaluation that has ended
  none is left that was noted anywhere; each try to launch issues at most one;
- what attempts kept of their answers is gone at the end.
"""

import asyncio
import functools
import io
import json
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from services.common import attempts, errors
from services.common.errors import ArtifactNotFound
from services.common.names import last, project_of
from services.common.ports.database import NewEvent
from services.common.ports.manifest import Manifest, ManifestFile
from services.common.ports.object_store import Artifact
from services.evaluator import suite, use_cases
from services.evaluator.attempts import reconcile_evaluation
from services.evaluator.clients import Key
from services.evaluator.evaluation import KIND, MAX_CRASHES, MOVES, Evaluation, Subject
from services.evaluator.suite import Part, Prompt, Questions, Suite
from services.evaluator.use_cases import Evaluator
from tests.simulation.chaos import Odds, Program
from tests.simulation.virtual_time import VirtualLoop
from tests.simulation.workloads import GRACE_S, Crashed, Run, SimulatedLauncher, Worker
from tests.simulation.world import Step, World

QUESTIONS = 12
ANSWER_S = 0.5
SILENCE_LIMIT_S = 60.0
MAX_AFTERWARDS_S = (
    GRACE_S + 3.0
)  # one that was launched by a program that froze is told to leave, or leaves with its first report
PROJECTS = ("default", "other")
PART = Part(QUESTIONS, {"key": "datasets/x", "size_bytes": 1, "sha256": "0" * 64})


@dataclass
class Neighbours:
    """dataset, inference and the gateway's keys as far as an evaluator sees them."""

    live: dict[str, str] = field(default_factory=dict)  # secret by name
    issued: Counter[str] = field(default_factory=Counter)  # by display name

    async def questions(self, dataset: str) -> Questions:
        return Questions("d" * 64, PART, Part(0, {}), PART, {"good": 6, "bad": 6})

    async def subject(self, asked: Subject, project: str) -> Subject:
        return replace(
            asked,
            digest=last(asked.model).ljust(64, "0"),
            public_id=asked.model,
            base={"digest": "b" * 64, "manifest_key": "manifests/bases/b.json"},
        )

    async def origins(self, name: str) -> list[dict[str, str]]:
        return [{"name": f"projects/{project_of(name)}/datasets/other", "digest": "o" * 64}] if "/models/tuned" in name else []

    async def compare(self, dataset: str, others: Sequence[str]) -> dict[str, Any]:
        return {"row_count": 12, "overlap_count": 0, "rows": []}

    async def create_key(self, project: str, display_name: str) -> Key:
        self.issued[display_name] += 1
        key = Key(f"projects/{project}/apiKeys/key-{sum(self.issued.values())}", f"secret-{sum(self.issued.values())}")
        self.live[key.name] = key.secret
        return key

    async def delete_key(self, name: str) -> None:
        self.live.pop(name, None)


class EvaluationWorker(Worker):
    """Asks question after question, keeps the answers, and publishes scores."""

    neighbours: Neighbours
    is_cursed = False

    async def work(self) -> int:
        spec = json.loads(await self.call(self.store.read, self.run.environment["AFINA_SPEC"]))
        name, result = spec["evaluation"], spec["result"]
        kept = f"evaluations/{last(name)}/kept/answers-{self.run.number}.json"
        with suppress(ArtifactNotFound):
            await self.call(self.store.head, result["manifest_key"])
            return 0
        for answered in range(1, QUESTIONS + 1):
            await self.pass_time(ANSWER_S)
            if self.is_cursed and answered == QUESTIONS // 2:
                raise Crashed
            if self.run.environment["GATEWAY_API_KEY"] not in self.neighbours.live.values():
                return 3  # the gateway refuses it
            number = self._first_number + len(self._events)
            data = {"answered": answered, "attempt": self.run.number, "number": number}
            await self.tell(name, NewEvent("ANSWERED", f"{answered} answers.", data=data))
            if self.should_leave:
                return 75
            if answered == QUESTIONS // 2:
                await self.call(self.store.commit, kept, b"{}")
        artifact: Artifact = await self.call(lambda: self.store.put(result["prefix"], io.BytesIO(name.encode())))
        scores = [{"model": subject["model"], "digest": subject["digest"]} for subject in spec["subjects"]]
        manifest = Manifest(
            "evaluation", (ManifestFile("answers.jsonl", artifact),), {"evaluation": name, "scores": scores, "comparisons": []}
        )
        await self.call(self.store.commit, result["manifest_key"], manifest.to_json())
        return 0


class Evaluating(World[Evaluator]):
    """Evaluators, who asks them, and their workers."""

    def __init__(self, seed: int, loop: VirtualLoop, odds: Odds) -> None:
        super().__init__(seed, loop, odds)
        self.launcher = SimulatedLauncher(self.chaos, {"services.evaluator.worker": self._evaluate})
        self.neighbours = Neighbours()
        self.made: dict[str, set[str]] = {}
        self.cancelled: set[str] = set()
        self.asked_to_cancel: set[str] = set()
        self.idle_s: Counter[str] = Counter()
        self.cursed: set[str] = set()  # their workers crash at the same question each time

    async def prepare(self) -> None:
        for project in PROJECTS:
            asked = Suite(f"projects/{project}/suites/s", f"projects/{project}/datasets/d", (Prompt("plain", "GENERATE"),))
            whole = asked.over(await self.neighbours.questions(asked.dataset))
            await self.database.create(suite.KIND, whole.name, whole.to_document())

    def service(self, program: Program) -> Evaluator:
        return Evaluator(
            database=self.seen_by(program, self._twin(), "database"),
            store=self.seen_by(program, self.store, "store"),
            launcher=self.seen_by(program, self.launcher, "launcher"),
            peers=self.seen_by(program, self.neighbours, "peers"),
            worker_environment={},
            clock=self.loop.clock,
            silence_limit_s=SILENCE_LIMIT_S,
        )

    def steps(self, service: Evaluator) -> Mapping[str, Step]:
        return {KIND: functools.partial(reconcile_evaluation, service)}

    def users(self) -> Sequence[Coroutine[Any, Any, None]]:
        dice = self.chaos.dice
        return [self._user(number, dice.choice(PROJECTS)) for number in range(dice.randint(1, 4))]

    def others(self) -> Sequence[Coroutine[Any, Any, None]]:
        return [self.unreliable_node(self.launcher), self._stranger()]

    async def _user(self, number: int, project: str) -> None:
        dice, parent, request = self.chaos.dice, f"projects/{project}", f"request-{number // 2}"
        await asyncio.sleep(dice.uniform(0, 90))
        subjects = [Subject("models/base", ()), Subject(f"{parent}/models/tuned", ())]
        record = await self.insist(lambda e: use_cases.create_evaluation(e, parent, f"{parent}/suites/s", subjects, request))
        name: str = record.name
        if dice.random() < 0.1:
            self.cursed.add(last(name))
        self.made.setdefault(f"{project}/{request}", set()).add(name)
        if dice.random() < 0.4:
            if dice.random() < 0.5:
                await self.until_running(last(name))
            else:
                await asyncio.sleep(dice.choice([dice.uniform(0, 1), dice.uniform(0, 40)]))
            self.chaos.note(f"a user wants cancel of {last(name)}")
            self.asked_to_cancel.add(name)
            try:
                await self.insist(lambda evaluator: use_cases.cancel_evaluation(evaluator, name))
            except errors.WrongState as error:
                self.chaos.note(f"but: {error.message}")
            else:
                self.cancelled.add(name)

    async def _evaluate(self, run: Run) -> int:
        report = functools.partial(self.report, use_cases.report_progress, self._is_over, self._should_stop)
        worker = EvaluationWorker(self.chaos, self.store, report, run)
        worker.neighbours = self.neighbours
        worker.is_cursed = run.owner in self.cursed
        try:
            exit_code = await worker.live()
        finally:
            current = next(one for one in await self._evaluations() if one.id == run.owner)
            if current.state == "CANCELLED" and run.number <= current.attempt:
                self.chaos.object(f"{current.id} was CANCELLED before {run.key} had ended")
        if exit_code == 3:
            name = next(one.name for one in await self._evaluations() if one.id == run.owner)
            if name not in self.asked_to_cancel and not await self._is_over(name, run.number):
                self.chaos.object(f"the key of {run.key} does not work")
        return exit_code

    async def _is_over(self, name: str, attempt: int) -> bool:
        current = Evaluation.from_document((await self.database.get(KIND, name)).document)
        return current.has_ended or attempt < current.attempt or attempt <= current.given_up

    async def _should_stop(self, name: str) -> bool:
        return bool((await self.database.get(KIND, name)).document["state"] == "CANCELLING")

    async def _stranger(self) -> None:
        """Try old tokens and wrong ones; nobody listens."""
        dice = self.chaos.dice
        while True:
            await asyncio.sleep(dice.uniform(5, 40))
            if not self.launcher.runs:
                continue
            run, token = dice.choice(list(self.launcher.runs.values())), ""
            name = next(one.name for one in await self._evaluations() if one.id == run.owner)
            if await self._is_over(name, run.number):
                token = run.environment["AFINA_ATTEMPT_TOKEN"]
            try:
                await self.heard(lambda e, n=name, r=run, k=token: use_cases.report_progress(e, n, r.number, k, 0, []))  # type: ignore[misc]
            except (errors.Unauthenticated, errors.Unavailable, errors.Conflict):
                continue
            self.chaos.object(f"a stranger reports for {run.key}")

    async def look(self) -> None:
        busy = {run.owner for run in self.launcher.running()}
        for current in await self._evaluations():
            if current.id in busy and current.has_ended:
                self.idle_s[current.id] += 1
                if self.idle_s[current.id] > MAX_AFTERWARDS_S:
                    self.chaos.object(f"{current.id} is {current.state} and has a worker")

    async def is_at_rest(self) -> bool:
        is_idle = await self.database.next_due(KIND) is None and not self.launcher.alive()
        return is_idle and all(current.has_ended for current in await self._evaluations())

    async def states(self) -> Mapping[str, str]:
        self.counts["workers launched"] = sum(self.launcher.launch_counts.values())
        self.counts["workers crashed"] = sum(self.launcher.crash_counts.values())
        return {one.name: one.state for one in await self._evaluations()}

    async def wrong(self) -> list[str]:
        found = await self._evaluations()
        made = {name for one in self.made.values() for name in one}
        wrong = [f"{name} is lost, or was asked for by nobody" for name in made ^ {one.name for one in found}]
        wrong += [f"{request} made {sorted(one)}" for request, one in self.made.items() if len(one) > 1]
        for current in found:
            wrong += self._wrong_with(current)
            wrong += await self._wrong_with_keys_of(current)
            wrong += await self.wrong_with_events_of(KIND, current.name, "ANSWERED")
            wrong += await self.wrong_with_moves_of(KIND, current.name, current.state, "PENDING", MOVES)
        return wrong + [f"{key} still runs" for key in self.launcher.alive()]

    def _wrong_with(self, current: Evaluation) -> list[str]:
        wrong, crashes = [], self.launcher.crash_counts[current.id]
        if not current.has_ended:
            wrong.append(f"{current.id} is stuck as {current.state}")
        if bool(current.end_time) != current.has_ended:
            wrong.append(f"{current.id} is {current.state} and its end was {current.end_time!r}")
        if current.name in self.cancelled and current.state != "CANCELLED":
            wrong.append(f"{current.id} was cancelled and is {current.state}")
        if current.state == "CANCELLED" and current.name not in self.asked_to_cancel:
            wrong.append(f"{current.id} was cancelled by nobody")
        if current.state == "FAILED" and (crashes < MAX_CRASHES or current.error["reason"] != "WORKER_CRASHED"):
            wrong.append(f"{current.id} failed after {crashes} crashes: {current.error}")
        if crashes > MAX_CRASHES:
            wrong.append(f"{current.id} crashed {crashes} times")
        if current.state == "SUCCEEDED" and current.id in self.cursed and crashes >= MAX_CRASHES:
            wrong.append(f"{current.id} succeeded after {crashes} crashes")
        if current.state == "SUCCEEDED":
            manifest = Manifest.from_json(self.store.read(current.manifest_key))
            asked = [(subject.model, subject.digest) for subject in current.subjects]
            scored = [(score["model"], score["digest"]) for score in current.scores]
            if [one["finding"] for one in current.held_out] != ["UNKNOWN", "DISJOINT"]:
                wrong.append(f"{current.id} found {current.held_out} of its models' rows")
            if manifest.data["evaluation"] != current.name or scored != asked or current.scores != manifest.data["scores"]:
                wrong.append(f"{current.id} has the scores of {scored} and asked {asked}")
        if current.has_ended and list(self.store.list(current.kept_prefix)):
            wrong.append(f"{current.id} left answers behind")
        return wrong

    async def _wrong_with_keys_of(self, current: Evaluation) -> list[str]:
        noted = [
            (one["api_key"], record.name)
            for record in await attempts.recorded(self.database, current.name)
            if record.update_time.isoformat() <= (current.end_time or "9")  # a program that froze may issue one later, and die
            for one in attempts.tries_of(record)
        ]
        wrong = [f"{key} of {attempt} is left" for key, attempt in noted if key in self.neighbours.live]
        wrong += [f"{key} is not of {attempt}'s project" for key, attempt in noted if project_of(key) != project_of(attempt)]
        return wrong

    async def _evaluations(self) -> list[Evaluation]:
        return [Evaluation.from_document(record.document) for record in await self.database.list(KIND, "", limit=1000)]
