"""The programs behind the command line, in one process: `dataset` and the keys are real, the long things end at once."""

import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afina.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    catalogue_pb2,
    catalogue_pb2_grpc,
    dataset_pb2,
    dataset_pb2_grpc,
    endpoint_pb2,
    endpoint_pb2_grpc,
    evaluation_pb2,
    evaluation_pb2_grpc,
    file_pb2,
    file_pb2_grpc,
    fine_tuning_job_pb2,
    fine_tuning_job_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    resources_pb2,
    suite_pb2,
    suite_pb2_grpc,
)
from aiohttp import web
from google.protobuf import timestamp_pb2

from services.cli import demo
from services.common.backends.database.sql import SqlDatabase
from services.common.backends.launcher.shim import start_time, write_json
from services.common.backends.object_store.local import LocalObjectStore
from services.common.errors import NotFound, Unavailable, WrongState
from services.common.ports.manifest import Manifest
from services.common.transport import wire
from services.common.transport.grpc_server import registration
from services.dataset.rpc import DatasetRpc, FileRpc
from services.dataset.use_cases import Library
from services.gateway.rpc import ApiKeyRpc
from services.gateway.use_cases import Keys
from tests.builders import SERVICE_TOKEN, eventually, free_port, serving

BASE = "models/base"
TUNED = "projects/default/models/tuned"
LABELS = ("negative", "neutral", "positive")
METRICS = [{"step": n, "train_loss": 2.0 / n, "tokens_per_s": 400.0} for n in range(1, 5)]


def at(second: int) -> timestamp_pb2.Timestamp:
    """A time, so many seconds after some beginning."""
    return timestamp_pb2.Timestamp(seconds=1_800_000_000 + second)


class Jobs(fine_tuning_job_pb2_grpc.FineTuningJobServiceServicer):
    """Jobs that end as told when they are watched; a request id makes one job."""

    def __init__(self, world: "World") -> None:
        self.world = world

    async def CreateFineTuningJob(self, request: Any, context: Any) -> Any:
        known = self.world.jobs.get(request.request_id)
        if known is None:
            number = len(self.world.jobs) + 1
            known = fine_tuning_job_pb2.FineTuningJob()
            known.CopyFrom(request.fine_tuning_job)
            known.name = f"{request.parent}/fineTuningJobs/ftjob-{number}"
            known.state, known.attempt = fine_tuning_job_pb2.FineTuningJob.STATE_PENDING, 1
            known.create_time.CopyFrom(at(0))
            self.world.jobs[request.request_id or str(number)] = known
        self.world.lose_answer()
        return known

    async def GetFineTuningJob(self, request: Any, context: Any) -> Any:
        return self.world.job(request.name)

    async def ListFineTuningJobs(self, request: Any, context: Any) -> Any:
        return fine_tuning_job_pb2.ListFineTuningJobsResponse(fine_tuning_jobs=self.world.jobs.values())

    async def CancelFineTuningJob(self, request: Any, context: Any) -> Any:
        job = self.world.job(request.name)
        job.state = fine_tuning_job_pb2.FineTuningJob.STATE_CANCELLING
        return job

    async def PauseFineTuningJob(self, request: Any, context: Any) -> Any:
        job = self.world.job(request.name)
        job.state = fine_tuning_job_pb2.FineTuningJob.STATE_PAUSING
        return job

    async def ResumeFineTuningJob(self, request: Any, context: Any) -> Any:
        job = self.world.job(request.name)
        if job.state != fine_tuning_job_pb2.FineTuningJob.STATE_PAUSING:
            raise WrongState(f"{request.name} is not paused.")
        job.state = fine_tuning_job_pb2.FineTuningJob.STATE_PENDING
        return job

    async def ListFineTuningJobEvents(self, request: Any, context: Any) -> Any:
        self.world.job(request.name)
        events = [
            self._event(1, 0, "STATE_CHANGED", "The job waits for its turn.", {"state": "PENDING"}),
            self._event(2, 40, "STEP", "step 1 of 4", {"step": 1}),
            self._event(3, 90, "STATE_CHANGED", "The adapter is there.", {"state": "PROVING"}),
        ]
        return fine_tuning_job_pb2.ListFineTuningJobEventsResponse(
            events=[event for event in events if event.sequence > request.after_sequence]
        )

    async def WatchFineTuningJob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        job = self.world.job(request.name)
        self.world.watch_sequences.append(request.after_sequence)
        if job.evaluation:
            self.world.judge(job)
            yield fine_tuning_job_pb2.WatchFineTuningJobResponse(fine_tuning_job=job)
            return
        yield fine_tuning_job_pb2.WatchFineTuningJobResponse(
            fine_tuning_job=job, events=[self._event(2, 40, "STEP", "step 1 of 4", {"step": 1})]
        )
        if self.world.watch_breaks:
            self.world.watch_breaks -= 1
            raise Unavailable("The trainer restarts.")
        job.state = fine_tuning_job_pb2.FineTuningJob.State.Value(f"STATE_{self.world.job_end}")
        job.model, job.fine_tuned_model = TUNED, "ft:base:default:reviews:tuned"
        job.end_time.CopyFrom(at(120))
        job.progress.step = job.progress.total_steps = 4
        if self.world.job_end == "FAILED":
            job.error.CopyFrom(wire.error_status({"reason": "LOSS_NOT_FINITE", "message": "The loss is NaN."}))
        self.world.publish(job)
        self.world.begin_evaluation(job)
        yield fine_tuning_job_pb2.WatchFineTuningJobResponse(fine_tuning_job=job)
        if job.awaits_verdict:
            await eventually(lambda: self.world.judge(job), timeout_s=60)
            yield fine_tuning_job_pb2.WatchFineTuningJobResponse(fine_tuning_job=job)

    def _event(self, sequence: int, second: int, type_: str, message: str, data: Mapping[str, Any]) -> resources_pb2.Event:
        return resources_pb2.Event(
            sequence=sequence, create_time=at(second), type=type_, message=message, data=wire.struct(data), level="LEVEL_INFO"
        )


