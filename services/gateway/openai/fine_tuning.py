"""/v1/fine_tuning/jobs: OpenAI's words for the trainer's jobs."""

import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any

from afina.v1 import fine_tuning_job_pb2 as pb
from fastapi import APIRouter, Depends, Query, Request

from services.common.errors import AfinaError, InvalidInput, NotFound
from services.common.names import last
from services.common.transport.grpc_client import Client
from services.common.transport.http_server import header, read_body
from services.common.transport.wire import MAX_PAGE
from services.gateway.keys import ApiKey
from services.gateway.openai.callers import caller
from services.gateway.openai.errors import invalid
from services.gateway.openai.fine_tuning_objects import checkpoint_of, event_of, job_of, sequence_of
from services.gateway.openai.fine_tuning_parameters import asked_job
from services.gateway.openai.json_body import parse_strictly
from services.gateway.openai.paging import PAGE, every, only_query, page
from services.gateway.routing import model_not_found

Caller = Annotated[ApiKey, Depends(caller)]
Limit = Annotated[int, Query(ge=1, le=1000)]
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_METADATA = re.compile(r"metadata\[(.+)\]")
_PARAMS = {
    "fine_tuning_job.base_model": "model",
    "fine_tuning_job.training_file": "training_file",
    "fine_tuning_job.validation_file": "validation_file",
    "fine_tuning_job.suffix": "suffix",
    "fine_tuning_job.metadata": "metadata",
    "fine_tuning_job.evaluation_settings.suite": "evaluation",
    "recipe.epochs": "hyperparameters.n_epochs",
    "recipe.batch_size": "hyperparameters.batch_size",
    "recipe.learning_rate_multiplier": "hyperparameters.learning_rate_multiplier",
    "recipe.seed": "seed",
}


