"""How a worker tells the program that launched it what happens: events over gRPC, from one background thread.

Work never waits for it. Events are buffered while the service is away and sent again until it has answered; the service
knows a repeated event by its number. What is lost when a worker dies is progress, never a result.
"""

import logging
import math
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

import grpc
from afina.v1 import resources_pb2, worker_pb2, worker_pb2_grpc

from services.common.errors import Unauthenticated
from services.common.telemetry import carried

TOKEN_KEY = "afina-attempt-token"
INTERVAL_S = 0.25  # at most four calls a second
SILENCE_S = 2.0
CALL_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 5.0
BATCH_EVENTS = 200
KEPT_EVENTS = 20_000  # about 10 MB; older ones are dropped when a service stays away for hours

_logger = logging.getLogger("afina.progress")


class ProgressStub(Protocol):
    """The one method of the generated stub that is used; a test passes its own."""

    def ReportProgress(
        self, request: worker_pb2.ReportProgressRequest, *, timeout: float, metadata: tuple[tuple[str, str], ...]
    ) -> worker_pb2.ReportProgressResponse:
        """Send events."""


class ProgressReporter:
    """Sends an attempt's events and learns whether the attempt should go on. Its methods never block but `close`."""

    def __init__(self, address: str, name: str, attempt: int, token: str, stub: ProgressStub | None = None) -> None:
        options = [("grpc.max_reconnect_backoff_ms", 2000), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.insecure_channel(address, options=options) if stub is None else None
        self._stub = stub or worker_pb2_grpc.WorkerServiceStub(self._channel)
        # The trace is read here: the thread that sends is in none.
        self._name, self._attempt, self._metadata = name, attempt, ((TOKEN_KEY, token), *carried().items())
        self._events: list[resources_pb2.Event] = []
        self._first_number = 0  # of the oldest buffered event
        self._guard = threading.Lock()
        self._has_news, self._is_closing = threading.Event(), threading.Event()
        self._is_stop_requested = self._is_revoked = False
        self._thread = threading.Thread(target=self._send_all, name="progress", daemon=True)
        self._thread.start()

    def event(self, type: str, message: str, data: Mapping[str, Any] | None = None, level: str = "INFO") -> None:
        """Note that something happened. `type` is UPPER_SNAKE; `data` is JSON; `level` is INFO, WARNING or ERROR.

        A number that is not finite is left out of the data.
        """
        event = resources_pb2.Event(type=type, message=message, level=resources_pb2.Event.Level.Value(f"LEVEL_{level}"))
        if data:
            event.data.update({key: value for key, value in data.items() if not _is_unsayable(value)})
        with self._guard:
            self._events.append(event)
            if len(self._events) > KEPT_EVENTS:
                self._events.pop(0)
                self._first_number += 1
        self._has_news.set()

    @property
    def stop_requested(self) -> bool:
        """Whether the service asked the attempt to checkpoint and leave.

        Raises: Unauthenticated (a later attempt has taken over: stop working, publish nothing).
        """
        if self._is_revoked:
            raise Unauthenticated(
                f"Attempt {self._attempt} at {self._name} was replaced by a later one; it ends here.", reason="ATTEMPT_REVOKED"
            )
        return self._is_stop_requested

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Send what is left, for at most so long; nothing is sent afterwards."""
        self._is_closing.set()
        self._has_news.set()
        self._thread.join(timeout_s)
        if self._channel is not None and not self._thread.is_alive():
            self._channel.close()

    def _send_all(self) -> None:
        """Send what there is, at most four times a second; in silence ask every two seconds whether to stop."""
        while not self._is_revoked:
            is_closing = self._is_closing.is_set()
            is_delivered = self._send_batch()
            if is_closing and is_delivered and not self._events:
                return
            if not is_delivered:
                time.sleep(INTERVAL_S)
                continue
            if not self._events:
                self._has_news.wait(SILENCE_S)
            self._has_news.clear()
            self._is_closing.wait(INTERVAL_S)

    def _send_batch(self) -> bool:
        with self._guard:
            first, batch = self._first_number, self._events[:BATCH_EVENTS]
        request = worker_pb2.ReportProgressRequest(name=self._name, attempt=self._attempt, first_number=first, events=batch)
        try:
            response = self._stub.ReportProgress(request, timeout=CALL_TIMEOUT_S, metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                self._is_revoked = True
            else:
                _logger.debug("the service is away: %s", error.code())
            return False
        self._is_stop_requested = self._is_stop_requested or response.stop_requested
        with self._guard:
            sent = first + len(batch) - self._first_number  # the buffer may have dropped its oldest meanwhile
            del self._events[: max(sent, 0)]
            self._first_number += max(sent, 0)
        return True


def _is_unsayable(value: Any) -> bool:
    """Whether JSON has no word for it: NaN and infinity, which no reader of a metric takes as text either."""
    return isinstance(value, float) and not math.isfinite(value)
