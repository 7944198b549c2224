"""GenerationService: proto ↔ use case. What happens between is what happens for HTTP."""

from collections.abc import AsyncIterator

import grpc
from afina.v1 import generation_pb2 as pb
from afina.v1 import generation_pb2_grpc

from services.common.errors import PermissionDenied
from services.common.principal import EVERY_PROJECT, acting
from services.common.transport.http_server import too_large
from services.gateway import generation_messages
from services.gateway.generation import CHAT, Generation
from services.gateway.openai.parameters import Asked, check_chat


class GenerationRpc(generation_pb2_grpc.GenerationServiceServicer):
    """Answers chats over gRPC."""

    def __init__(self, generation: Generation, max_body_bytes: int) -> None:
        self._generation, self._max_body_bytes = generation, max_body_bytes

    async def Generate(self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext) -> pb.GenerateResponse:
        """See the proto."""
        project, asked = self._asked(request, is_streamed=False)
        async with self._generation.answer(project, CHAT, asked) as reading:
            return generation_messages.response(reading.whole(), reading.route.digest)

    async def StreamGenerate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        """See the proto."""
        project, asked = self._asked(request, is_streamed=True)
        async with self._generation.answer(project, CHAT, asked) as reading:
            async for batch in reading.batches():
                for event in batch:
                    if isinstance(event, dict):
                        yield generation_messages.piece(event, reading.route.digest)

    def _asked(self, request: pb.GenerateRequest, *, is_streamed: bool) -> tuple[str, Asked]:
        project = acting().project
        if project == EVERY_PROJECT:
            told = "A model is asked for a project: show one of its API keys, not the service token."
            raise PermissionDenied(told, reason="PROJECT_UNKNOWN")
        if request.ByteSize() > self._max_body_bytes:
            raise too_large(self._max_body_bytes)
        return project, check_chat(generation_messages.body_of(request, is_streamed=is_streamed))
