"""A gRPC client that raises Afina's errors: the other end of `grpc_server`.

files = Client(FileServiceStub, "127.0.0.1:50051")
file = await files.GetFile(file_pb2.GetFileRequest(name=name), timeout_s=10)
async for part in files.ReadFile(request): ...

It says who calls, in this one place: with the service token of this process (AFINA_SERVICE_TOKEN), or with what it is given,
such as a project's API key. What a program does for a key it does in that key's name.
"""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from services.common import errors
from services.common.principal import acting
from services.common.telemetry import carried
from services.common.transport.authentication import ACTING_FOR, AUTHORIZATION, service_token
from services.common.transport.grpc_server import DETAILS_KEY, ERROR_BY_CODE, MAX_MESSAGE_BYTES

DEFAULT_TIMEOUT_S = 30.0
_RETRY = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


class Client:
    """One service of one program. Methods are the stub's, with `timeout_s` and Afina's errors."""

    def __init__(
        self, stub: Callable[[grpc.aio.Channel], Any], address: str, *, retry: bool = True, token: str | None = None
    ) -> None:
        self.address = address
        self._token = token
        self._stub_class = stub
        self._retry = retry
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)
        if self._channel is None:  # not in __init__: a channel belongs to the running event loop
            options: list[tuple[str, Any]] = [
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_reconnect_backoff_ms", 2000),
                ("grpc.enable_http_proxy", 0),
            ]
            if self._retry:
                options.append(("grpc.service_config", _RETRY))
            self._channel = grpc.aio.insecure_channel(self.address, options=options)
            self._stub = self._stub_class(self._channel)
        call = getattr(self._stub, method)
        if isinstance(call, grpc.aio.UnaryStreamMultiCallable):
            return lambda request, *, timeout_s=None, metadata=(): self._stream(call, request, timeout_s, metadata)
        return lambda request, *, timeout_s=DEFAULT_TIMEOUT_S, metadata=(): self._unary(call, request, timeout_s, metadata)

    async def _unary(self, call: Any, request: Any, timeout_s: float | None, metadata: Any) -> Any:
        try:
            return await call(request, timeout=timeout_s, metadata=self._with_caller(metadata))
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from error

    async def _stream(self, call: Any, request: Any, timeout_s: float | None, metadata: Any) -> AsyncIterator[Any]:
        streamed = call(request, timeout=timeout_s, metadata=self._with_caller(metadata))
        try:
            async for response in streamed:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from error
        finally:
            streamed.cancel()  # where the caller stops reading, so does the server's work; a call that has ended stays as it is

    def _with_caller(self, metadata: Any) -> Any:
        """Return metadata with the trace and with who calls, unless that is in it already."""
        if any(key == AUTHORIZATION for key, _ in metadata):
            return (*metadata, *carried().items())
        token = service_token() if self._token is None else self._token
        caller = [(AUTHORIZATION, f"Bearer {token}")] if token else []
        if self._token is None and acting().project:
            caller.append((ACTING_FOR, acting().name))
        return (*metadata, *caller, *carried().items())

    def _translate(self, error: grpc.aio.AioRpcError) -> errors.AfinaError:
        return translate(error, self.address)

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = self._stub = None


def translate(error: grpc.RpcError, address: str) -> errors.AfinaError:
    """Return Afina's error for a failed call, with reason, metadata and violations as the server gave them."""
    code = error.code()  # type: ignore[attr-defined]
    message = error.details() or code.name  # type: ignore[attr-defined]
    kind = ERROR_BY_CODE.get(code, errors.AfinaError)
    reason, metadata, violations = None, {}, []
    for key, value in error.trailing_metadata() or ():  # type: ignore[attr-defined]
        if key != DETAILS_KEY:
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(request):
                violations = [errors.Violation(v.field, v.reason, v.description) for v in request.field_violations]
    if reason is None and code == grpc.StatusCode.UNAVAILABLE:
        reason, message = "UNREACHABLE", f"Nothing answers at {address} ({message}); is the program running?"
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        kind, reason = errors.Unavailable, "DEADLINE_EXCEEDED"
    count = int(metadata.pop("violation_count", 0)) or None
    return kind(message, reason=reason, metadata=metadata, violations=violations, violation_count=count)
