"""/v1/files: uploads, kept by the dataset program; their bytes go through here in constant memory."""

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from urllib.parse import quote

from afina.v1 import file_pb2 as pb
from fastapi import APIRouter, Depends, Query, Request
from starlette.datastructures import UploadFile
from starlette.responses import StreamingResponse

from services.common.errors import InvalidInput, NotFound, Unavailable
from services.common.names import last
from services.common.transport.grpc_client import Client
from services.common.transport.http_server import header, limited, paced
from services.gateway.keys import ApiKey
from services.gateway.openai.callers import caller
from services.gateway.openai.errors import invalid, unknown_parameter
from services.gateway.openai.paging import every, only_query, page

CHUNK_BYTES = 1 << 20
UPLOAD_TIMEOUT_S = 600.0
MULTIPART_BYTES = 1 << 16  # what boundaries and the other fields may take
Caller = Annotated[ApiKey, Depends(caller)]
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PARAMS = {"metadata.display_name": "file", "metadata.purpose": "purpose", "chunk": "file"}
_CHARSET = re.compile(rb"charset=\"?([^;\"\s]+)")


def router(files: Client, max_file_bytes: int, body_timeout_s: float) -> APIRouter:
    """Return the routes of files."""
    routes = APIRouter(prefix="/v1/files")

    @routes.post("")
    async def create(request: Request, key: Caller) -> dict[str, Any]:
        return object_of(await _create(files, request, key, max_file_bytes, body_timeout_s))

    @routes.get("", dependencies=[Depends(only_query("after", "limit", "order", "purpose"))])
    async def list_all(
        key: Caller,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
        purpose: str | None = None,
    ) -> dict[str, Any]:
        found = every(files.ListFiles, pb.ListFilesRequest(parent=f"projects/{key.project}"), "files")
        return await page(_selected(found, order, purpose), after, limit)

    @routes.get("/{file_id}")
    async def retrieve(file_id: str, key: Caller) -> dict[str, Any]:
        return object_of(await files.GetFile(pb.GetFileRequest(name=name_of(key, file_id))))

    @routes.get("/{file_id}/content")
    async def content(file_id: str, key: Caller) -> StreamingResponse:
        file = await files.GetFile(pb.GetFileRequest(name=name_of(key, file_id)))
        chunks = files.ReadFile(pb.ReadFileRequest(name=file.name))
        first = await anext(chunks, pb.ReadFileResponse())  # what is wrong shows before the status is sent
        disposition = f"attachment; filename*=UTF-8''{quote(file.display_name, safe='')}"
        headers = {"content-disposition": disposition, "content-length": str(file.size_bytes)}
        return StreamingResponse(_bytes(first, chunks), media_type="application/octet-stream", headers=headers)

    @routes.delete("/{file_id}")
    async def delete(file_id: str, key: Caller) -> dict[str, Any]:
        await files.DeleteFile(pb.DeleteFileRequest(name=name_of(key, file_id)))
        return {"id": file_id, "object": "file", "deleted": True}

    return routes


