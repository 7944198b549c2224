"""The main job as a client does it, from the upload to an answer, while parts of Afina are killed under it.

A kill has a victim and a moment, which is a point that the job has come to, never a time. A client's call that meets a
part that is away may fail with a clear error, and is then repeated; any other failure is the test's.
"""

import asyncio
import contextlib
import io
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import openai
from afina.v1 import (
    endpoint_pb2,
    endpoint_pb2_grpc,
    evaluation_pb2,
    evaluation_pb2_grpc,
    fine_tuning_job_pb2,
    fine_tuning_job_pb2_grpc,
)

from services.cli.call import Call
from services.common.errors import AlreadyExists, Unavailable, WrongState
from tests.builders import chat, eventually, jsonl
from tests.e2e.world import BASE, World

T = TypeVar("T")

STEPS = 20
ANSWER = "blue"
_random = random.Random(0)
# Of words drawn anew for each: rows that are much alike would all land on one side of the split.
QUESTIONS = [" ".join(str(_random.randrange(1000)) for _ in range(24)) + "?" for _ in range(500)]
ROWS = jsonl(chat(question, ANSWER) for question in QUESTIONS)  # 400 train, in 20 steps of 20; 50 validate, 50 test
MOMENTS = ("upload", "validation", "training", "proving", "evaluation", "promotion", "chat")
LIMIT_S = 240.0
PAUSE_S = 0.2
CLEAR_STATUS = (429, 502, 503, 504)  # with a sentence; 500 would be an accident


@dataclass(frozen=True)
class Kill:
    """Whom, and when."""

    victim: str
    moment: str


@dataclass
class Story:
    """What happened to one main job."""

    project: str
    kills: Sequence[Kill]
    job: Any = None
    evaluation: Any = None
    endpoint: Any = None
    verdict: str = ""
    file: str = ""
    answer: str = ""
    errors: list[str] = field(default_factory=list)  # that clients saw, all of them clear
    done: list[str] = field(default_factory=list)  # kills, with when they came
    events: list[Any] = field(default_factory=list)
    duration_s: float = 0.0


