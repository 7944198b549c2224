"""/v1/uploads: files that come in parts, kept by the dataset program; a part goes through here in constant memory."""

import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from afina.v1 import file_pb2
from afina.v1 import upload_pb2 as pb
from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile

from services.common.errors import AfinaError, InvalidInput, NotFound
from services.common.names import last
from services.common.transport.grpc_client import Client
from services.common.transport.http_server import read_body
from services.gateway.keys import ApiKey
from services.gateway.openai import files as files_api
from services.gateway.openai.errors import invalid, unknown_parameter
from services.gateway.openai.files import UPLOAD_TIMEOUT_S, Caller
from services.gateway.openai.json_body import parse_strictly

MAX_PART_BYTES = 64 << 20  # Source: OpenAI's API reference; its SDK sends parts of 64 MiB
MAX_INT64 = 2**63 - 1
STATUSES = {
    pb.Upload.STATE_PENDING: "pending",
    pb.Upload.STATE_COMPLETED: "completed",
    pb.Upload.STATE_CANCELLED: "cancelled",
    pb.Upload.STATE_EXPIRED: "expired",
}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PARAMS = {
    "metadata.display_name": "filename",
    "metadata.purpose": "purpose",
    "upload.size_bytes": "bytes",
    "upload.mime_type": "mime_type",
    "chunk": "data",
}


def router(uploads: Client, files: Client, max_body_bytes: int, body_timeout_s: float) -> APIRouter:
    """Return the routes of uploads."""
    routes = APIRouter(prefix="/v1/uploads")

    @routes.post("")
    async def create(request: Request, key: Caller) -> dict[str, Any]:
        body = parse_strictly(await read_body(request.scope, request.receive, max_body_bytes, body_timeout_s))
        asked = pb.CreateUploadRequest(parent=f"projects/{key.project}", upload=_asked(body))
        return await _object(files, await _said(uploads.CreateUpload(asked)))

    @routes.post("/{upload_id}/parts")
    async def add_part(upload_id: str, request: Request, key: Caller) -> dict[str, Any]:
        name = _name(key, upload_id)
        async with files_api.form_of(request, MAX_PART_BYTES, body_timeout_s) as form:
            part = await _said(uploads.AddUploadPart(_messages(name, _data(form)), timeout_s=UPLOAD_TIMEOUT_S), upload_id)
        created_at = part.create_time.seconds
        return {"id": last(part.name), "object": "upload.part", "created_at": created_at, "upload_id": upload_id}

    @routes.post("/{upload_id}/complete")
    async def complete(upload_id: str, request: Request, key: Caller) -> dict[str, Any]:
        body = parse_strictly(await read_body(request.scope, request.receive, max_body_bytes, body_timeout_s))
        asked = _completion(_name(key, upload_id), body)
        return await _object(files, await _said(uploads.CompleteUpload(asked, timeout_s=UPLOAD_TIMEOUT_S), upload_id))

    @routes.post("/{upload_id}/cancel")
    async def cancel(upload_id: str, key: Caller) -> dict[str, Any]:
        asked = pb.CancelUploadRequest(name=_name(key, upload_id))
        return await _object(files, await _said(uploads.CancelUpload(asked), upload_id))

    return routes


async def _object(files: Client, upload: pb.Upload) -> dict[str, Any]:
    """Return an upload as OpenAI writes it, with its file while there is one."""
    file = None
    if upload.file:
        with contextlib.suppress(NotFound):  # deleted since: the upload is what it was all the same
            file = await files.GetFile(file_pb2.GetFileRequest(name=upload.file))
    return {
        "id": last(upload.name),
        "object": "upload",
        "bytes": upload.size_bytes,
        "created_at": upload.create_time.seconds,
        "expires_at": upload.expire_time.seconds,
        "filename": upload.display_name,
        "purpose": upload.purpose,
        "status": STATUSES[upload.state],
        "file": files_api.object_of(file) if file is not None else None,
    }


async def _said(call: Any, upload_id: str = "") -> Any:
    """Await a call; where it is refused, say so in the words that the client knows."""
    try:
        return await call
    except NotFound as error:
        raise _unknown(upload_id) from error
    except InvalidInput as error:
        if error.violations:
            field = error.violations[0].field
            error.metadata.setdefault("param", _PARAMS.get(field, field))
        raise


def _name(key: ApiKey, upload_id: str) -> str:
    if not _ID.fullmatch(upload_id):
        raise _unknown(upload_id)
    return f"projects/{key.project}/uploads/{upload_id}"


def _unknown(upload_id: str) -> AfinaError:
    return NotFound(f"No such Upload object: {upload_id[:100]}", reason="UPLOAD_NOT_FOUND", metadata={"param": "upload_id"})


def _asked(body: Mapping[str, Any]) -> pb.Upload:
    """Return the upload that a request opens. Raises: InvalidInput, naming the parameter."""
    for name, value in body.items():
        if name not in ("bytes", "filename", "mime_type", "purpose") and not (name == "expires_after" and value is None):
            raise unknown_parameter(name, "Files are kept until they are deleted." if name == "expires_after" else "")
    check_whole_bytes(body.get("bytes"))
    files_api.check_purpose(body.get("purpose"))
    texts = {name: _text(body, name) for name in ("filename", "mime_type")}
    return pb.Upload(
        display_name=texts["filename"], mime_type=texts["mime_type"], purpose=body["purpose"], size_bytes=body["bytes"]
    )


def check_whole_bytes(size_bytes: Any) -> None:
    """Refuse what is no number of bytes. Raises: InvalidInput."""
    if size_bytes is None:
        raise invalid("bytes", "Missing required parameter: 'bytes', the length of the whole file.", "MISSING_PARAMETER")
    if isinstance(size_bytes, bool) or not isinstance(size_bytes, int):
        told = f"Invalid type for 'bytes': expected a whole number, but got {size_bytes!r:.50}."
        raise invalid("bytes", told, "INVALID_TYPE")
    if abs(size_bytes) > MAX_INT64:
        raise invalid("bytes", f"Invalid 'bytes': {size_bytes!r:.50} is out of all bounds.")


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None:
        raise invalid(name, f"Missing required parameter: '{name}'.", "MISSING_PARAMETER")
    if not isinstance(value, str):
        raise invalid(name, f"Invalid type for '{name}': expected text, but got {value!r:.50}.", "INVALID_TYPE")
    return value


def _data(form: Mapping[str, Any]) -> UploadFile:
    for name in form:
        if name != "data":
            raise unknown_parameter(name)
    data = form.get("data")
    if not isinstance(data, UploadFile):
        raise invalid("data", "Missing required parameter: 'data', sent as a file of multipart/form-data.", "MISSING_PARAMETER")
    return data


def _completion(name: str, body: Mapping[str, Any]) -> pb.CompleteUploadRequest:
    for field in body:
        if field not in ("part_ids", "md5"):
            raise unknown_parameter(field)
    part_ids = body.get("part_ids")
    if not isinstance(part_ids, list) or not all(isinstance(part, str) for part in part_ids):
        raise invalid("part_ids", "Missing required parameter: 'part_ids', a list of the ids of parts.", "MISSING_PARAMETER")
    md5 = _text(body, "md5") if body.get("md5") is not None else ""
    return pb.CompleteUploadRequest(name=name, part_ids=part_ids, md5=md5)


async def _messages(name: str, data: UploadFile) -> AsyncIterator[pb.AddUploadPartRequest]:
    yield pb.AddUploadPartRequest(name=name)
    async for chunk in files_api.chunks_of(data):
        yield pb.AddUploadPartRequest(chunk=chunk)
