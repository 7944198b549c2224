"""What every `rpc.py` translates the same way: times, pages, events, errors on resources, and watching."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import grpc
from afina.v1 import resources_pb2
from google.protobuf import json_format, struct_pb2, timestamp_pb2
from google.rpc import error_details_pb2, status_pb2

from services.common import errors
from services.common.ports.database import NewEvent, Record, StoredEvent
from services.common.transport.grpc_server import ERROR_BY_CODE, status_of

DEFAULT_PAGE = 50
MAX_PAGE = 1000
WATCH_LOOK_S = 0.25
WATCH_PAGE = 200


def timestamp(time: datetime | str | None) -> timestamp_pb2.Timestamp | None:
    """Return a protobuf time; None for what has not come yet (None or an empty string)."""
    if not time:
        return None
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(datetime.fromisoformat(time) if isinstance(time, str) else time)
    return message


def struct(data: Mapping[str, Any]) -> struct_pb2.Struct:
    """Return JSON as a protobuf Struct."""
    message = struct_pb2.Struct()
    json_format.ParseDict(dict(data), message)
    return message


def page_of(page_size: int, page_token: str) -> tuple[int | None, int]:
    """Return (after, limit) of a list request. Raises: InvalidInput."""
    if not 0 <= page_size <= MAX_PAGE:
        raise errors.InvalidInput(f"page_size is {page_size}; choose 0 to {MAX_PAGE}.", reason="PAGE_SIZE_INVALID")
    if page_token and not (page_token.isascii() and page_token.isdigit() and len(page_token) <= 18):
        raise errors.InvalidInput("page_token is not one that a list gave.", reason="PAGE_TOKEN_INVALID")
    return (int(page_token) if page_token else None), page_size or DEFAULT_PAGE


def next_page_token(records: Sequence[Record], limit: int) -> str:
    """Return the token of the page after these records; empty where they did not fill theirs."""
    return str(records[-1].sequence) if len(records) == limit else ""


def event(stored: StoredEvent) -> resources_pb2.Event:
    """Return an event as it travels."""
    return resources_pb2.Event(
        sequence=stored.sequence,
        create_time=timestamp(stored.create_time),
        type=stored.type,
        level=resources_pb2.Event.Level.Value(f"LEVEL_{stored.level}"),
        message=stored.message,
        data=struct(stored.data),
    )


def new_event(message: resources_pb2.Event) -> NewEvent:
    """Return an event as a worker reported it; its numbers stay whole where they are."""
    level = resources_pb2.Event.Level.Name(message.level).removeprefix("LEVEL_")
    data = {key: _whole(value) for key, value in json_format.MessageToDict(message.data).items()}
    return NewEvent(message.type, message.message, "INFO" if level == "UNSPECIFIED" else level, data)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def error_status(document: Mapping[str, Any]) -> status_pb2.Status | None:
    """Return the error that a resource keeps, as `errors` documents it; None for none."""
    if not document:
        return None
    kind = getattr(errors, document.get("kind", ""), errors.AfinaError)
    violations = [errors.Violation(**violation) for violation in document.get("violations", [])]
    error = kind(
        document["message"],
        reason=document["reason"],
        metadata=document.get("metadata"),
        violations=violations,
        violation_count=document.get("violation_count"),
    )
    status: status_pb2.Status = status_of(error)[1]
    return status


def error_of(status: status_pb2.Status) -> errors.AfinaError:
    """Return the error that a resource tells of, with its reason and violations: the other end of `error_status`."""
    code = next((code for code in grpc.StatusCode if code.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(request)
    metadata = dict(info.metadata)
    count = int(metadata.pop("violation_count", 0)) or None
    violations = [errors.Violation(v.field, v.reason, v.description) for v in request.field_violations]
    kind = ERROR_BY_CODE.get(code, errors.AfinaError)
    return kind(status.message, reason=info.reason or None, metadata=metadata, violations=violations, violation_count=count)


async def watch(
    get: Callable[[], Awaitable[Record]],
    events: Callable[[int], Awaitable[Sequence[StoredEvent]]],
    has_ended: Callable[[Record], bool],
    after: int,
) -> AsyncIterator[tuple[Record, Sequence[StoredEvent]]]:
    """Yield a resource with its new events whenever either changed; end when it has ended and all was told."""
    version = -1
    while True:
        record = await get()  # before the events: what it says has ended has all its events already
        fresh = await events(after)
        if fresh or record.version != version:
            yield record, fresh
            version = record.version
            after = fresh[-1].sequence if fresh else after
        if len(fresh) == WATCH_PAGE:
            continue
        if has_ended(record):
            return
        await asyncio.sleep(WATCH_LOOK_S)