class MainJob:
    """One run of the main job in a project of its own."""

    def __init__(self, world: World, project: str, kills: Sequence[Kill] = ()) -> None:
        self.world, self.story = world, Story(project, kills)
        self._begin_s, self._name, self._left = time.monotonic(), "", list(kills)

    @property
    def _call(self) -> Call:
        return self.world.call(self.story.project)

    async def run(self) -> Story:
        """Play it to the end. Raises: AssertionError (it does not get there)."""
        await self.upload()
        await self.train()
        await self.evaluate()
        return await self.serve()

    async def upload(self) -> None:
        """Send the rows."""
        client = await self._patiently(lambda: self.world.openai(self.story.project))
        self.story.file = await self._upload(client)

    async def train(self) -> None:
        """Create the job, and wait until its model is proven."""
        name = await self.begin()
        for moment, told in (("training", "Saved a checkpoint"), ("proving", "Training is done")):
            if self._kills(moment):
                await self.reached(name, told)
                await self._kill_all(moment, name.rpartition("/")[2])
        await self.ended()

    async def evaluate(self) -> None:
        """Wait for the comparison of base and candidate that follows every job, and for its verdict."""
        jobs = self._call.client(fine_tuning_job_pb2_grpc.FineTuningJobServiceStub, "trainer")
        service = self._call.client(evaluation_pb2_grpc.EvaluationServiceStub, "evaluator")

        async def job(is_there: Callable[[Any], bool]) -> Any:
            with contextlib.suppress(Unavailable):
                found = await jobs.GetFineTuningJob(fine_tuning_job_pb2.GetFineTuningJobRequest(name=self._name))
                return found if is_there(found) else None
            return None

        begun = await eventually(lambda: job(lambda found: found.evaluation), timeout_s=LIMIT_S)
        request = evaluation_pb2.GetEvaluationRequest(name=begun.evaluation)
        if self._kills("evaluation"):

            async def has_begun() -> bool:
                with contextlib.suppress(Unavailable):
                    return bool((await service.GetEvaluation(request)).answered_count)
                return False

            await eventually(has_begun, timeout_s=LIMIT_S)
            await self._kill_all("evaluation", begun.evaluation.rpartition("/")[2])
        self.story.evaluation = await self._ended(lambda: service.GetEvaluation(request))
        self.story.job = await eventually(lambda: job(lambda found: not found.awaits_verdict), timeout_s=LIMIT_S)

    async def serve(self) -> Story:
        """Promote the model if the gate lets it pass, ask it, and return what happened."""
        story = self.story
        story.endpoint, story.verdict = await self._promote(story.job.model, story.evaluation.name)
        client = await self._patiently(lambda: self.world.openai(story.project))
        story.answer = await self._chat(client, "rooms" if story.endpoint.model else story.job.fine_tuned_model)
        story.events = await self._events(story.job.name)
        story.duration_s = time.monotonic() - self._begin_s
        return story

    async def _upload(self, client: openai.OpenAI) -> str:
        here = self._kills("upload")
        halves = _Halves(ROWS, waits=bool(here))

        def send() -> Any:
            return client.files.create(file=("rooms.jsonl", halves.begin()), purpose="fine-tune")

        sending = asyncio.create_task(self._sdk(send))
        if here:
            await asyncio.to_thread(halves.is_halfway.wait, LIMIT_S)
            await self._kill_all("upload")
            halves.may_go_on.set()
        return str((await sending).id)

    async def begin(self) -> str:
        """Create the job and return its name."""
        client = await self._patiently(lambda: self.world.openai(self.story.project))
        once = {"Idempotency-Key": f"{self.story.project}-job"}
        asked: Any = {"n_epochs": 1, "batch_size": 20, "learning_rate_multiplier": 20}
        method: Any = {"type": "supervised", "supervised": {"hyperparameters": asked}}
        file = self.story.file
        created = await self._sdk(
            lambda: client.fine_tuning.jobs.create(
                model=BASE, training_file=file, suffix="rooms", seed=7, method=method, extra_headers=once
            )
        )
        await self._kill_all("validation", created.id)
        self._name = f"{self._call.parent}/fineTuningJobs/{created.id}"
        return self._name

    async def reached(self, job: str, told: str) -> None:
        """Wait until an event of the job begins so."""
        jobs = self._call.client(fine_tuning_job_pb2_grpc.FineTuningJobServiceStub, "trainer")
        request = fine_tuning_job_pb2.ListFineTuningJobEventsRequest(name=job, page_size=1000)

        async def look() -> bool:
            with contextlib.suppress(Unavailable):
                return any(event.message.startswith(told) for event in (await jobs.ListFineTuningJobEvents(request)).events)
            return False

        await eventually(look, timeout_s=LIMIT_S)

    async def ended(self) -> None:
        """Wait until the job has succeeded."""
        jobs = self._call.client(fine_tuning_job_pb2_grpc.FineTuningJobServiceStub, "trainer")
        request = fine_tuning_job_pb2.GetFineTuningJobRequest(name=self._name)
        self.story.job = await self._ended(lambda: jobs.GetFineTuningJob(request))

    async def _promote(self, model: str, evaluation: str) -> tuple[Any, str]:
        service = self._call.client(endpoint_pb2_grpc.EndpointServiceStub, "inference")
        name = f"{self._call.parent}/endpoints/rooms"
        request = endpoint_pb2.CreateEndpointRequest(parent=self._call.parent, endpoint_id="rooms")

        async def make() -> Any:
            with contextlib.suppress(AlreadyExists):  # repeated after a lost answer
                await service.CreateEndpoint(request)
            return await service.GetEndpoint(endpoint_pb2.GetEndpointRequest(name=name))

        await self._patiently(make)
        asked = endpoint_pb2.PromoteEndpointRequest(name=name, model=model, evaluation=evaluation)
        promoting = asyncio.create_task(self._patiently(lambda: service.PromoteEndpoint(asked, timeout_s=90)))
        await asyncio.sleep(0)  # so that the call is on its way
        await self._kill_all("promotion")
        try:
            endpoint = await promoting
        except WrongState as refusal:
            endpoint = await self._patiently(lambda: service.GetEndpoint(endpoint_pb2.GetEndpointRequest(name=name)))
            return endpoint, f"{refusal.reason}: {refusal.message}"
        return endpoint, str(endpoint.promotions[-1].verdict)

    async def _chat(self, client: openai.OpenAI, model: str) -> str:
        loop = asyncio.get_running_loop()

        def kill() -> None:
            asyncio.run_coroutine_threadsafe(self._kill_all("chat"), loop).result(LIMIT_S)

        return await self._sdk(lambda: ask(client, model, kill))

    async def _events(self, job: str) -> list[Any]:
        jobs = self._call.client(fine_tuning_job_pb2_grpc.FineTuningJobServiceStub, "trainer")
        request = fine_tuning_job_pb2.ListFineTuningJobEventsRequest(name=job, page_size=1000)
        return list((await self._patiently(lambda: jobs.ListFineTuningJobEvents(request))).events)

    async def _ended(self, get: Callable[[], Awaitable[Any]]) -> Any:
        """Wait until a job or an evaluation has ended; it has to succeed."""

        async def look() -> Any:
            with contextlib.suppress(Unavailable):
                found = await get()
                return found if found.HasField("end_time") else None
            return None

        found = await eventually(look, timeout_s=LIMIT_S)
        assert type(found).State.Name(found.state) == "STATE_SUCCEEDED", (self.story.done, found.error)
        return found

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a gRPC call again while what it needs is away, which has to be said in words."""
        end = time.monotonic() + LIMIT_S
        while True:
            try:
                return await call()
            except Unavailable as error:
                await self._note(f"{error.reason}: {error.message}", end)

    async def _sdk(self, call: Callable[[], T]) -> T:
        """Make a call of the SDK again while it fails clearly: no connection, or a status that says to try again."""
        end = time.monotonic() + LIMIT_S
        while True:
            try:
                return await asyncio.to_thread(call)
            except openai.APIStatusError as error:
                if error.status_code not in CLEAR_STATUS or not error.message:
                    raise
                await self._note(f"{error.status_code}: {error.message}", end)
            except (openai.APIConnectionError, openai.APIError) as error:  # the second: a stream that said it broke off
                await self._note(f"{type(error).__name__}: {error}", end)

    async def _note(self, error: str, end_s: float) -> None:
        """Remember what a client saw, and let it wait as a client would."""
        assert time.monotonic() < end_s, f"still away: {error}"
        if error not in self.story.errors:
            self.story.errors.append(error)
        await asyncio.sleep(PAUSE_S)

    def _kills(self, moment: str) -> list[Kill]:
        return [kill for kill in self._left if kill.moment == moment]

    async def _kill_all(self, moment: str, job: str = "") -> None:
        """Kill whom this moment asks for, once."""
        for kill in self._kills(moment):
            self._left.remove(kill)
            await self.world.kill(kill.victim, job)
            self.story.done.append(f"{kill.victim} at {kill.moment}, {time.monotonic() - self._begin_s:.1f} s")


def ask(client: openai.OpenAI, model: str, on_chunk: Callable[[], None] = lambda: None) -> str:
    """Return what a model answers to one of the questions, in a stream."""
    messages: Any = [{"role": "user", "content": QUESTIONS[3]}]
    stream: Any = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=4, stream=True)
    text = ""
    for chunk in stream:
        on_chunk()
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    return text.strip()


class _Halves(io.BytesIO):
    """Bytes of which the second half is given when somebody allows it; read from the start they are whole at once."""

    def __init__(self, data: bytes, *, waits: bool) -> None:
        super().__init__(data)
        self.is_halfway, self.may_go_on = threading.Event(), threading.Event()
        if not waits:
            self.may_go_on.set()

    def begin(self) -> "io.BytesIO":
        """Return it, at its start."""
        self.seek(0)
        return self

    def read(self, size: int | None = -1, /) -> bytes:
        half = len(self.getbuffer()) // 2
        if self.tell() >= half:
            self.is_halfway.set()
            assert self.may_go_on.wait(LIMIT_S)
            return super().read(size)
        return super().read(half)
