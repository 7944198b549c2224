"""Jobs and their events as OpenAI writes them."""

import re
import time
from collections.abc import Callable
from typing import Any

from afina.v1 import fine_tuning_job_pb2 as pb
from afina.v1 import model_pb2, resources_pb2
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from services.common.names import last, project_of

STATUSES = {
    pb.FineTuningJob.STATE_VALIDATING: "validating_files",
    pb.FineTuningJob.STATE_PENDING: "queued",
    pb.FineTuningJob.STATE_RUNNING: "running",
    pb.FineTuningJob.STATE_PROVING: "running",
    pb.FineTuningJob.STATE_SUCCEEDED: "succeeded",
    pb.FineTuningJob.STATE_FAILED: "failed",
    pb.FineTuningJob.STATE_CANCELLING: "cancelled",
    pb.FineTuningJob.STATE_CANCELLED: "cancelled",
    pb.FineTuningJob.STATE_PAUSING: "paused",
    pb.FineTuningJob.STATE_PAUSED: "paused",
}
_LEVELS = {resources_pb2.Event.LEVEL_WARNING: "warn", resources_pb2.Event.LEVEL_ERROR: "error"}
# Faults of the records themselves; OpenAI has one code for them.
_FILE_REASONS = ("RECORDS_INVALID", "FILE_EMPTY", "PURPOSE_UNSUPPORTED")


def job_of(job: pb.FineTuningJob, now: Callable[[], float] = time.time) -> dict[str, Any]:
    """Return a job as OpenAI writes it."""
    has_succeeded = job.state == pb.FineTuningJob.STATE_SUCCEEDED
    hyperparameters = _hyperparameters(job)
    error, mistakes_file = _error(job.error) if job.HasField("error") else (None, "")
    is_estimated = job.state == pb.FineTuningJob.STATE_RUNNING and job.progress.step > 0
    return {
        "id": last(job.name),
        "object": "fine_tuning.job",
        "created_at": job.create_time.seconds,
        "finished_at": job.end_time.seconds if job.HasField("end_time") else None,
        "estimated_finish": int(now() + job.progress.eta_s) if is_estimated else None,
        "status": STATUSES[job.state],
        "model": job.base_model,
        "fine_tuned_model": job.fine_tuned_model or None,
        "training_file": last(job.training_file),
        "validation_file": last(job.validation_file) or None,
        "result_files": [last(file) for file in [*job.result_files, mistakes_file] if file],
        "trained_tokens": job.progress.trained_tokens if has_succeeded else None,
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "seed": job.effective_recipe.seed if job.effective_recipe.HasField("seed") else job.recipe.seed,
        "user_provided_suffix": job.suffix or None,
        "metadata": dict(job.metadata),
        "integrations": [],
        "error": error,
        "evaluation": _evaluation(job),
        "organization_id": project_of(job.name),
    }


def _evaluation(job: pb.FineTuningJob) -> dict[str, Any] | None:
    """Return how the model does beside its base, which OpenAI's jobs do not tell; None where nothing is compared."""
    if not job.evaluation and not job.awaits_verdict:
        return None
    verdict = job.verdict if job.HasField("verdict") else None
    answer = model_pb2.Verdict.Answer.Name(verdict.answer).removeprefix("ANSWER_").lower() if verdict else None
    status = "completed" if verdict else "in_progress" if job.awaits_verdict else "failed"
    return {
        "id": last(job.evaluation) if job.evaluation else None,
        "status": status,
        "verdict": answer,
        "reason": verdict.sentence if verdict else None,
    }


def checkpoint_of(job_id: str, checkpoint: pb.PublishedCheckpoint) -> dict[str, Any]:
    """Return a model published at a step as OpenAI writes it; all validation rows are used each time, so valid is full_valid."""
    has_validation = checkpoint.HasField("validation_loss")
    loss, accuracy = checkpoint.validation_loss, checkpoint.validation_accuracy
    validation = {
        "valid_loss": loss, "valid_mean_token_accuracy": accuracy,
        "full_valid_loss": loss, "full_valid_mean_token_accuracy": accuracy,
    }  # fmt: skip
    return {
        "id": f"ftckpt-{job_id.removeprefix('ftjob-')}-{checkpoint.step}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": checkpoint.create_time.seconds,
        "fine_tuning_job_id": job_id,
        "fine_tuned_model_checkpoint": checkpoint.public_id,
        "step_number": checkpoint.step,
        "metrics": {
            "step": checkpoint.step,
            "train_loss": checkpoint.train_loss,
            "train_mean_token_accuracy": checkpoint.train_accuracy,
            **(validation if has_validation else dict.fromkeys(validation)),
        },
    }


def event_of(job_id: str, event: resources_pb2.Event) -> dict[str, Any]:
    """Return an event as OpenAI writes it."""
    is_step = event.type == "STEP"
    data = {name: _whole(value) for name, value in json_format.MessageToDict(event.data).items()}
    return {
        "id": f"ftevent-{job_id.removeprefix('ftjob-')}-{event.sequence}",
        "object": "fine_tuning.job.event",
        "created_at": event.create_time.seconds,
        "level": _LEVELS.get(event.level, "info"),
        "message": event.message,
        "type": "metrics" if is_step else "message",
        "data": data if is_step else {"type": event.type, **data},
    }


def sequence_of(job_id: str, event_id: str) -> int | None:
    """Return the sequence in an event's id, or None where it is not an event of this job."""
    match = re.fullmatch(rf"ftevent-{re.escape(job_id.removeprefix('ftjob-'))}-(\d{{1,18}})", event_id)
    return int(match.group(1)) if match else None


def _hyperparameters(job: pb.FineTuningJob) -> dict[str, Any]:
    """Return what is used where that is known, else what was asked for, else auto."""

    def used(name: str) -> Any:
        return next((getattr(r, name) for r in (job.effective_recipe, job.recipe) if r.HasField(name)), "auto")

    is_resolved = job.HasField("effective_recipe")
    multiplier: Any = job.recipe.learning_rate_multiplier if job.recipe.HasField("learning_rate_multiplier") else "auto"
    if multiplier == "auto" and is_resolved:
        multiplier = None if job.recipe.HasField("learning_rate") else 1.0
    return {"n_epochs": used("epochs"), "batch_size": used("batch_size"), "learning_rate_multiplier": multiplier}


def _error(status: status_pb2.Status) -> tuple[dict[str, Any], str]:
    """Return the error, with a line for each mistake that is known, and the file that lists all of them."""
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        if not detail.Unpack(info):
            detail.Unpack(request)
    lines = [f"{violation.field}: {violation.description}" for violation in request.field_violations]
    metadata = dict(info.metadata)
    mistakes_file = metadata.get("mistakes_file", "")
    missing = int(metadata.get("violation_count", 0)) - len(lines)
    if missing > 0:
        where = f"; all of them are in {last(mistakes_file)}" if mistakes_file else ""
        lines.append(f"... and {missing} more{where}.")
    is_about_file = info.reason in _FILE_REASONS
    error = {
        "code": "invalid_training_file" if is_about_file else info.reason.lower() or "server_error",
        "param": "training_file" if is_about_file else None,
        "message": "\n".join([status.message, *lines]),
    }
    return error, mistakes_file


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
