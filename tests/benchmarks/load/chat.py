"""A model server that has its answers ready, and clients that ask it or whatever stands before it: `gateway.py` runs them.

`python tests/benchmarks/load/chat.py PORT` serves. Both speak HTTP with little more than its parser, so that they take less
of the machine than what is measured.
"""

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import Any

import httptools
import orjson
import psutil  # type: ignore[import-untyped]
import uvloop

DIGEST = "ab" * 32
EVENTS = 100  # of one streamed answer
EVENT_GAP_S = 0.01  # of a steady stream: 100 tokens a second and client; the others are written as fast as they are taken
PROMPT = "Classify the sentiment of this product review: " + "it works and does what it says. " * 12
ANSWER = "The review is positive, because the product works and does what its maker says that it does. " * 3


class Upstream(asyncio.Protocol):
    """A model server that has its answers ready: whole, or as events, each written for itself, at a pace that the user names."""

    def connection_made(self, transport: Any) -> None:
        self._transport, self._parser, self._body = transport, httptools.HttpRequestParser(self), b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        asked, self._body = orjson.loads(self._body), b""
        if asked.get("stream"):
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            chunk = _answer(asked["model"], "chat.completion.chunk", delta={"role": "assistant", "content": "word "})
            self._event(chunk, 0, EVENT_GAP_S if asked.get("user") == "steady" else 0.0)
        else:
            message = {"role": "assistant", "content": ANSWER}
            body = _answer(asked["model"], "chat.completion", message=message, finish_reason="stop")
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            self._transport.write(head + body)

    def _event(self, chunk: bytes, number: int, gap_s: float) -> None:
        if self._transport.is_closing():
            return
        event = b"data: " + chunk + b"\n\n" if number < EVENTS else b"data: [DONE]\n\n"
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event) + (b"" if number < EVENTS else b"0\r\n\r\n"))
        if number < EVENTS:
            asyncio.get_running_loop().call_later(gap_s, self._event, chunk, number + 1, gap_s)


def _answer(model: str, kind: str, **choice: Any) -> bytes:
    choices = [{"index": 0, "logprobs": None, "finish_reason": None, **choice}]
    answer = {"id": "chatcmpl-1", "object": kind, "created": 1700000000, "model": model, "choices": choices}
    if kind == "chat.completion":
        answer["usage"] = {"prompt_tokens": 120, "completion_tokens": 60, "total_tokens": 180}
    return orjson.dumps(answer)


class Refused(Exception):
    """An answer was an error."""


class Client(asyncio.Protocol):
    """One connection that asks, one question after another."""

    def __init__(self, target: "Target", *, is_streamed: bool = False, pace: str = "") -> None:
        asked = {"user": pace, "model": target.model, "messages": [{"role": "user", "content": PROMPT}], "stream": is_streamed}
        body = orjson.dumps({**asked, "temperature": 0, "max_tokens": EVENTS})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {target.key}\r\n"
        self._request = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        self._target = target
        self._transport: Any = None
        self.events = 0

    async def ask(self) -> float:
        """Return the seconds from the question to the end of its answer."""
        if self._transport is None or self._transport.is_closing():
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._target.port)
        self._parser, self._done = httptools.HttpResponseParser(self), asyncio.get_running_loop().create_future()
        self._body = b""
        begin = time.perf_counter()
        self._transport.write(self._request)
        await self._done
        if self._parser.get_status_code() != 200:
            raise Refused(f"{self._target.name} answered {self._parser.get_status_code()}: {self._body[:500]!r}")
        return time.perf_counter() - begin

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self.events += data.count(b"data: {")
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body = self._body or body  # what a refusal says

    def on_message_complete(self) -> None:
        self._done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(ConnectionError(f"{self._target.name} closed the connection"))


@dataclass
class Target:
    """Whom the clients ask."""

    name: str
    port: int
    model: str
    key: str
    process: psutil.Process | None = None

    def cpu_s(self) -> float:
        """Return the CPU-seconds that it has used, its children included."""
        assert self.process is not None
        times = [process.cpu_times() for process in (self.process, *self.process.children(recursive=True))]
        return float(sum(time.user + time.system for time in times))


async def serve(port: int) -> None:
    """Serve until cancelled."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
