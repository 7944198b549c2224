"""/v1/chat/completions and /v1/completions: to the model server and back, as little changed as can be.

These two are plain ASGI, without the framework's request and response objects, because everybody's tokens pass here.
What is changed: the model's name (the engine knows it by digest alone), `system_fingerprint`, and errors. Where a stream
breaks after its first byte the client gets an event with an `error`, which OpenAI's SDK raises.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from services.common.errors import AfinaError, OverLimit, Unavailable
from services.common.transport.http_server import Receive, Scope, Send, read_body, unless_client_leaves
from services.gateway.keys import ApiKey
from services.gateway.openai.errors import body_of, parse_json
from services.gateway.openai.parameters import Asked
from services.gateway.routing import Replica, Route, Routes
from services.gateway.upstream import Answer, Upstream, refusal
from services.gateway.usage import Usage

DIGEST_HEADER = b"afina-model-digest"
_DATA = b"data: "
_DONE = b"[DONE]"


class Slots:
    """How many answers may be under way; one more is refused at once, since a queue would only hide it."""

    def __init__(self, limit: int, usage: Usage) -> None:
        self._limit, self._usage, self._taken = limit, usage, 0

    def __enter__(self) -> None:
        if self._taken >= self._limit:
            raise OverLimit(f"{self._limit} answers are under way; try again in a moment.", metadata={"retry_after_s": "1"})
        self._taken += 1
        self._usage.in_flight(self._taken)

    def __exit__(self, *_: object) -> None:
        self._taken -= 1
        self._usage.in_flight(self._taken)


@dataclass(frozen=True)
class Generation:
    """One of the two paths, as an ASGI application."""

    path: str
    check: Callable[[Mapping[str, Any]], Asked]
    routes: Routes
    upstream: Upstream
    usage: Usage
    slots: Slots
    max_body_bytes: int
    body_timeout_s: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises: AfinaError, while nothing was sent; ClientLeft."""
        key: ApiKey = scope["afina.key"]
        asked = self.check(parse_json(await read_body(scope, receive, self.max_body_bytes, self.body_timeout_s)))
        with self.slots:  # only now: a client that sends slowly takes nobody's place
            await unless_client_leaves(receive, self._answer(key, asked, send))

    async def _answer(self, key: ApiKey, asked: Asked, send: Send) -> None:
        route = await self.routes.find(key.project, asked.model)
        async with self.upstream.ask(route, self.path, asked.passed_on, is_streamed=asked.is_streamed) as answer:
            rewriting = Rewriting(route, asked.model, answer.replica)
            if asked.is_streamed:
                await self._stream(answer, rewriting, send)
            else:
                body = rewriting.whole(answer.first)
                await send(_start(route, b"application/json", len(body)))
                await send({"type": "http.response.body", "body": body})
        self.usage.generated(key.project, route.kind, rewriting.usage)

    async def _stream(self, answer: Answer, rewriting: "Rewriting", send: Send) -> None:
        head = rewriting.events(answer.first)  # before the status: the server may have begun with an error
        await send(_start(rewriting.route, b"text/event-stream; charset=utf-8", None))
        await send({"type": "http.response.body", "body": head, "more_body": True})
        async for events in _until_broken(answer.rest, rewriting):
            await send({"type": "http.response.body", "body": events, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _until_broken(chunks: AsyncIterator[bytes], rewriting: "Rewriting") -> AsyncIterator[bytes]:
    """Yield rewritten events, and at a break in the middle one that tells of it."""
    try:
        async for chunk in chunks:
            if events := rewriting.events(chunk):
                yield events
        if not rewriting.is_done:
            raise Unavailable("The model server ended its answer too early; try again.", reason="MODEL_SERVER_FAILED")
    except AfinaError as error:
        yield _DATA + orjson.dumps(body_of(error)) + b"\n\n"


class Rewriting:
    """Puts the names that the client knows where the server wrote its own."""

    def __init__(self, route: Route, model: str, replica: Replica) -> None:
        self.route, self._model, self._replica = route, model, replica
        self._fingerprint = f"fp_{route.digest[:16]}"
        self._rest = b""
        self.usage: Any = None
        self.is_done = False

    def whole(self, body: bytes) -> bytes:
        """Rewrite an answer that is not streamed."""
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise Unavailable("The model server's answer is not JSON.", reason="MODEL_SERVER_FAILED") from error
        return orjson.dumps(self._rewrite(data))

    def events(self, chunk: bytes) -> bytes:
        """Rewrite the events that a chunk completes; the rest waits for the next."""
        *complete, self._rest = (self._rest + chunk).split(b"\n\n")
        return b"".join(self._event(event) for event in complete if event)

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(_DATA):
            return event + b"\n\n"
        payload = event[len(_DATA) :]
        if payload == _DONE:
            self.is_done = True
            return event + b"\n\n"
        data = orjson.loads(payload)
        if "error" in data:
            self.is_done = True
            code = data["error"].get("code") if isinstance(data["error"], dict) else None
            data = body_of(refusal(code if isinstance(code, int) else 500, payload, self._replica.served_name))
        else:
            self._rewrite(data)
        return _DATA + orjson.dumps(data) + b"\n\n"

    def _rewrite(self, data: dict[str, Any]) -> dict[str, Any]:
        answered = data.get("model") if isinstance(data, dict) else None
        if answered != self._replica.served_name:
            raise Unavailable(
                f"The model server answered as {str(answered)[:80]} for {self._model}; the answer is withheld.",
                reason="WRONG_MODEL_ANSWERED",
                metadata={"model": self._model},
            )
        data["model"] = self._model
        data["system_fingerprint"] = self._fingerprint
        self.usage = data.get("usage") or self.usage
        return data


def _start(route: Route, content_type: bytes, length: int | None) -> dict[str, Any]:
    headers = [(b"content-type", content_type), (DIGEST_HEADER, route.digest.encode())]
    headers.append((b"cache-control", b"no-cache") if length is None else (b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": 200, "headers": headers}
