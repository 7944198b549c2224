"""The model servers as the gateway asks them: one question, a second replica when the first fails, chunks as they come.

Nothing that a client sends but the checked body goes upstream, and a question is asked again only while nothing of an
answer has been handed on. Connections are kept for less time than the servers keep them, so that a question is not sent
into one that is just being closed.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from services.common.errors import AfinaError, InvalidInput, OverLimit, Unavailable
from services.common.telemetry import carried
from services.gateway.routing import Replica, Route, Routes

KEEP_ALIVE_S = 3.0  # vLLM closes an idle connection after 5
CONNECT_TIMEOUT_S = 5.0
# What a server says that is stopping, was started anew, or has lost the model; another one, or a later one, may answer.
_FAILED_REPLICA = frozenset({401, 404, 500, 502, 503, 504})


@dataclass(frozen=True)
class Answer:
    """An answer that has begun: its first bytes, and the rest. A whole answer is all in the first."""

    replica: Replica
    first: bytes
    rest: AsyncIterator[bytes]


class _ReplicaFailed(Exception):
    """A replica gave nothing that a client could use."""


class Upstream:
    """Asks model servers. Made inside the event loop; closed by whoever made it."""

    def __init__(self, routes: Routes, *, idle_timeout_s: float = 300.0, answer_timeout_s: float = 600.0) -> None:
        self._routes, self._idle_timeout_s, self._answer_timeout_s = routes, idle_timeout_s, answer_timeout_s
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def ask(self, route: Route, path: str, body: dict[str, Any], *, is_streamed: bool) -> AsyncIterator[Answer]:
        """Ask for an answer, at two replicas at most (or at one, anew), and give it as soon as its first bytes are there.

        Raises: InvalidInput (the server refuses the request), Unavailable (no replica answers, or too late), OverLimit.
        """
        failed: set[str] = set()
        for is_last in (False, True):
            replica = await self._routes.replica(route, failed)
            with self._routes.occupied(replica):
                try:
                    response, first = await self._post(replica, path, body, is_streamed)
                except _ReplicaFailed as error:
                    if is_last:
                        raise Unavailable(
                            f"The model server of {route.public_id} failed: {error}. Try again.",
                            reason="MODEL_SERVER_FAILED",
                            metadata={"model": route.public_id},
                        ) from error
                    failed.add(replica.url)
                    continue
                try:
                    yield Answer(replica, first, self._chunks(response))
                finally:
                    response.close()  # gives back a connection that was read to its end, cuts one that was not
                return

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _post(
        self, replica: Replica, path: str, body: dict[str, Any], is_streamed: bool
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        idle_s = self._idle_timeout_s if is_streamed else self._answer_timeout_s
        response: aiohttp.ClientResponse | None = None
        has_begun = False
        try:
            response = await self._open_session().post(
                replica.url + path,
                data=orjson.dumps({**body, "model": replica.served_name}),
                headers={"Authorization": f"Bearer {replica.api_key}", "Content-Type": "application/json", **carried()},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=idle_s),
                allow_redirects=False,
            )
            if response.status in _FAILED_REPLICA:
                raise _ReplicaFailed(f"it answered {response.status}: {_message(await response.read())}")
            if response.status >= 300:
                raise refusal(response.status, await response.read(), replica.served_name)
            first = await (response.content.readany() if is_streamed else response.read())
            if not first:
                raise _ReplicaFailed("it ended its answer before it began")
            has_begun = True
            return response, first
        except aiohttp.SocketTimeoutError as error:
            raise too_late(idle_s) from error
        except aiohttp.ClientError as error:
            raise _ReplicaFailed(f"{type(error).__name__}: {error}") from error
        finally:
            if response is not None and not has_begun:
                response.close()

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        try:
            async for chunk in response.content.iter_any():
                yield chunk
        except aiohttp.SocketTimeoutError as error:
            raise too_late(self._idle_timeout_s) from error
        except aiohttp.ClientError as error:
            message = f"The model server broke off its answer ({type(error).__name__})."
            raise Unavailable(message, reason="MODEL_SERVER_FAILED") from error

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:  # not in __init__: a session belongs to the running event loop
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session


def refusal(status: int, body: bytes, served_name: str) -> AfinaError:
    """Return what a server refused, or why it failed, in words that name nothing of the inside."""
    message = _message(body).replace(served_name, "the model")
    if status == 429:
        return OverLimit(message)
    if status >= 500:
        return Unavailable(f"The model server failed: {message}", reason="MODEL_SERVER_FAILED")
    if "provide a chat template" in message:  # vLLM's words, which tell the client to do what only the operator can
        return InvalidInput(
            "This model has no chat template: ask /v1/completions, or have its operator declare one "
            "(afina models update NAME --chat-template FILE).",
            reason="CHAT_TEMPLATE_MISSING",
            metadata={"param": "model"},
        )
    reason = "CONTEXT_LENGTH_EXCEEDED" if "maximum context length" in message else "INVALID_INPUT"
    param = _error_of(body).get("param")
    return InvalidInput(message, reason=reason, metadata={"param": param} if isinstance(param, str) and param else None)


def too_late(seconds: float) -> Unavailable:
    """Return the error of a server that went silent."""
    return Unavailable(f"The model server was silent for {seconds:g} s.", reason="MODEL_SERVER_SILENT")


def _error_of(body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else {}
    return error if isinstance(error, dict) else {}


def _message(body: bytes) -> str:
    message = _error_of(body).get("message")
    return message if isinstance(message, str) else body[:300].decode(errors="replace")
