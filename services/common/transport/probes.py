"""What watches a program from outside: `/metrics`, `/healthz` (it lives), `/readyz` (what it needs answers).

It is Python's own HTTP server in a thread of its own, so that a program whose event loop is stuck still says so. Who can
reach it sees counts and the names of what is away, no data; like gRPC it serves this machine only, unless the network is
trusted. Source of the paths: Kubernetes' own, https://kubernetes.io/docs/reference/using-api/health-checks/
"""

import asyncio
import json
import logging
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from services.common.errors import AfinaError, InvalidInput, Unavailable
from services.common.metrics import CONTENT_TYPE, Metrics
from services.common.telemetry import log

CHECK_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 5.0
LOOK_S = 15.0
AWAY_LOOK_S = 2.0
Check = Callable[[], Awaitable[object]]
T = TypeVar("T")
_logger = logging.getLogger("afina.probes")


class Readiness:
    """What the program needs, and how each is asked: a coroutine that raises where it is away."""

    def __init__(self, metrics: Metrics, *, timeout_s: float = CHECK_TIMEOUT_S) -> None:
        self._metrics, self._timeout_s = metrics, timeout_s
        self._checks: dict[str, Check] = {}
        self._asking: dict[str, asyncio.Task[object]] = {}
        self._told: Mapping[str, str] = {}

    def needs(self, name: str, check: Check) -> None:
        """Name something without which the program can't do its work."""
        self._checks[name] = check

    async def missing(self) -> dict[str, str]:
        """Return what does not answer now, each with a sentence; in bounded time, also where something hangs.

        What has gone away or come back since the last time is logged.
        """
        said = await asyncio.gather(*(self._ask(name, check) for name, check in self._checks.items()))
        missing = {name: sentence for name, sentence in zip(self._checks, said, strict=True) if sentence}
        for name in self._checks:
            self._metrics.is_reachable.labels(name).set(name not in missing)
        for name in missing.keys() - self._told.keys():
            log(_logger, logging.WARNING, f"waits for the {name}: {missing[name]}", dependency=name)
        for name in self._told.keys() - missing.keys():
            log(_logger, logging.INFO, f"the {name} answers again", dependency=name)
        self._told = missing
        return missing

    async def watch(self) -> None:
        """Look from time to time, more often while something is away, until cancelled."""
        while True:
            missing = await self.missing()
            await asyncio.sleep(AWAY_LOOK_S if missing else LOOK_S)

    async def _ask(self, name: str, check: Check) -> str:
        """One question at a time for each: what hangs is not asked again and again."""
        task = self._asking.get(name)
        if task is None or task.done():
            task = self._asking[name] = asyncio.ensure_future(check())  # type: ignore[arg-type]
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait for it any more
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.shield(task)
        except TimeoutError:
            return f"It does not answer within {self._timeout_s:g} s."
        except AfinaError as error:
            return error.message
        return ""


class Probes:
    """The HTTP server of one program. `port` is known after `start`, also where 0 was asked for."""

    def __init__(
        self, address: str, metrics: Metrics, readiness: Readiness, refresh: Check, *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self.address, self.port, self._timeout_s = address, 0, timeout_s
        self._metrics, self._readiness, self._refresh = metrics, readiness, refresh
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Bind and serve in the background. Raises: Unavailable (the port is taken), InvalidInput (it is no host:port)."""
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit():
            raise InvalidInput(f"{self.address!r} is not host:port.", reason="ADDRESS_INVALID")
        loop = asyncio.get_running_loop()
        try:
            self._server = _server(host.strip("[]"), int(port), lambda path: self._answer(path, loop))
        except OSError as error:
            raise Unavailable(
                f"{self.address} can't be bound ({error.strerror}): stop the program that has it or set another address.",
                reason="ADDRESS_IN_USE",
            ) from error
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(1.0,), name="probes", daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        if self._server is not None:
            threading.Thread(target=self._server.shutdown, daemon=True).start()
            self._server.server_close()

    def _answer(self, path: str, loop: asyncio.AbstractEventLoop) -> tuple[int, str, bytes]:
        if path == "/metrics":
            self._within(loop, self._refresh)
            return 200, CONTENT_TYPE, self._metrics.exposition()
        if path == "/healthz":
            is_alive = self._within(loop, _nothing) is not None
            return _json(200 if is_alive else 503, {"status": "ok" if is_alive else "the event loop is stuck"})
        if path == "/readyz":
            missing = self._within(loop, self._readiness.missing)
            if missing is None:
                return _json(503, {"status": "not ready", "missing": {"program": "its event loop is stuck"}})
            return _json(503 if missing else 200, {"status": "not ready", "missing": missing} if missing else {"status": "ok"})
        return _json(404, {"status": "there are /metrics, /healthz and /readyz"})

    def _within(self, loop: asyncio.AbstractEventLoop, work: Callable[[], Awaitable[T]]) -> T | None:
        """Run a coroutine on the program's loop; None where it did not end in time, or what it needs is away."""

        async def run() -> T:
            return await work()

        try:
            return asyncio.run_coroutine_threadsafe(run(), loop).result(self._timeout_s)
        except (FutureTimeout, AfinaError, RuntimeError):  # RuntimeError: the loop has ended
            return None


def _server(host: str, port: int, answer: Callable[[str], tuple[int, str, bytes]]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = ANSWER_TIMEOUT_S  # a client that says nothing does not keep its thread

        def do_GET(self) -> None:
            status, content_type, body = answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing: probes come every few seconds."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say that a client left early in a line of the log, not as a traceback."""
            log(_logger, logging.DEBUG, "a probe was not answered", error=repr(sys.exc_info()[1]))

    return Server((host, port), Handler)


async def _nothing() -> bool:
    return True


def _json(status: int, document: Mapping[str, Any]) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(document).encode()
