"""A gRPC server as all five programs run it: who calls, health, reflection, rich errors, limits, graceful stop.

Handlers raise Afina's errors; the interceptor turns them into `google.rpc.Status` with `ErrorInfo` and `BadRequest`.
Whatever else is raised becomes INTERNAL with an incident id that stands in the log beside the traceback.
"""

import asyncio
import logging
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common import errors
from services.common.metrics import OK, Metrics
from services.common.principal import Principal, act_as
from services.common.telemetry import TRACEPARENT, TRACERESPONSE, follow, log, traceparent
from services.common.transport.authentication import Authentication, all_within_project, service_token, within_project

MAX_MESSAGE_BYTES = 8 << 20
MAX_VIOLATIONS = 50
MAX_MESSAGE_LENGTH = 1000  # bytes; it stands in the trailers twice, once percent-encoded
MAX_DETAIL_BYTES = 4096  # trailers end at 16 KiB, and base64 and the message need their part
DEFAULT_DEADLINE_S = 600.0
DETAILS_KEY = "grpc-status-details-bin"

_CODES: dict[type[errors.AfinaError], tuple[grpc.StatusCode, int]] = {
    errors.InvalidInput: (grpc.StatusCode.INVALID_ARGUMENT, code_pb2.INVALID_ARGUMENT),
    errors.NotFound: (grpc.StatusCode.NOT_FOUND, code_pb2.NOT_FOUND),
    errors.AlreadyExists: (grpc.StatusCode.ALREADY_EXISTS, code_pb2.ALREADY_EXISTS),
    errors.WrongState: (grpc.StatusCode.FAILED_PRECONDITION, code_pb2.FAILED_PRECONDITION),
    errors.Conflict: (grpc.StatusCode.ABORTED, code_pb2.ABORTED),
    errors.OverLimit: (grpc.StatusCode.RESOURCE_EXHAUSTED, code_pb2.RESOURCE_EXHAUSTED),
    errors.Unavailable: (grpc.StatusCode.UNAVAILABLE, code_pb2.UNAVAILABLE),
    errors.Unauthenticated: (grpc.StatusCode.UNAUTHENTICATED, code_pb2.UNAUTHENTICATED),
    errors.PermissionDenied: (grpc.StatusCode.PERMISSION_DENIED, code_pb2.PERMISSION_DENIED),
}
ERROR_BY_CODE = {code: kind for kind, (code, _) in _CODES.items()}

_logger = logging.getLogger("afina.grpc")


def status_of(error: errors.AfinaError) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """Return the gRPC code and the rich status of an error, within what trailers can carry."""
    code, number = next(
        (_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), (grpc.StatusCode.INTERNAL, code_pb2.INTERNAL)
    )
    message = _cut(error.message, MAX_MESSAGE_LENGTH)
    status = status_pb2.Status(code=number, message=message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain="afina.dev", metadata=_bounded(error.metadata))
    if error.violations:
        info.metadata["violation_count"] = str(error.violation_count)
    status.details.append(_packed(info))
    request = error_details_pb2.BadRequest()
    for violation in error.violations[:MAX_VIOLATIONS]:
        request.field_violations.add(
            field=_cut(violation.field, 200), description=_cut(violation.description, 500), reason=violation.reason
        )
        if request.ByteSize() > MAX_DETAIL_BYTES:
            del request.field_violations[-1]
            break
    if request.field_violations:
        status.details.append(_packed(request))
    return code, status


def _cut(text: str, length: int) -> str:
    """Return a text of at most so many bytes in UTF-8; in trailers each may be written as three characters."""
    data = text.encode()
    return text if len(data) <= length else data[: length - 3].decode(errors="ignore") + "…"


def _bounded(metadata: Mapping[str, str]) -> dict[str, str]:
    return {_cut(key, 64): _cut(value, 256) for key, value in list(metadata.items())[:8]}


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


