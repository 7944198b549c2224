"""WorkerService, as every program serves it that launches workers: proto → use case."""

from collections.abc import Awaitable, Callable, Sequence

import grpc
from afina.v1 import worker_pb2, worker_pb2_grpc

from services.common.ports.database import NewEvent
from services.common.transport import wire

TOKEN_KEY = "afina-attempt-token"
Report = Callable[[str, int, str, int, Sequence[NewEvent]], Awaitable[bool]]


class WorkerRpc(worker_pb2_grpc.WorkerServiceServicer):
    """Takes reports: `report` gets name, attempt, token, first number and events, and says whether to stop."""

    def __init__(self, report: Report) -> None:
        self._report = report

    async def ReportProgress(
        self, request: worker_pb2.ReportProgressRequest, context: grpc.aio.ServicerContext
    ) -> worker_pb2.ReportProgressResponse:
        """See the proto."""
        token = str(dict(context.invocation_metadata() or ()).get(TOKEN_KEY, ""))
        events = [wire.new_event(event) for event in request.events]
        stop = await self._report(request.name, request.attempt, token, request.first_number, events)
        return worker_pb2.ReportProgressResponse(stop_requested=stop)
