"""What it means to ask a model, whoever asks and over which wire: a place, a route, a server, an answer in the right name.

HTTP and gRPC differ in how they read a request and write an answer; everything between is here, once. What comes from a
model server is changed in three things: the model's name (the engine knows it by digest alone), `system_fingerprint`, and
errors. A stream always tells its usage, because it is counted; who did not ask for it does not get it.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from services.common.errors import AfinaError, OverLimit, Unavailable
from services.common.telemetry import log
from services.gateway.openai.parameters import Asked
from services.gateway.routing import Route, Routes
from services.gateway.upstream import Answer, Upstream, refusal
from services.gateway.usage import Usage

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
DATA = b"data: "
DONE = b"data: [DONE]"
_logger = logging.getLogger("afina.gateway")


class Slots:
    """How many answers may be under way; one more is refused at once, since a queue would only hide it."""

    def __init__(self, limit: int, tell: Callable[[int], None] = lambda count: None) -> None:
        self._limit, self._tell, self._taken = limit, tell, 0

    def __enter__(self) -> None:
        if self._taken >= self._limit:
            raise OverLimit(f"{self._limit} answers are under way; try again in a moment.", metadata={"retry_after_s": "1"})
        self._taken += 1
        self._tell(self._taken)

    def __exit__(self, *_: object) -> None:
        self._taken -= 1
        self._tell(self._taken)


@dataclass(frozen=True)
class Generation:
    """What answers are made with. Who waits for a model to be loaded has a place in `waiting`, none that an answer needs."""

    routes: Routes
    upstream: Upstream
    usage: Usage
    slots: Slots
    waiting: Slots

    @asynccontextmanager
    async def answer(self, project: str, path: str, asked: Asked) -> AsyncIterator["Reading"]:
        """Ask in a project's name, and give the answer as soon as it has begun; leaving the block ends the work at the server.

        Raises: OverLimit (no place is free), NotFound (no such model), InvalidInput, Unavailable.
        """
        route = await self.routes.find(project, asked.model)
        if not route.replicas:
            with self.waiting:
                route = await self.routes.ready(route)
        with self.slots:
            question, tells_usage = _with_usage(asked)
            # The engine reuses what it knows of a prompt's beginning within a project only: how fast an answer comes tells
            # nobody what another project has asked. Source: vLLM's protocol, `cache_salt`.
            question = {**question, "cache_salt": project}
            async with self.upstream.ask(route, path, question, is_streamed=asked.is_streamed) as answer:
                reading = Reading(route, asked.model, answer, tells_usage=tells_usage)
                try:
                    yield reading
                finally:
                    self.usage.generated(project, route.kind, reading.usage)
                    _log_answer(project, reading)


def _log_answer(project: str, reading: "Reading") -> None:
    """Say which weights answered, in a line that the answer's own id finds; nothing of what was asked or said stands in it."""
    usage = reading.usage if isinstance(reading.usage, dict) else {}
    log(
        _logger,
        logging.INFO,
        "answered",
        id=reading.id,
        model=reading.model,
        digest=reading.route.digest,
        project=project,
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
    )


def _with_usage(asked: Asked) -> tuple[dict[str, Any], bool]:
    """Return the question, made to tell its usage, and whether the client asked for that."""
    options = asked.passed_on.get("stream_options") or {}
    if not asked.is_streamed or options.get("include_usage") is True:
        return asked.passed_on, True
    return {**asked.passed_on, "stream_options": {**options, "include_usage": True}}, False


class Reading:
    """An answer as it is read, with the names that the client knows where the server wrote its own."""

    def __init__(self, route: Route, model: str, answer: Answer, *, tells_usage: bool = True) -> None:
        self.route, self.model, self._answer, self._tells_usage = route, model, answer, tells_usage
        self.id = ""  # what the model server calls the answer
        self._fingerprint = f"fp_{route.digest[:16]}"
        self._rest = b""
        self._is_done = False
        self.usage: Any = None

    def whole(self) -> dict[str, Any]:
        """Return an answer that is not streamed. Raises: Unavailable (not JSON, or of another model)."""
        return self._rewritten(_parsed(self._answer.first))

    async def batches(self) -> AsyncIterator[list[bytes | dict[str, Any]]]:
        """Yield the events that each chunk completes: chunks of the answer, or lines that are passed on as they are.

        Raises: Unavailable (the server tells of an error, breaks off, falls silent, or answers as another model).
        """
        chunk = self._answer.first
        while chunk:
            batch: list[bytes | dict[str, Any]] = []
            try:
                for event in self._events(chunk):
                    batch.append(event)
            except AfinaError:
                if batch:
                    yield batch
                raise
            if batch:
                yield batch
            chunk = await self._answer.read()
        if not self._is_done:
            raise Unavailable("The model server ended its answer too early; try again.", reason="MODEL_SERVER_FAILED")

    def _events(self, chunk: bytes) -> Iterator[bytes | dict[str, Any]]:
        *complete, self._rest = (self._rest + chunk).split(b"\n\n")
        for event in complete:
            if event == DONE:
                self._is_done = True
                yield event
            elif event.startswith(DATA):
                data = self._rewritten(_parsed(event[len(DATA) :]))
                if self._tells_usage or data.get("choices") or not data.get("usage"):
                    yield data
            elif event:
                yield event

    def _rewritten(self, data: Any) -> dict[str, Any]:
        if isinstance(data, dict) and "error" in data:
            code = data["error"].get("code") if isinstance(data["error"], dict) else None
            raise refusal(code if isinstance(code, int) else 500, orjson.dumps(data), self._answer.replica.served_name)
        answered = data.get("model") if isinstance(data, dict) else None
        if answered != self._answer.replica.served_name:
            raise Unavailable(
                f"The model server answered as {str(answered)[:80]} for {self.model}; the answer is withheld.",
                reason="WRONG_MODEL_ANSWERED",
                metadata={"model": self.model},
            )
        data["model"] = self.model
        data["system_fingerprint"] = self._fingerprint
        self.usage = data.get("usage") or self.usage
        self.id = str(data.get("id", ""))
        return data  # type: ignore[no-any-return]


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Unavailable("The model server's answer is not JSON.", reason="MODEL_SERVER_FAILED") from error
