"""An HTTP server as a program runs it beside its gRPC server: one mapping of errors, trace ids, limits, graceful stop.

`Door` stands around the application. What is raised inside becomes a response there and nowhere else: Afina's errors by
the table below, anything else as 500 with an incident id that stands in the log beside the traceback. How an error is
written on the wire is the application's business, since each API has its own shape.
"""

import asyncio
import contextlib
import logging
import re
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping
from typing import Any, TypeVar

import uvicorn

from services.common import errors
from services.common.telemetry import TRACEPARENT, TRACERESPONSE, follow, log, traceparent

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Present = Callable[[errors.AfinaError, int], tuple[Headers, bytes]]
Observe = Callable[[str, str, int, float], None]  # method, path, status (0: the client left), seconds
T = TypeVar("T")

KEEP_ALIVE_S = 75
GRACE_S = 10
BACKLOG = 2048
MIN_BODY_BYTES_PER_S = 64 << 10
REQUEST_ID = b"x-request-id"

_STATUSES: dict[type[errors.AfinaError], int] = {
    errors.InvalidInput: 400,
    errors.WrongState: 400,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.Conflict: 409,
    errors.OverLimit: 429,
    errors.Unavailable: 503,
}
# Over a limit that waiting does not change: 429 would make clients repeat it.
_STATUS_BY_REASON = {"BODY_TOO_LARGE": 413, "FILE_TOO_LARGE": 413, "METHOD_NOT_ALLOWED": 405, "BODY_TOO_SLOW": 408}
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_logger = logging.getLogger("afina.http")


class ClientLeft(Exception):
    """The client closed the connection before the answer was there; nobody is left to be told."""


def status_of(error: errors.AfinaError) -> int:
    """Return the HTTP status of an error."""
    if error.reason in _STATUS_BY_REASON:
        return _STATUS_BY_REASON[error.reason]
    return next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), 500)


class Door:
    """ASGI middleware: gives each request its id, turns what is raised into a response, and logs what went wrong."""

    def __init__(self, app: App, *, present: Present, observe: Observe | None = None) -> None:
        self._app, self._present, self._observe = app, present, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        try:
            await self._app(scope, receive, exchange.send)
        except ClientLeft:
            exchange.status = 0
        except errors.AfinaError as error:
            await self._answer(exchange, error)
        except Exception as error:  # one of the three places that catch everything
            incident = secrets.token_hex(6)
            _logger.error("request failed", exc_info=error, extra={"fields": {"path": scope["path"], "incident": incident}})
            message = f"Something went wrong inside; the log has it under incident {incident}."
            await self._answer(exchange, errors.AfinaError(message, metadata={"incident": incident}))
        finally:
            if self._observe is not None:
                self._observe(scope["method"], scope["path"], exchange.status, time.monotonic() - exchange.begin)

    async def _answer(self, exchange: "_Exchange", error: errors.AfinaError) -> None:
        status = status_of(error)
        fields = {"path": exchange.scope["path"], "status": status, "reason": error.reason, "error": error.message}
        asked = {"method": exchange.scope["method"], "request_id": exchange.id.decode()}
        log(_logger, logging.INFO, "request refused", **asked, **fields)
        if exchange.has_begun:  # uvicorn cuts the connection of an answer without an end, so the client sees that it failed
            return
        headers, body = self._present(error, status)
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await exchange.send({"type": "http.response.start", "status": status, "headers": headers})
        await exchange.send({"type": "http.response.body", "body": body})


