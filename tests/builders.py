"""What tests of every kind build on: waiting for a condition, running a program's gRPC server, ports, rows."""

import asyncio
import contextlib
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc

from services.common.transport.grpc_server import GrpcServer, Registration

SERVICE_TOKEN = f"tests-{secrets.token_urlsafe(32)}"
os.environ["AFINA_SERVICE_TOKEN"] = SERVICE_TOKEN  # also where pytest does not run: a benchmark


async def eventually(check: Callable[[], Any | Awaitable[Any]], timeout_s: float = 10.0) -> Any:
    """Return the first truthy value of a check; fail with what was last seen."""
    seen: Any = None
    end = asyncio.get_running_loop().time() + timeout_s
    while asyncio.get_running_loop().time() < end:
        seen = check()
        if isinstance(seen, Awaitable):
            seen = await seen
        if seen:
            return seen
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s; last seen: {seen!r}")


@contextlib.asynccontextmanager
async def serving(*registrations: Registration) -> AsyncIterator[str]:
    """Serve over real gRPC on a free loopback port, and give its address."""
    server = GrpcServer("127.0.0.1:0", registrations)
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0.1)


def channel_to(address: str) -> grpc.aio.Channel:
    """Return a channel that shows the service token, for stubs that are called without a Client."""
    return grpc.aio.insecure_channel(address, interceptors=[_UnaryShows(), _StreamShows(), _ClientStreamShows()])


class _Shows:
    async def _shown(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = (("authorization", f"Bearer {SERVICE_TOKEN}"), *(details.metadata or ()))
        return await continuation(details._replace(metadata=metadata), request)


class _UnaryShows(_Shows, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary = _Shows._shown


class _StreamShows(_Shows, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream = _Shows._shown


class _ClientStreamShows(_Shows, grpc.aio.StreamUnaryClientInterceptor):
    intercept_stream_unary = _Shows._shown


def free_port() -> int:
    """Return a port that was free a moment ago, from below those that the system gives to whoever connects somewhere."""
    for _ in range(200):
        port = 20_000 + secrets.randbelow(12_000)  # no test's seed decides it
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def chat(question: str, answer: str) -> dict[str, Any]:
    """Return one training row."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def jsonl(rows: Iterable[dict[str, Any]]) -> bytes:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
