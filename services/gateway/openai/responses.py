"""/v1/responses: OpenAI's newer way to ask a model, by translation to and from /v1/chat/completions.

The chat's own ASGI application does the work – key, route, replica, digest header, usage, limits, errors – and this one
stands between it and the client: it rewrites the body on the way in and what is sent on the way out.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter

from services.common.errors import InvalidInput, NotFound
from services.common.transport.http_server import App, Message, Receive, Scope, Send, read_body
from services.gateway.openai.files import Caller
from services.gateway.openai.json_body import parse_strictly
from services.gateway.openai.responses_objects import Events, response_of
from services.gateway.openai.responses_parameters import PARAMS, AskedResponse, asked_response

_DATA = b"data: "
_DONE = b"[DONE]"


@dataclass(frozen=True)
class Responses:
    """The path that creates a response, as an ASGI application around the one of chats."""

    chat: App
    max_body_bytes: int
    body_timeout_s: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises: AfinaError, while nothing was sent; ClientLeft."""
        asked = asked_response(parse_strictly(await read_body(scope, receive, self.max_body_bytes, self.body_timeout_s)))
        translating = _Streaming(asked, send) if asked.is_streamed else _Whole(asked, send)
        scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"content-length"]}
        try:
            await self.chat(scope, _first(orjson.dumps(asked.chat), receive), translating)
        except InvalidInput as error:
            if param := error.metadata.get("param"):
                head, dot, rest = param.partition(".")
                error.metadata["param"] = PARAMS.get(head.partition("[")[0], head) + dot + rest
            raise


def router() -> APIRouter:
    """Return the routes of what OpenAI does with responses after they were given: nothing is stored, so it is refused."""
    routes = APIRouter(prefix="/v1/responses")

    @routes.post("/compact")
    @routes.post("/input_tokens")
    async def refuse(key: Caller) -> None:
        told = "Responses are neither compacted nor counted here; ask for the response itself, whose 'usage' counts its tokens."
        raise NotFound(told, reason="UNSUPPORTED_URL")

    @routes.get("/{response_id}")
    @routes.delete("/{response_id}")
    @routes.post("/{response_id}/cancel")
    @routes.get("/{response_id}/input_items")
    async def not_stored(response_id: str, key: Caller) -> None:
        told = f"Response with id '{response_id[:100]}' not found: responses are not stored here; keep what you were given."
        raise NotFound(told, reason="RESPONSE_NOT_FOUND", metadata={"param": "response_id"})

    return routes


def _first(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body, and then what comes from the client."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return waiting.pop() if waiting else await receive()

    return give


class _Whole:
    """Sends a chat's whole answer as a response."""

    def __init__(self, asked: AskedResponse, send: Send) -> None:
        self._asked, self._send = asked, send
        self._start: Message = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            return
        body = orjson.dumps(response_of(self._asked, orjson.loads(self._body)))
        length = (b"content-length", str(len(body)).encode())
        headers = [*((name, value) for name, value in self._start["headers"] if name != b"content-length"), length]
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


class _Streaming:
    """Sends a chat's events as a response's."""

    def __init__(self, asked: AskedResponse, send: Send) -> None:
        self._events, self._send = Events(asked), send
        self._rest = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._send(message)
            return
        *complete, self._rest = (self._rest + message.get("body", b"")).split(b"\n\n")
        body = b"".join(_written(event) for event in self._translated(complete))
        if body or not message.get("more_body", False):
            await self._send({**message, "body": body})

    def _translated(self, complete: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
        for event in complete:
            if not event.startswith(_DATA):
                continue
            payload = event[len(_DATA) :]
            if payload == _DONE:
                yield from self._events.of_end()
                continue
            data = orjson.loads(payload)
            yield from self._events.of_failure(data["error"]) if "error" in data else self._events.of_chunk(data)


def _written(event: Mapping[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: ".encode() + orjson.dumps(event) + b"\n\n"