class Suites(suite_pb2_grpc.SuiteServiceServicer):
    """Suites by id."""

    def __init__(self, world: "World") -> None:
        self.world = world

    async def CreateSuite(self, request: Any, context: Any) -> Any:
        name = f"{request.parent}/suites/{request.suite_id}"
        suite = self.world.suites.setdefault(name, suite_pb2.Suite(name=name, digest="5" * 64))
        suite.MergeFrom(suite_pb2.Suite(dataset=request.suite.dataset))
        if not suite.prompts:
            suite.prompts.extend(request.suite.prompts)
            suite.criteria.extend(request.suite.criteria)
            suite.part = request.suite.part
        return suite

    async def GetSuite(self, request: Any, context: Any) -> Any:
        return self.world.of(self.world.suites, request.name)

    async def ListSuites(self, request: Any, context: Any) -> Any:
        return suite_pb2.ListSuitesResponse(suites=self.world.suites.values())


class Evaluations(evaluation_pb2_grpc.EvaluationServiceServicer):
    """Evaluations in which the tuned model gets 80 of 100 right, and the base, at best, 60."""

    def __init__(self, world: "World") -> None:
        self.world = world

    async def CreateEvaluation(self, request: Any, context: Any) -> Any:
        known = self.world.evaluations.get(request.request_id)
        if known is None:
            known = evaluation_pb2.Evaluation()
            known.CopyFrom(request.evaluation)
            known.name = f"{request.parent}/evaluations/eval-{len(self.world.evaluations) + 1}"
            known.state, known.question_count = evaluation_pb2.Evaluation.STATE_PENDING, 500
            known.create_time.CopyFrom(at(200))
            self.world.evaluations[request.request_id or str(len(self.world.evaluations))] = known
        self.world.lose_answer()
        return known

    async def GetEvaluation(self, request: Any, context: Any) -> Any:
        return self.world.of({e.name: e for e in self.world.evaluations.values()}, request.name)

    async def ListEvaluations(self, request: Any, context: Any) -> Any:
        return evaluation_pb2.ListEvaluationsResponse(evaluations=self.world.evaluations.values())

    async def WatchEvaluation(self, request: Any, context: Any) -> AsyncIterator[Any]:
        evaluation = await self.GetEvaluation(request, context)
        yield evaluation_pb2.WatchEvaluationResponse(evaluation=evaluation)
        evaluation.state, evaluation.answered_count = evaluation_pb2.Evaluation.STATE_SUCCEEDED, 500
        evaluation.end_time.CopyFrom(at(260))
        evaluation.labels[:] = LABELS
        evaluation.scores.extend(
            [
                _score("", "majority", 47),
                *(_score(BASE, prompt, right) for prompt, right in (("zero-shot", 7), ("few-shot", 60), ("label-scored", 50))),
                _score(TUNED, "zero-shot", 80),
            ]
        )
        evaluation.comparisons.add(
            champion=BASE, champion_prompt="few-shot", candidate=TUNED, candidate_prompt="zero-shot", item_count=100,
            candidate_only_count=30, champion_only_count=10, effect=0.2, effect_low=0.08, effect_high=0.31, p_value=0.0022,
        )  # fmt: skip
        yield evaluation_pb2.WatchEvaluationResponse(evaluation=evaluation)