def object_of(file: pb.File) -> dict[str, Any]:
    """Return a file as OpenAI writes it."""
    return {
        "id": last(file.name),
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": file.create_time.seconds,
        "expires_at": None,
        "filename": file.display_name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def name_of(key: ApiKey, file_id: str) -> str:
    """Return the resource name of a file id. Raises: NotFound (it can't be one)."""
    if not _ID.fullmatch(file_id):
        raise NotFound(f"No such File object: {file_id[:100]}", metadata={"param": "id"})
    return f"projects/{key.project}/files/{file_id}"


async def _create(files: Client, request: Request, key: ApiKey, max_file_bytes: int, body_timeout_s: float) -> pb.File:
    """Set an upload aside, then hand it on. Raises: InvalidInput, OverLimit, Unavailable."""
    try:
        async with form_of(request, max_file_bytes, body_timeout_s) as form:
            upload = _upload(form)
            metadata = pb.FileMetadata(
                parent=f"projects/{key.project}",
                display_name=upload.filename or "",
                purpose=form["purpose"],
                size_bytes=upload.size or 0,
            )
            file: pb.File = await files.CreateFile(_messages(metadata, upload), timeout_s=UPLOAD_TIMEOUT_S)
            return file
    except InvalidInput as error:
        if error.violations:
            error.metadata.setdefault("param", _PARAMS.get(error.violations[0].field, "file"))
        raise


@contextlib.asynccontextmanager
async def form_of(request: Request, max_file_bytes: int, body_timeout_s: float) -> AsyncIterator[dict[str, Any]]:
    """Give the fields of a form; its one file is set aside on disk.

    Raises: InvalidInput, OverLimit (too large, or too slow), Unavailable.
    """
    if not header(request.scope, b"content-type").startswith(b"multipart/form-data"):
        raise InvalidInput("The body is not a form; send it as multipart/form-data.", reason="FORM_EXPECTED")
    charset = _CHARSET.search(header(request.scope, b"content-type").lower())
    if charset and charset[1] not in (b"utf-8", b"utf8"):
        raise InvalidInput("A form's names are read as UTF-8; leave the charset out.", reason="CHARSET_UNSUPPORTED")
    receive = paced(limited(request.scope, request.receive, max_file_bytes + MULTIPART_BYTES), body_timeout_s)
    request = Request(request.scope, receive)
    try:
        async with request.form(max_files=1, max_fields=8) as form:
            yield dict(form.multi_items())
    except OSError as error:
        raise Unavailable(
            f"The upload can't be set aside ({error.strerror}); make room in the gateway's temporary folder.",
            reason="DISK_UNAVAILABLE",
        ) from error


def check_purpose(purpose: Any) -> None:
    """Refuse what files can't be uploaded for. Raises: InvalidInput."""
    if not isinstance(purpose, str):
        raise invalid("purpose", "Missing required parameter: 'purpose'; send fine-tune.", "MISSING_PARAMETER")
    if purpose != "fine-tune":
        raise invalid("purpose", f"Invalid 'purpose': {purpose!r:.60} is not a purpose for uploads; send 'fine-tune'.")


def _upload(fields: dict[str, Any]) -> UploadFile:
    """Return the file of a form. Raises: InvalidInput, naming the field."""
    for name in fields:
        if name not in ("file", "purpose"):
            hint = "Files are kept until they are deleted." if name.startswith("expires_after") else ""
            raise unknown_parameter(name, hint)
    upload = fields.get("file")
    if not isinstance(upload, UploadFile):
        raise invalid("file", "Missing required parameter: 'file', sent as a file of multipart/form-data.", "MISSING_PARAMETER")
    check_purpose(fields.get("purpose"))
    return upload


async def chunks_of(upload: UploadFile) -> AsyncIterator[bytes]:
    """Yield what was set aside, in pieces as gRPC takes them."""
    while chunk := await upload.read(CHUNK_BYTES):
        yield chunk


async def _messages(metadata: pb.FileMetadata, upload: UploadFile) -> AsyncIterator[pb.CreateFileRequest]:
    yield pb.CreateFileRequest(metadata=metadata)
    async for chunk in chunks_of(upload):
        yield pb.CreateFileRequest(chunk=chunk)


async def _bytes(first: pb.ReadFileResponse, rest: AsyncIterator[pb.ReadFileResponse]) -> AsyncIterator[bytes]:
    yield first.chunk
    async for response in rest:
        yield response.chunk


async def _selected(files: AsyncIterator[pb.File], order: str, purpose: str | None) -> AsyncIterator[dict[str, Any]]:
    selected = (object_of(file) async for file in files if purpose in (None, file.purpose))
    if order == "desc":
        async for item in selected:
            yield item
        return
    for item in reversed([item async for item in selected]):
        yield item