def router(jobs: Client, max_body_bytes: int, body_timeout_s: float) -> APIRouter:
    """Return the routes of fine-tuning jobs."""
    routes = APIRouter(prefix="/v1/fine_tuning/jobs")

    @routes.post("")
    async def create(request: Request, key: Caller) -> dict[str, Any]:
        body = parse_strictly(await read_body(request.scope, request.receive, max_body_bytes, body_timeout_s))
        asked = asked_job(body, key.project)
        once = header(request.scope, b"idempotency-key") or secrets.token_bytes(16)
        call = pb.CreateFineTuningJobRequest(
            parent=f"projects/{key.project}",
            fine_tuning_job=asked,
            request_id=hashlib.sha256(once).hexdigest(),  # a key may be long, and the client below repeats what got no answer
        )
        try:
            return job_of(await jobs.CreateFineTuningJob(call))
        except (NotFound, InvalidInput) as error:
            raise _in_openai_words(error, asked) from error

    @routes.get("", dependencies=[Depends(only_query("after", "limit", "metadata", prefix="metadata["))])
    async def list_all(request: Request, key: Caller, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        wanted = _metadata_filter(request)
        call = pb.ListFineTuningJobsRequest(
            parent=f"projects/{key.project}", page_size=PAGE if after or wanted else min(limit + 1, MAX_PAGE)
        )
        found = every(jobs.ListFineTuningJobs, call, "fine_tuning_jobs")
        return await page((job_of(job) async for job in found if _has_metadata(job, wanted)), after, limit)

    _add_one_job(routes, jobs)
    return routes


def _add_one_job(routes: APIRouter, jobs: Client) -> None:
    """Add the routes of a job that exists."""

    @routes.get("/{job_id}")
    async def retrieve(job_id: str, key: Caller) -> dict[str, Any]:
        return job_of(await jobs.GetFineTuningJob(pb.GetFineTuningJobRequest(name=_name(key, job_id))))

    @routes.post("/{job_id}/cancel")
    async def cancel(job_id: str, key: Caller) -> dict[str, Any]:
        return job_of(await jobs.CancelFineTuningJob(pb.CancelFineTuningJobRequest(name=_name(key, job_id))))

    @routes.post("/{job_id}/pause")
    async def pause(job_id: str, key: Caller) -> dict[str, Any]:
        return job_of(await jobs.PauseFineTuningJob(pb.PauseFineTuningJobRequest(name=_name(key, job_id))))

    @routes.post("/{job_id}/resume")
    async def resume(job_id: str, key: Caller) -> dict[str, Any]:
        return job_of(await jobs.ResumeFineTuningJob(pb.ResumeFineTuningJobRequest(name=_name(key, job_id))))

    @routes.get("/{job_id}/events", dependencies=[Depends(only_query("after", "limit"))])
    async def list_events(job_id: str, key: Caller, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        sequence = sequence_of(job_id, after) if after is not None else None
        if after is not None and sequence is None:
            raise invalid("after", f"Invalid 'after': there is no event with the id '{after[:100]}' in this list.")
        # One more than the page, to know whether there are more; and the one that it follows, to know that it is there.
        events = [event_of(job_id, event) async for event in _events(jobs, _name(key, job_id), (sequence or -1) + 1, limit + 2)]
        return await page(_each(events), after, limit)

    @routes.get("/{job_id}/checkpoints", dependencies=[Depends(only_query("after", "limit"))])
    async def list_checkpoints(job_id: str, key: Caller, after: str | None = None, limit: Limit = 10) -> dict[str, Any]:
        job = await jobs.GetFineTuningJob(pb.GetFineTuningJobRequest(name=_name(key, job_id)))
        return await page(_each([checkpoint_of(job_id, told) for told in reversed(job.checkpoints)]), after, limit)


def _name(key: ApiKey, job_id: str) -> str:
    if not _ID.fullmatch(job_id):
        raise NotFound(f"Could not find fine tune: {job_id[:100]}", metadata={"param": "fine_tune_id"})
    return f"projects/{key.project}/fineTuningJobs/{job_id}"


async def _events(jobs: Client, name: str, before: int, count: int) -> AsyncIterator[Any]:
    """Yield so many of a job's events, newest first, from the one before a sequence on; 0 for the newest."""
    while count > 0:
        size = min(count, MAX_PAGE)
        request = pb.ListFineTuningJobEventsRequest(name=name, after_sequence=before, page_size=size, newest_first=True)
        events = (await jobs.ListFineTuningJobEvents(request)).events
        for event in events:
            yield event
        if len(events) < size:
            return
        before, count = events[-1].sequence, count - size


async def _each(items: Iterable[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for item in items:
        yield item


def _metadata_filter(request: Request) -> dict[str, str] | None:
    """Return the pairs that a job must have: none of them selects all, None selects jobs without any."""
    if "metadata" in request.query_params:
        if request.query_params["metadata"] != "null":
            raise invalid("metadata", "Invalid 'metadata': write metadata[key]=value, or metadata=null.")
        return None
    pairs = ((_METADATA.fullmatch(name), value) for name, value in request.query_params.items())
    return {match.group(1): value for match, value in pairs if match}


def _has_metadata(job: pb.FineTuningJob, wanted: dict[str, str] | None) -> bool:
    if wanted is None:
        return not job.metadata
    return all(job.metadata.get(name) == value for name, value in wanted.items())


def _in_openai_words(error: AfinaError, asked: pb.FineTuningJob) -> AfinaError:
    """Say which parameter it was, by the name that the client knows."""
    if isinstance(error, NotFound):
        for param in ("training_file", "validation_file"):
            file = getattr(asked, param)
            if file and (file == error.metadata.get("name") or file in error.message):
                message = f"No such File object: {last(file)}"
                return NotFound(message, reason="FILE_NOT_FOUND", metadata={"param": param})
        suite = asked.evaluation_settings.suite
        if suite and suite in error.message:
            return NotFound(f"No such suite: {last(suite)}", reason="SUITE_NOT_FOUND", metadata={"param": "evaluation"})
        return model_not_found(asked.base_model)
    error.metadata.setdefault("param", _PARAMS.get(error.violations[0].field, "") if error.violations else "")
    error.message = re.sub(r"\bepochs is\b", "n_epochs is", error.message)
    return error
