"""The door: each error of Afina's has one HTTP status, and whatever else is raised becomes 500 with an incident."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from services.common import errors
from services.common.transport.grpc_server import status_of as code_of
from services.common.transport.http_server import MIN_BODY_BYTES_PER_S, ClientLeft, Door, limited, paced, read_body, status_of
from services.gateway.openai.errors import present


# Source: google/rpc/code.proto, the HTTP mapping written beside each code.
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.InvalidInput, 400), (errors.WrongState, 400), (errors.Unauthenticated, 401), (errors.PermissionDenied, 403),
        (errors.NotFound, 404), (errors.ArtifactNotFound, 404), (errors.AlreadyExists, 409), (errors.Conflict, 409),
        (errors.OverLimit, 429), (errors.AfinaError, 500), (errors.Unavailable, 503),
    ],
)  # fmt: skip
def test_each_error_has_the_status_of_its_grpc_code(kind: type[errors.AfinaError], status: int) -> None:
    assert status_of(kind("x")) == status


def test_the_paper_says_the_statuses_that_are_sent() -> None:
    paper = (Path(__file__).parents[3] / "proto" / "README.md").read_text()
    told = dict(re.findall(r"^\| ([A-Z_]+) \| (\d{3})", paper, re.MULTILINE))
    kinds: list[type[errors.AfinaError]] = [errors.AfinaError, *errors.AfinaError.__subclasses__()]
    assert told == {code_of(kind("x"))[0].name: str(status_of(kind("x"))) for kind in kinds}


async def serve(app: Any, body: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": headers or []}
    await Door(app, present=present)(scope, receive, send)
    return sent


async def test_what_nobody_expected_is_a_500_with_an_incident_that_stands_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def app(*_: Any) -> None:
        raise ZeroDivisionError("secret detail")

    with caplog.at_level(logging.ERROR):
        start, body = await serve(app)
    incident = next(record.fields["incident"] for record in caplog.records if record.message == "request failed")  # type: ignore[attr-defined]
    assert start["status"] == 500
    assert incident.encode() in body["body"]
    assert b"secret detail" not in body["body"]


async def test_an_answer_that_has_begun_is_not_followed_by_another() -> None:
    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise errors.Unavailable("gone")

    assert [message["type"] for message in await serve(app)] == ["http.response.start"]


async def test_nobody_is_told_when_the_client_has_left() -> None:
    async def app(*_: Any) -> None:
        raise ClientLeft

    assert await serve(app) == []


@pytest.mark.parametrize(("given", "is_kept"), [(b"req-1", True), (b"", False), (b"a b", False), (b"x" * 129, False)])
async def test_a_request_id_is_kept_where_it_is_fit_for_a_header_and_a_log(given: bytes, is_kept: bool) -> None:
    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    (start,) = await serve(app, headers=[(b"x-request-id", given)])
    told = dict(start["headers"])[b"x-request-id"]
    assert (told == given) is is_kept
    assert told


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"11")]])
async def test_a_body_is_read_up_to_its_limit(headers: list[tuple[bytes, bytes]]) -> None:
    messages = [{"type": "http.request", "body": b"12345", "more_body": True}, {"type": "http.request", "body": b"67890"}]

    def receiving() -> Any:
        rest = iter([*messages, {"type": "http.disconnect"}])

        async def receive() -> Any:
            return next(rest)

        return receive

    assert await read_body({"headers": []}, receiving(), 10, 60) == b"1234567890"
    with pytest.raises(errors.OverLimit) as refused:
        await read_body({"headers": headers}, receiving(), 9, 60)
    assert status_of(refused.value) == 413
    counted = limited({"headers": []}, receiving(), 5)
    assert (await counted())["body"] == b"12345"
    for _ in range(2):
        with pytest.raises(errors.OverLimit):
            await counted()


async def test_a_large_body_has_the_time_that_its_bytes_earn() -> None:
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    receive = paced(messages.get, 0.05)
    messages.put_nowait({"type": "http.request", "body": b"x" * MIN_BODY_BYTES_PER_S * 10, "more_body": True})
    await receive()
    late = {"type": "http.request", "body": b"y", "more_body": False}
    asyncio.get_running_loop().call_later(0.2, messages.put_nowait, late)  # four times what a body has without a byte
    assert await receive() == late


async def test_a_body_that_stops_coming_is_given_up() -> None:
    with pytest.raises(errors.OverLimit) as refused:
        await paced(asyncio.Queue().get, 0.05)()
    assert refused.value.reason == "BODY_TOO_SLOW"
