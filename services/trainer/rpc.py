"""FineTuningJobService, and StoreAccessService for workers: proto ↔ use case."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from afina.v1 import fine_tuning_job_pb2 as pb
from afina.v1 import fine_tuning_job_pb2_grpc, model_pb2
from google.protobuf import json_format

from services.common.ports.database import Record
from services.common.store_access import Grant
from services.common.transport import wire
from services.common.transport.store_access_rpc import StoreAccessRpc
from services.trainer import token_counts, use_cases
from services.trainer.job import Job
from services.trainer.use_cases import Trainer

_OPTIONAL = (
    "learning_rate", "epochs", "batch_size", "rank", "alpha", "dropout", "warmup_fraction", "weight_decay", "max_gradient_norm",
    "max_length", "validation_interval_steps", "seed", "learning_rate_multiplier", "early_stopping_patience",
    "published_checkpoint_count",
)  # fmt: skip


class FineTuningJobRpc(fine_tuning_job_pb2_grpc.FineTuningJobServiceServicer):
    """The jobs' API."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    async def CreateFineTuningJob(
        self, request: pb.CreateFineTuningJobRequest, context: grpc.aio.ServicerContext
    ) -> pb.FineTuningJob:
        """See the proto."""
        given = request.fine_tuning_job
        asked = Job(
            name="",
            base_model=given.base_model,
            training_file=given.training_file,
            validation_file=given.validation_file,
            dataset=given.dataset,
            split=_split(given),
            asked_recipe=asked_of(given.recipe),
            suffix=given.suffix,
            metadata=dict(given.metadata),
            evaluation_settings=evaluation_settings(given.evaluation_settings),
        )
        record = await use_cases.create_job(self._trainer, request.parent, asked, request.request_id)
        return await self._message(record)

    async def GetFineTuningJob(self, request: pb.GetFineTuningJobRequest, context: grpc.aio.ServicerContext) -> pb.FineTuningJob:
        """See the proto."""
        return await self._message(await use_cases.get_job(self._trainer, request.name))

    async def ListFineTuningJobs(
        self, request: pb.ListFineTuningJobsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListFineTuningJobsResponse:
        """See the proto."""
        after, limit = wire.page_of(request.page_size, request.page_token)
        records = await use_cases.list_jobs(self._trainer, request.parent, after, limit)
        jobs = [await self._message(record) for record in records]
        return pb.ListFineTuningJobsResponse(fine_tuning_jobs=jobs, next_page_token=wire.next_page_token(records, limit))

    async def CancelFineTuningJob(
        self, request: pb.CancelFineTuningJobRequest, context: grpc.aio.ServicerContext
    ) -> pb.FineTuningJob:
        """See the proto."""
        return await self._message(await use_cases.cancel_job(self._trainer, request.name))

    async def PauseFineTuningJob(
        self, request: pb.PauseFineTuningJobRequest, context: grpc.aio.ServicerContext
    ) -> pb.FineTuningJob:
        """See the proto."""
        return await self._message(await use_cases.pause_job(self._trainer, request.name))

    async def ResumeFineTuningJob(
        self, request: pb.ResumeFineTuningJobRequest, context: grpc.aio.ServicerContext
    ) -> pb.FineTuningJob:
        """See the proto."""
        return await self._message(await use_cases.resume_job(self._trainer, request.name))

    async def ListFineTuningJobEvents(
        self, request: pb.ListFineTuningJobEventsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListFineTuningJobEventsResponse:
        """See the proto."""
        _, limit = wire.page_of(request.page_size, "")
        after, newest_first = request.after_sequence, request.newest_first
        events = await use_cases.list_events(self._trainer, request.name, after, limit, newest_first)
        return pb.ListFineTuningJobEventsResponse(events=[wire.event(event) for event in events])

    async def WatchFineTuningJob(
        self, request: pb.WatchFineTuningJobRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchFineTuningJobResponse]:
        """See the proto."""
        changes = wire.watch(
            lambda: use_cases.get_job(self._trainer, request.name),
            lambda after: use_cases.list_events(self._trainer, request.name, after, wire.WATCH_PAGE),
            _is_told,
            request.after_sequence,
        )
        async for record, events in changes:
            yield pb.WatchFineTuningJobResponse(
                fine_tuning_job=await self._message(record), events=[wire.event(event) for event in events]
            )

    async def _message(self, record: Record) -> pb.FineTuningJob:
        return message_of(record, await use_cases.progress_of(self._trainer, record.name))


def store_access_rpc(trainer: Trainer) -> StoreAccessRpc:
    """Return what signs the requests of workers, for jobs and for counts."""

    async def find_grant(name: str, attempt: int, token: str) -> Grant:
        find = token_counts.store_grant if "/tokenCounts/" in name else use_cases.store_grant
        return await find(trainer, name, attempt, token)

    return StoreAccessRpc(trainer.store, find_grant)


def message_of(record: Record, progress: Any) -> pb.FineTuningJob:
    """Return a job as it travels."""
    job = Job.from_document(record.document)
    message = pb.FineTuningJob(
        name=job.name,
        state=pb.FineTuningJob.State.Value(f"STATE_{job.state}"),
        base_model=job.base_model,
        training_file=job.training_file,
        validation_file=job.validation_file,
        dataset=job.dataset,
        token_count=job.token_count,
        sweep=job.sweep,
        validation_loss=job.validation_loss,
        recipe=recipe_message(job.asked_recipe),
        effective_recipe=recipe_message(job.recipe),
        suffix=job.suffix,
        metadata=job.metadata,
        attempt=job.attempt,
        model=job.model,
        fine_tuned_model=job.fine_tuned_model if job.state == "SUCCEEDED" else "",
        error=wire.error_status(job.error),
        create_time=wire.timestamp(record.create_time),
        start_time=wire.timestamp(job.start_time),
        end_time=wire.timestamp(job.end_time),
        etag=str(record.version),
        checkpoints=[_checkpoint(told) for told in job.checkpoints if told["model"]],
        result_files=[job.result_file] if job.result_file else [],
        evaluation_settings=pb.JobEvaluation(**job.evaluation_settings) if job.evaluation_settings else None,
        evaluation=job.evaluation,
        verdict=_verdict(job.verdict),
        awaits_verdict=job.awaits_verdict,
    )
    if job.split:
        json_format.ParseDict(dict(job.split), message.split)
    if progress:
        json_format.ParseDict(dict(progress), message.progress, ignore_unknown_fields=True)
    return message


def _is_told(record: Record) -> bool:
    """Whether there is nothing more to come of a job."""
    job = Job.from_document(record.document)
    return job.has_ended and not job.awaits_verdict


def evaluation_settings(given: pb.JobEvaluation) -> dict[str, Any]:
    """Return how base and candidate are to be compared, what was left open left out."""
    asked = {"is_disabled": given.is_disabled, "suite": given.suite, "candidate_prompts": list(given.candidate_prompts)}
    return {name: value for name, value in asked.items() if value}


def _verdict(verdict: Mapping[str, Any]) -> model_pb2.Verdict | None:
    if not verdict:
        return None
    told = {**verdict, "answer": f"ANSWER_{verdict['answer']}", "create_time": wire.timestamp(verdict["create_time"])}
    return model_pb2.Verdict(**told)


def _checkpoint(told: Mapping[str, Any]) -> pb.PublishedCheckpoint:
    numbers = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    return pb.PublishedCheckpoint(
        step=told["step"],
        model=told["model"],
        public_id=told["public_id"],
        create_time=wire.timestamp(told["create_time"]),
        **{name: told["metrics"][name] for name in numbers if name in told["metrics"]},
    )


def asked_of(recipe: pb.Recipe) -> dict[str, Any]:
    """Return the hyperparameters that were given."""
    asked: dict[str, Any] = {name: getattr(recipe, name) for name in _OPTIONAL if recipe.HasField(name)}
    if recipe.target_modules:
        asked["target_modules"] = list(recipe.target_modules)
    if recipe.schedule:
        known = recipe.schedule in pb.Recipe.Schedule.values()
        asked["schedule"] = pb.Recipe.Schedule.Name(recipe.schedule).removeprefix("SCHEDULE_").lower() if known else "unknown"
    return asked


def recipe_message(document: Any) -> pb.Recipe | None:
    """Return a recipe as it travels; None for none."""
    if not document:
        return None
    fields = {name: document[name] for name in _OPTIONAL if document.get(name) is not None}
    schedule = document.get("schedule")
    return pb.Recipe(
        **fields,
        target_modules=document.get("target_modules", []),
        schedule=f"SCHEDULE_{schedule.upper()}" if schedule else None,
    )


def _split(given: pb.FineTuningJob) -> dict[str, Any]:
    if not given.HasField("split"):
        return {}
    split = given.split
    return {
        "train_fraction": split.train_fraction,
        "validation_fraction": split.validation_fraction,
        "test_fraction": split.test_fraction,
        "seed": split.seed,
    }
