"""/v1/chat/completions and /v1/completions: to the model server and back, as little changed as can be.

These two are plain ASGI, without the framework's request and response objects, because everybody's tokens pass here.
Where a stream breaks after its first byte the client gets an event with an `error`, which OpenAI's SDK raises.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from services.common.errors import AfinaError
from services.common.transport.http_server import ClientLeft, Receive, Scope, Send, read_body, unless_client_leaves
from services.gateway.generation import DATA, Generation, Reading
from services.gateway.keys import ApiKey
from services.gateway.openai.errors import body_of, parse_json
from services.gateway.openai.parameters import Asked
from services.gateway.routing import Route

DIGEST_HEADER = b"afina-model-digest"
STALL_S = 600.0  # longer than a model server may be silent, so that what ends such a stream is always the reader's slowness


@dataclass(frozen=True)
class GenerationPath:
    """One of the two paths, as an ASGI application."""

    path: str
    check: Callable[[Mapping[str, Any]], Asked]
    generation: Generation
    max_body_bytes: int
    body_timeout_s: float
    stall_s: float = STALL_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises: AfinaError, while nothing was sent; ClientLeft."""
        key: ApiKey = scope["afina.key"]
        asked = self.check(parse_json(await read_body(scope, receive, self.max_body_bytes, self.body_timeout_s)))
        # Only now a place is taken: a client that sends slowly holds nobody's.
        await unless_client_leaves(receive, self._answer(key.project, asked, send))

    async def _answer(self, project: str, asked: Asked, send: Send) -> None:
        async with self.generation.answer(project, self.path, asked) as reading:
            if asked.is_streamed:
                await _stream(reading, send, self.stall_s)
                return
            body = orjson.dumps(reading.whole())
            await send(_start(reading.route, b"application/json", len(body)))
            await send({"type": "http.response.body", "body": body})


async def _stream(reading: Reading, send: Send, stall_s: float) -> None:
    """Send what is read. Raises: ClientLeft (it takes nothing for so long: it holds a place that others need)."""
    batches = reading.batches()
    head = await anext(batches)  # before the status: the server may have begun with an error
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(stall_s) as patience:
            await send(_start(reading.route, b"text/event-stream; charset=utf-8", None))
            await send({"type": "http.response.body", "body": _written(head), "more_body": True})
            try:
                async for batch in batches:
                    patience.reschedule(loop.time() + stall_s)
                    await send({"type": "http.response.body", "body": _written(batch), "more_body": True})
            except AfinaError as error:
                await send({"type": "http.response.body", "body": _written([body_of(error)]), "more_body": True})
            await send({"type": "http.response.body", "body": b""})
    except TimeoutError as error:
        raise ClientLeft from error


def _written(batch: list[bytes | dict[str, Any]]) -> bytes:
    return b"".join(event + b"\n\n" if isinstance(event, bytes) else DATA + orjson.dumps(event) + b"\n\n" for event in batch)


def _start(route: Route, content_type: bytes, length: int | None) -> dict[str, Any]:
    headers = [(b"content-type", content_type), (DIGEST_HEADER, route.digest.encode())]
    headers.append((b"cache-control", b"no-cache") if length is None else (b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": 200, "headers": headers}