class Endpoints(endpoint_pb2_grpc.EndpointServiceServicer):
    """Endpoints whose gate says what the test wants."""

    def __init__(self, world: "World") -> None:
        self.world = world

    async def CreateEndpoint(self, request: Any, context: Any) -> Any:
        name = f"{request.parent}/endpoints/{request.endpoint_id}"
        return self.world.endpoints.setdefault(name, endpoint_pb2.Endpoint(name=name, gate=request.endpoint.gate))

    async def GetEndpoint(self, request: Any, context: Any) -> Any:
        return self.world.of(self.world.endpoints, request.name)

    async def ListEndpoints(self, request: Any, context: Any) -> Any:
        return endpoint_pb2.ListEndpointsResponse(endpoints=self.world.endpoints.values())

    async def PromoteEndpoint(self, request: Any, context: Any) -> Any:
        endpoint = self.world.of(self.world.endpoints, request.name)
        if self.world.refusal:
            raise WrongState(self.world.refusal, reason="NOT_BETTER")
        endpoint.model = request.model
        endpoint.promotions.add(model=request.model, evaluation=request.evaluation, verdict="Better: p = 0.0022.")
        return endpoint

    async def RollbackEndpoint(self, request: Any, context: Any) -> Any:
        endpoint = self.world.of(self.world.endpoints, request.name)
        endpoint.promotions.add(model=endpoint.model, reason=request.reason, kind=endpoint_pb2.Promotion.KIND_ROLLBACK)
        return endpoint

    async def ListPromotions(self, request: Any, context: Any) -> Any:
        promotions = self.world.of(self.world.endpoints, request.parent).promotions
        return endpoint_pb2.ListPromotionsResponse(promotions=promotions)


class Models(model_pb2_grpc.ModelServiceServicer):
    """One base and one adapter, and what the test puts beside them."""

    def __init__(self, world: "World") -> None:
        self.world = world

    async def GetModel(self, request: Any, context: Any) -> Any:
        if request.name in self.world.models:
            return self.world.models[request.name]
        if request.name not in ("base", BASE, "SmolLM2-135M-Instruct", TUNED):
            raise NotFound(f"There is no model {request.name}.")
        name = TUNED if request.name == TUNED else BASE
        return model_pb2.Model(name=name, public_id=request.name, digest="b" * 64, kind="KIND_BASE", state="STATE_ACTIVE")

    async def JudgeModel(self, request: Any, context: Any) -> Any:
        return model_pb2.Model(name=request.name, kind="KIND_ADAPTER", verdict=_verdict(request.evaluation))

    async def ListModels(self, request: Any, context: Any) -> Any:
        return model_pb2.ListModelsResponse(models=[model_pb2.Model(name=BASE, public_id="base", state="STATE_ACTIVE")])


class Catalogue(catalogue_pb2_grpc.CatalogueServiceServicer):
    """Takes every base, and keeps what it was told."""

    def __init__(self, world: "World") -> None:
        self.world = world

    async def CreateCatalogueEntry(self, request: Any, context: Any) -> Any:
        manifest = Manifest.from_json(self.world.store.read(request.catalogue_entry.manifest_key))
        entry = request.catalogue_entry
        entry.name, entry.digest, entry.model = f"catalogueEntries/{request.catalogue_entry_id}", manifest.digest, BASE
        return entry

    async def GetCatalogueEntry(self, request: Any, context: Any) -> Any:
        if request.name != f"catalogueEntries/{demo.BASE}":
            raise NotFound(f"The catalogue has no {request.name}.")
        return catalogue_pb2.CatalogueEntry(name=request.name)

    async def ListCatalogueEntries(self, request: Any, context: Any) -> Any:
        return catalogue_pb2.ListCatalogueEntriesResponse()


@dataclass
class World:
    """What the programs hold, and how the long things end."""

    folder: Path
    jobs: dict[str, Any] = field(default_factory=dict)
    suites: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, Any] = field(default_factory=dict)
    endpoints: dict[str, Any] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    job_end: str = "SUCCEEDED"
    refusal: str = ""
    watch_breaks: int = 0
    create_breaks: int = 0
    watch_sequences: list[int] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def store(self) -> LocalObjectStore:
        """The object store."""
        return LocalObjectStore(self.folder / "home/objects")

    @staticmethod
    def of(known: Mapping[str, Any], name: str) -> Any:
        """Return one by name. Raises: NotFound."""
        if name not in known:
            raise NotFound(f"There is no {name}.")
        return known[name]

    def job(self, name: str) -> Any:
        """Return a job. Raises: NotFound."""
        return self.of({job.name: job for job in self.jobs.values()}, name)

    def lose_answer(self) -> None:
        """Break off after the work was done, as often as told. Raises: Unavailable."""
        if self.create_breaks:
            self.create_breaks -= 1
            raise Unavailable("The program restarts.")

    def begin_evaluation(self, job: Any) -> None:
        """Have the model of a job that succeeded compared with its base, where a suite was named."""
        if self.job_end != "SUCCEEDED" or not job.evaluation_settings.suite:
            return
        evaluation = evaluation_pb2.Evaluation(
            name=f"projects/default/evaluations/eval-{len(self.evaluations) + 1}",
            suite=job.evaluation_settings.suite,
            subjects=[evaluation_pb2.Subject(model=BASE), evaluation_pb2.Subject(model=TUNED, prompts=["zero-shot"])],
            state="STATE_PENDING",
            question_count=500,
            create_time=at(200),
        )
        self.evaluations[f"verdict-{job.name}"] = evaluation
        job.evaluation, job.awaits_verdict = evaluation.name, True

    def judge(self, job: Any) -> bool:
        """Keep the verdict once the job's evaluation has ended; whether it stands."""
        evaluation = self.evaluations[f"verdict-{job.name}"]
        if job.awaits_verdict and evaluation.HasField("end_time"):
            job.verdict.CopyFrom(_verdict(evaluation.name))
            job.awaits_verdict = False
        return not job.awaits_verdict

    def publish(self, job: Any) -> None:
        """Leave what a worker leaves."""
        data = {"metrics": METRICS, "validation": [{"step": 4, "loss": 0.4}], "steps": 4, "phases": {"train_s": 50.0}}
        self.store.commit(f"jobs/{job.name.rpartition('/')[2]}/manifest.json", Manifest("adapter", (), data).to_json())


