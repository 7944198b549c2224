"""Connections to model servers: HTTP/1.1, kept open, one question at a time on each.

A client made for every purpose costs more per token than all the rest of the gateway, so this one does a single thing:
send one POST, and hand on what comes back as it comes. What HTTP looks like is left to httptools (the parser of Node.js);
how long silence may last is one timer an exchange, however many chunks there are.
"""

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httptools

CONNECT_TIMEOUT_S = 5.0
KEEP_ALIVE_S = 3.0  # vLLM closes an idle connection after 5; no question is sent into one that is just being closed
MAX_UNREAD_BYTES = 256 << 10  # where the client reads more slowly than the model writes, the model has to wait


class Broken(Exception):
    """The connection could not be made, or ended before its answer did."""


class Silent(Exception):
    """Nothing came for as long as it may take."""


class Connection(asyncio.Protocol):
    """One connection. `ask`, then `read` until it returns nothing."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._parser: Any = None  # of the answer under way
        self._is_complete, self._is_kept = True, True
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self.is_paused = False
        self._failure: Exception | None = None
        self._news: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle_timeout_s, self._last_time = 0.0, 0.0
        self.status = 0

    @property
    def is_reusable(self) -> bool:
        """Whether another question can be sent: the last answer was read to its end, and the server will go on."""
        return self._is_kept and self._failure is None and not self._unread and not self._transport.is_closing()

    async def ask(self, request: bytes, idle_timeout_s: float) -> int:
        """Send a request and return the status of its answer. Raises: Broken, Silent."""
        self._parser, self.status = httptools.HttpResponseParser(self), 0
        self._is_complete = self._is_kept = False
        self._idle_timeout_s, self._last_time = idle_timeout_s, self._loop.time()
        self._timer = self._loop.call_later(idle_timeout_s, self._look_for_silence)
        self._transport.write(request)
        while not self.status:
            await self._wait()
        return self.status

    async def read(self) -> bytes:
        """Return what has come since; nothing once the answer has ended. Raises: Broken, Silent."""
        while not self._unread:
            if self._is_complete:
                return b""
            await self._wait()
        chunk = self._unread[0] if len(self._unread) == 1 else b"".join(self._unread)
        self._unread, self._unread_bytes = [], 0
        if self.is_paused:
            self.is_paused, self._last_time = False, self._loop.time()
            self._transport.resume_reading()
        return chunk

    async def read_all(self) -> bytes:
        """Return the rest of the answer. Raises: Broken, Silent."""
        parts = []
        while part := await self.read():
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """End it, whatever is under way."""
        self._transport.abort()

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._news = self._loop.create_future()
        try:
            await self._news
        finally:
            self._news = None

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self._stop_timer()
        self._tell()

    def _look_for_silence(self) -> None:
        now = self._loop.time()
        if self.is_paused:  # it is the client that is slow
            self._last_time = now
        left_s = self._last_time + self._idle_timeout_s - now
        if left_s <= 0:
            self._fail(Silent())
        else:
            self._timer = self._loop.call_later(left_s, self._look_for_silence)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What the event loop calls.

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._is_complete:  # nobody asked
            self._fail(Broken("the server spoke out of turn"))
            self.close()
            return
        self._last_time = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Broken(f"the answer is not HTTP: {error}"))
            self.close()
        if self._unread_bytes > MAX_UNREAD_BYTES and not self.is_paused:
            self.is_paused = True
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._fail(Broken(str(error) if error else "the server closed the connection"))

    # What the parser calls.

    def on_message_begin(self) -> None:
        """See httptools."""
        if self._is_complete:  # a second answer to one question: what else comes is nobody's
            self._is_kept = False

    def on_headers_complete(self) -> None:
        """See httptools."""
        self.status = self._parser.get_status_code()
        self._tell()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        if self._is_complete:
            return
        self._unread.append(body)
        self._unread_bytes += len(body)
        self._tell()

    def on_message_complete(self) -> None:
        """See httptools."""
        if self._is_complete:
            return
        self._is_complete, self._is_kept = True, self._parser.should_keep_alive()
        self._stop_timer()
        self._tell()


class Connections:
    """Those that are open and not in use, by server."""

    def __init__(self) -> None:
        self._idle: dict[str, dict[Connection, asyncio.TimerHandle]] = {}

    async def take(self, url: str) -> Connection:
        """Return a connection to a server, the one used last where there is one. Raises: Broken."""
        idle = self._idle.get(url)
        while idle:
            connection, timer = idle.popitem()
            timer.cancel()
            if connection.is_reusable:
                return connection
        parts, loop = _parts(url), asyncio.get_running_loop()
        is_encrypted = parts.scheme == "https"
        port = parts.port or (443 if is_encrypted else 80)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(Connection, parts.hostname or "", port, ssl=is_encrypted or None)
        except OSError as error:  # TimeoutError is one
            raise Broken(f"no connection: {error or 'too late'}") from error
        return connection

    def give_back(self, url: str, connection: Connection) -> None:
        """Keep a connection for the next question, or close it where its answer was not read to the end."""
        if not connection.is_reusable:
            connection.close()
            return
        idle = self._idle.setdefault(url, {})
        idle[connection] = asyncio.get_running_loop().call_later(KEEP_ALIVE_S, self._expire, url, connection)

    def close(self) -> None:
        """Close those that are not in use."""
        for url in list(self._idle):
            for connection, timer in self._idle.pop(url).items():
                timer.cancel()
                connection.close()

    def _expire(self, url: str, connection: Connection) -> None:
        self._idle[url].pop(connection)
        if not self._idle[url]:
            del self._idle[url]
        connection.close()


def request(url: str, path: str, api_key: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return a POST as it goes over the wire. `headers` are of our making: nothing that a client sends stands in them."""
    parts = _parts(url)
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {parts.path}{path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {api_key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode("latin-1") + body


@lru_cache(maxsize=1024)
def _parts(url: str) -> SplitResult:
    return urlsplit(url)