class _Calls(grpc.aio.ServerInterceptor):
    """Asks who calls, turns what handlers raise into rich statuses, bounds their time, counts and logs each call."""

    def __init__(self, metrics: Metrics, authentication: Authentication) -> None:
        self._metrics, self._authentication = metrics, authentication

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(details)
        if handler is None or details.method.startswith("/grpc."):
            return handler
        method = details.method
        metadata = dict(details.invocation_metadata)
        trace = str(metadata.get(TRACEPARENT, ""))
        look = all_within_project if handler.request_streaming else within_project

        async def caller() -> Principal:
            principal = await self._authentication.principal(method, metadata)
            act_as(principal)
            return principal

        async def unary(request: Any, context: grpc.aio.ServicerContext) -> Any:
            behaviour = handler.unary_unary or handler.stream_unary
            async with _Call(method, trace, context, self._metrics):
                async with asyncio.timeout(context.time_remaining() or DEFAULT_DEADLINE_S):
                    return await behaviour(look(await caller(), method, request), context)

        async def stream(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            behaviour = handler.unary_stream or handler.stream_stream
            async with _Call(method, trace, context, self._metrics):
                async for response in behaviour(look(await caller(), method, request), context):
                    yield response

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        return make(stream if handler.response_streaming else unary, handler.request_deserializer, handler.response_serializer)


class _Call:
    """One call: its trace, its metrics, its log line, and the translation of what it raises."""

    def __init__(self, method: str, trace: str, context: grpc.aio.ServicerContext, metrics: Metrics) -> None:
        self.method, self.trace, self.context, self.metrics = method, trace, context, metrics

    async def __aenter__(self) -> None:
        follow(self.trace)
        # Among the trailers: metadata before the answer would end the client's right to repeat the call.
        self.trailers = ((TRACERESPONSE, traceparent()),)
        self.context.set_trailing_metadata(self.trailers)
        self.begin = time.monotonic()
        self.metrics.calls_in_flight.inc()

    async def __aexit__(self, _kind: Any, error: BaseException | None, _traceback: Any) -> None:
        duration_s = time.monotonic() - self.begin
        self.metrics.calls_in_flight.dec()
        self.metrics.call_seconds.labels(self.method).observe(duration_s)
        self.metrics.calls.labels(self.method, _code_of(error)).inc()
        fields = {"method": self.method, "duration_s": round(duration_s, 4)}
        if error is None or isinstance(error, asyncio.CancelledError | GeneratorExit | grpc.aio.AbortError):
            log(_logger, logging.DEBUG, "call", **fields)
        elif isinstance(error, errors.AfinaError):
            code, status = status_of(error)
            log(_logger, logging.INFO, "call refused", **fields, code=code.name, reason=error.reason, error=error.message)
            await self._abort(code, status)
        elif isinstance(error, TimeoutError):
            told = f"{self.method} did not end before its deadline."
            await self.context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, told, self.trailers)
        else:
            incident = secrets.token_hex(6)
            _logger.error("call failed", exc_info=error, extra={"fields": {**fields, "incident": incident}})
            failure = errors.AfinaError(
                f"Something went wrong inside; the log has it under incident {incident}.", metadata={"incident": incident}
            )
            await self._abort(*status_of(failure))

    async def _abort(self, code: grpc.StatusCode, status: status_pb2.Status) -> None:
        await self.context.abort(code, status.message, (*self.trailers, (DETAILS_KEY, status.SerializeToString())))


def _code_of(error: BaseException | None) -> str:
    """Return the gRPC code that a call ends with, as a label."""
    if isinstance(error, errors.AfinaError):
        return str(status_of(error)[0].name)
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "CANCELLED"
    if isinstance(error, TimeoutError):
        return "DEADLINE_EXCEEDED"
    return OK.upper() if error is None else "INTERNAL"


@dataclass
class Registration:
    """A servicer, how to add it, and its full name for reflection and health."""

    add: Callable[[Any, Any], None]
    servicer: Any
    full_name: str


class GrpcServer:
    """One gRPC server on one address. `port` is known after `start`, also where 0 was asked for.

    Without an `authentication` of its own it knows the service token of this process, and no API key.
    """

    def __init__(
        self,
        address: str,
        registrations: Sequence[Registration],
        metrics: Metrics | None = None,
        authentication: Authentication | None = None,
    ) -> None:
        self.address = address
        self.port = 0
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=[_Calls(metrics or Metrics(), authentication or Authentication(service_token()))],
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),  # a second program on the port has to fail, not to share it
            ],
        )
        self._names = [registration.full_name for registration in registrations]
        for registration in registrations:
            registration.add(registration.servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)

    async def start(self) -> None:
        """Bind and serve. Raises: Unavailable (the port is taken)."""
        try:
            self.port = self._server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise errors.Unavailable(
                f"{self.address} can't be bound: another program has it; stop that one or set another address.",
                reason="ADDRESS_IN_USE",
            ) from error
        await self._server.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float = 10.0) -> None:
        """Say NOT_SERVING, let calls in flight end within the grace, then cut them."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.stop(grace_s)

    async def _set_health(self, status: Any) -> None:
        for name in ["", *self._names]:
            await self._health.set(name, status)


async def serve_until_stopped(server: GrpcServer, *loops: Callable[[], Awaitable[None]]) -> None:
    """Run a server and background loops until SIGTERM or SIGINT.

    A loop that ends with an error ends the program; one that just ends has done its work.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await server.start()
    log(_logger, logging.INFO, "serving", address=server.address, port=server.port)
    tasks = [asyncio.ensure_future(loop()) for loop in loops]
    waiter: asyncio.Future[Any] = asyncio.ensure_future(stopped.wait())
    pending: set[asyncio.Future[Any]] = {waiter, *tasks}
    done: set[asyncio.Future[Any]] = set()
    while waiter in pending and not any(task.exception() for task in done):
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    await server.stop(grace_s=5.0)
    for task in [waiter, *tasks]:
        task.cancel()
    await asyncio.gather(waiter, *tasks, return_exceptions=True)
    for task in done - {waiter}:
        task.result()


def registration(module_grpc: Any, module: Any, service: str, servicer: Any) -> Registration:
    """Make a registration from a generated module pair: `registration(file_pb2_grpc, file_pb2, "FileService", servicer)`."""
    full_name = module.DESCRIPTOR.services_by_name[service].full_name
    return Registration(getattr(module_grpc, f"add_{service}Servicer_to_server"), servicer, full_name)