@contextlib.asynccontextmanager
async def scripted_programs(folder: Path) -> AsyncIterator[World]:
    """Serve everything on one address, as if `afina up` had started it for the home `folder/home`."""
    world = World(folder)
    home = folder / "home"
    home.mkdir()
    databases = [SqlDatabase(f"sqlite:///{folder}/{name}.db") for name in ("dataset", "keys")]
    library = Library(databases[0], world.store, 4 << 20)
    registrations = [
        registration(file_pb2_grpc, file_pb2, "FileService", FileRpc(library)),
        registration(dataset_pb2_grpc, dataset_pb2, "DatasetService", DatasetRpc(library)),
        registration(api_key_pb2_grpc, api_key_pb2, "ApiKeyService", ApiKeyRpc(Keys(databases[1]))),
        registration(fine_tuning_job_pb2_grpc, fine_tuning_job_pb2, "FineTuningJobService", Jobs(world)),
        registration(suite_pb2_grpc, suite_pb2, "SuiteService", Suites(world)),
        registration(evaluation_pb2_grpc, evaluation_pb2, "EvaluationService", Evaluations(world)),
        registration(endpoint_pb2_grpc, endpoint_pb2, "EndpointService", Endpoints(world)),
        registration(model_pb2_grpc, model_pb2, "ModelService", Models(world)),
        registration(catalogue_pb2_grpc, catalogue_pb2, "CatalogueService", Catalogue(world)),
    ]
    async with serving(*registrations) as address, _chat(world) as url:
        names = ("dataset", "trainer", "evaluator", "inference", "gateway")
        record = {
            "pid": os.getpid(),
            "start_time": start_time(os.getpid()),
            "is_ready": True,
            "accelerator": "cpu",
            "addresses": {**dict.fromkeys(names, address), "http": url.removeprefix("http://")},
            "gateway_url": url,
            "object_store": f"file://{home / 'objects'}",
            "programs": {},
        }
        write_json(home / "up.json", record)
        (home / "service_token").write_text(SERVICE_TOKEN + "\n")
        (home / "api_key").write_text("afina-secret\n")
        world.environ = {"AFINA_HOME": str(home), "PATH": os.environ["PATH"]}
        yield world
    for database in databases:
        await database.close()


@contextlib.asynccontextmanager
async def _chat(world: World) -> AsyncIterator[str]:
    """The gateway's chat, which always says `positive`; streamed on request."""

    async def complete(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        world.asked.append({**body, "authorization": request.headers["Authorization"]})
        if body["model"] == "nothing":
            error = {"message": "There is no model nothing.", "type": "invalid_request_error", "code": "model_not_found"}
            return web.json_response({"error": error}, status=404)
        head = {"id": "chatcmpl-1", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "positive"}}
            return web.json_response({**head, "object": "chat.completion", "choices": [choice]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in ("posi", "tive"):
            choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
            chunk = {**head, "object": "chat.completion.chunk", "choices": [choice]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def _verdict(evaluation: str) -> model_pb2.Verdict:
    return model_pb2.Verdict(answer="ANSWER_BETTER", sentence="Better: p = 0.0022.", evaluation=evaluation, item_count=100)


def _score(model: str, prompt: str, right: int) -> evaluation_pb2.Score:
    confusion = [right, 0, 0, 100 - right, *[0] * 8]
    return evaluation_pb2.Score(
        model=model, prompt=prompt, accuracy=right / 100, accuracy_low=right / 100 - 0.06, accuracy_high=right / 100 + 0.06,
        item_count=100, confusion=confusion,
    )  # fmt: skip