class _Exchange:
    """One request and its answer: id, status, and whether the answer has begun."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self._send = scope, send
        self.status, self.has_begun, self.begin = 0, False, time.monotonic()
        given = header(scope, REQUEST_ID)
        self.id = given if _REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}".encode()
        follow(header(scope, TRACEPARENT.encode()).decode("latin-1"))
        self._trace = traceparent().encode()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun, self.status = True, message["status"]
            own = ((REQUEST_ID, self.id), (TRACERESPONSE.encode(), self._trace))
            message["headers"] = [*message.get("headers", ()), *own]
        await self._send(message)


class HttpServer:
    """One HTTP server on one address. `port` is known after `bind`, also where 0 was asked for."""

    def __init__(self, address: str, app: App, *, grace_s: int = GRACE_S) -> None:
        self.address, self.port = address, 0
        self._socket: socket.socket | None = None
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=grace_s,
        )
        self._server = _EmbeddedServer(config)

    def bind(self) -> None:
        """Take the address. Raises: Unavailable (another program has it), InvalidInput (it is no host:port)."""
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit():
            raise errors.InvalidInput(f"{self.address!r} is not host:port.", reason="ADDRESS_INVALID")
        # The protocol is named because asyncio sets TCP_NODELAY only then; without it each answer waits 40 ms for an ACK.
        taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((host.strip("[]"), int(port)))
            taken.listen(BACKLOG)  # from here on clients wait instead of being refused
        except OSError as error:
            taken.close()
            raise errors.Unavailable(
                f"{self.address} can't be bound ({error.strerror}): stop the program that has it or set another address.",
                reason="ADDRESS_IN_USE",
            ) from error
        self._socket, self.port = taken, taken.getsockname()[1]

    async def run(self) -> None:
        """Serve until cancelled; then accept nothing more and let answers end, for the grace at most."""
        if self._socket is None:
            self.bind()
        assert self._socket is not None
        serving = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        log(_logger, logging.INFO, "serving", address=self.address, port=self.port)
        try:
            await asyncio.shield(serving)
        finally:
            self._server.should_exit = True
            await serving


class _EmbeddedServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the program, which has a gRPC server to stop as well."""
        yield


def header(scope: Scope, name: bytes) -> bytes:
    """Return a request's header, or nothing."""
    return next((value for key, value in scope["headers"] if key == name), b"")


async def read_body(scope: Scope, receive: Receive, max_bytes: int, timeout_s: float) -> bytes:
    """Return a request's body. Raises: OverLimit (it is larger, or has not come in time), ClientLeft."""
    receive = limited(scope, receive, max_bytes)
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError as error:
        raise _too_slow(timeout_s) from error


def paced(receive: Receive, timeout_s: float) -> Receive:
    """Return a `receive` for a body of any size. It raises: OverLimit (on average slower than it has to be).

    It has `timeout_s`, and a second more for each `MIN_BODY_BYTES_PER_S` that came: who trickles holds a connection, a file
    and a place for nothing.
    """
    begin, size_bytes = asyncio.get_running_loop().time(), 0

    async def in_time() -> Message:
        nonlocal size_bytes
        try:
            async with asyncio.timeout_at(begin + timeout_s + size_bytes / MIN_BODY_BYTES_PER_S):
                message = await receive()
        except TimeoutError as error:
            raise _too_slow(timeout_s) from error
        size_bytes += len(message.get("body", b""))
        return message

    return in_time


def _too_slow(timeout_s: float) -> errors.OverLimit:
    told = f"The body of the request did not come within {timeout_s:g} s; send it faster, or less at a time."
    return errors.OverLimit(told, reason="BODY_TOO_SLOW", metadata={"timeout_s": f"{timeout_s:g}"})


def limited(scope: Scope, receive: Receive, max_bytes: int) -> Receive:
    """Return a `receive` for whoever reads the body by himself. It raises: OverLimit (the body is larger), ClientLeft."""
    length = header(scope, b"content-length")
    declared_bytes = int(length[:18]) if length.isdigit() else 0
    size_bytes = declared_bytes if declared_bytes > max_bytes else 0

    async def counted() -> Message:
        nonlocal size_bytes
        if size_bytes <= max_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            size_bytes += len(message.get("body", b""))
        if size_bytes > max_bytes:
            raise too_large(max_bytes)
        return message

    return counted


def too_large(max_bytes: int) -> errors.OverLimit:
    """Return the error of a body that is larger than it may be."""
    return errors.OverLimit(
        f"The body of the request is larger than {max_bytes} bytes; send less at a time.",
        reason="BODY_TOO_LARGE",
        metadata={"max_bytes": str(max_bytes)},
    )


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await work, and cancel it when the client closes the connection. Raises: ClientLeft."""
    working = asyncio.current_task()
    assert working is not None
    cancels = working.cancelling()
    leaving = asyncio.ensure_future(receive())

    has_left = False

    def stop(_: Any) -> None:
        nonlocal has_left
        has_left = True
        working.cancel()

    leaving.add_done_callback(stop)
    try:
        return await work
    except asyncio.CancelledError:
        if has_left and working.uncancel() <= cancels:  # as asyncio.timeout tells its own cancellation from others
            raise ClientLeft from None
        raise
    finally:
        leaving.remove_done_callback(stop)
        leaving.cancel()
