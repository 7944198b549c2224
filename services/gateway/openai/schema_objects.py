"""JSON Schemas of what clients are given, and which path gives which."""

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_WHOLE: Schema = {"type": "integer"}
_WHOLE_OR_NULL: Schema = {"type": ["integer", "null"]}
_NUMBER: Schema = {"type": "number"}
_NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
_FLAG: Schema = {"type": "boolean"}
_ANY_OBJECT: Schema = {"type": "object"}
_OBJECT_OR_NULL: Schema = {"type": ["object", "null"]}
STREAMED = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
_JOBS, _JOB = "/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs/{job_id}"

ANSWERS = {
    ("post", "/v1/chat/completions"): "ChatCompletion",
    ("post", "/v1/completions"): "Completion",
    ("post", "/v1/responses"): "Response",
    ("post", "/v1/files"): "File",
    ("get", "/v1/files"): "FileList",
    ("get", "/v1/files/{file_id}"): "File",
    ("delete", "/v1/files/{file_id}"): "Deleted",
    ("post", "/v1/uploads"): "Upload",
    ("post", "/v1/uploads/{upload_id}/parts"): "UploadPart",
    ("post", "/v1/uploads/{upload_id}/complete"): "Upload",
    ("post", "/v1/uploads/{upload_id}/cancel"): "Upload",
    ("post", _JOBS): "FineTuningJob",
    ("get", _JOBS): "FineTuningJobList",
    ("get", _JOB): "FineTuningJob",
    ("post", f"{_JOB}/cancel"): "FineTuningJob",
    ("post", f"{_JOB}/pause"): "FineTuningJob",
    ("post", f"{_JOB}/resume"): "FineTuningJob",
    ("get", f"{_JOB}/events"): "EventList",
    ("get", f"{_JOB}/checkpoints"): "CheckpointList",
    ("get", "/v1/models"): "ModelList",
    ("get", "/v1/models/{model}"): "Model",
    ("delete", "/v1/models/{model}"): "Deleted",
}


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def schemas() -> dict[str, Schema]:
    """Return all schemas by name."""
    lists = {f"{name}List": _list(name) for name in ("File", "FineTuningJob", "Event", "Checkpoint", "Model")}
    lists["ModelList"]["required"] = ["object", "data"]
    return {**{name: _object(fields) for name, fields in _OBJECTS.items()}, **lists}


def _object(fields: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": fields, "required": list(fields)}


def _list(name: str) -> Schema:
    return _object({"object": {"const": "list"}, "data": {"type": "array", "items": ref(name)}, "has_more": _FLAG})


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_OBJECTS: dict[str, dict[str, Schema]] = {
    "Error": {"error": _object({"message": _TEXT, "type": _TEXT, "param": _TEXT_OR_NULL, "code": _TEXT_OR_NULL})},
    "Deleted": {"id": _TEXT, "object": _TEXT, "deleted": {"const": True}},
    "Model": {"id": _TEXT, "object": {"const": "model"}, "created": _WHOLE, "owned_by": _TEXT},
    "File": {
        "id": _TEXT, "object": {"const": "file"}, "bytes": _WHOLE, "created_at": _WHOLE, "filename": _TEXT, "purpose": _TEXT,
        "status": {"const": "processed"},
    },
    "Upload": {
        "id": _TEXT, "object": {"const": "upload"}, "bytes": _WHOLE, "created_at": _WHOLE, "expires_at": _WHOLE,
        "filename": _TEXT, "purpose": _TEXT, "status": {"enum": ["pending", "completed", "cancelled", "expired"]},
        "file": {"anyOf": [ref("File"), {"type": "null"}]},
    },
    "UploadPart": {"id": _TEXT, "object": {"const": "upload.part"}, "created_at": _WHOLE, "upload_id": _TEXT},
    "FineTuningJob": {
        "id": _TEXT, "object": {"const": "fine_tuning.job"}, "created_at": _WHOLE, "finished_at": _WHOLE_OR_NULL,
        "estimated_finish": _WHOLE_OR_NULL, "model": _TEXT, "fine_tuned_model": _TEXT_OR_NULL, "training_file": _TEXT,
        "validation_file": _TEXT_OR_NULL, "result_files": _array(_TEXT), "trained_tokens": _WHOLE_OR_NULL,
        "status": {"enum": ["validating_files", "queued", "running", "succeeded", "failed", "cancelled", "paused"]},
        "hyperparameters": _ANY_OBJECT, "method": _ANY_OBJECT, "seed": _WHOLE, "metadata": _ANY_OBJECT, "error": _OBJECT_OR_NULL,
        "organization_id": _TEXT, "evaluation": _OBJECT_OR_NULL,
    },
    "Event": {
        "id": _TEXT, "object": {"const": "fine_tuning.job.event"}, "created_at": _WHOLE, "message": _TEXT,
        "level": {"enum": ["info", "warn", "error"]}, "type": {"enum": ["message", "metrics"]}, "data": _ANY_OBJECT,
    },
    "Checkpoint": {
        "id": _TEXT, "object": {"const": "fine_tuning.job.checkpoint"}, "created_at": _WHOLE, "fine_tuning_job_id": _TEXT,
        "fine_tuned_model_checkpoint": _TEXT, "step_number": _WHOLE, "metrics": _ANY_OBJECT,
    },
    "ChatCompletion": {
        "id": _TEXT, "object": {"const": "chat.completion"}, "created": _WHOLE, "model": _TEXT, "choices": _array(_ANY_OBJECT),
        "system_fingerprint": _TEXT,
    },
    "Completion": {
        "id": _TEXT, "object": {"const": "text_completion"}, "created": _WHOLE, "model": _TEXT, "choices": _array(_ANY_OBJECT),
        "system_fingerprint": _TEXT,
    },
    "Response": {
        "id": _TEXT, "object": {"const": "response"}, "created_at": _NUMBER, "model": _TEXT, "output": _array(_ANY_OBJECT),
        "status": {"enum": ["completed", "incomplete"]}, "error": {"type": "null"}, "incomplete_details": _OBJECT_OR_NULL,
        "instructions": _TEXT_OR_NULL, "max_output_tokens": _WHOLE_OR_NULL, "temperature": _NUMBER_OR_NULL,
        "top_p": _NUMBER_OR_NULL, "metadata": _ANY_OBJECT, "parallel_tool_calls": _FLAG, "tools": _array(_ANY_OBJECT),
        "usage": _OBJECT_OR_NULL, "store": {"const": False},
    },
}  # fmt: skip
