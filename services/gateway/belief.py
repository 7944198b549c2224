"""Belief: until when this gateway may answer for endpoints by the table that it has.

`inference` gives leave for some seconds at a time, and a promotion there waits until no leave for an older table is left: the
whole of it is told in `services/inference/watchers.py`. Here three things keep the promise. The time is counted from before the
question was sent, on a clock that goes on while the machine sleeps. It is looked at when a request asks for a name, so a process
that was frozen finds its leave ended before it answers by what it knew. And a table is acknowledged after it has been put in
the place of the one before, never earlier.
"""

import secrets
import time

from afina.v1 import model_pb2 as pb

from services.common.transport.grpc_client import Client

ASK_TIMEOUT_S = 5.0
RENEWALS = 6  # within the time that a leave lasts, so that some may be lost
FIRST_PAUSE_S = 1.0


def boot_time() -> float:
    """Return seconds since the machine started, those that it slept among them where the system counts them (Linux)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Belief:
    """A leave, and how to ask for the next. `now` is always what one monotonic clock says, in seconds."""

    def __init__(self, models: Client, title: str) -> None:
        self._models, self._title = models, title
        self._watcher = f"gateway-{secrets.token_hex(12)}"  # of this start alone: nobody else answers by its tables
        self._end, self.pause_s = float("-inf"), FIRST_PAUSE_S

    def holds(self, now: float) -> bool:
        """Whether there is leave to answer for endpoints."""
        return now < self._end

    async def ask(self, revision: int, now: float) -> pb.WatchRoutesResponse | None:
        """Acknowledge a table and return None with leave for it, or the newer one without. Raises: Unavailable.

        `now` is when the caller began to ask.
        """
        request = pb.AcknowledgeRoutesRequest(watcher=self._watcher, revision=revision, title=self._title)
        told = await self._models.AcknowledgeRoutes(request, timeout_s=ASK_TIMEOUT_S)
        if told.believed_s <= 0:
            self._end, self.pause_s = float("-inf"), FIRST_PAUSE_S
            newer: pb.WatchRoutesResponse = told.table
            return newer
        self._end, self.pause_s = now + told.believed_s, told.believed_s / RENEWALS
        return None

    async def end(self) -> None:
        """Say that nobody is answered any more. Raises: Unavailable."""
        self._end = float("-inf")
        await self._models.ForgetRoutes(pb.ForgetRoutesRequest(watcher=self._watcher), timeout_s=ASK_TIMEOUT_S)
