"""GenerationService: proto ↔ use case. What happens between is what happens for HTTP."""

from collections.abc import AsyncIterator

import grpc
from afina.v1 import generation_pb2 as pb
from afina.v1 import generation_pb2_grpc

from services.common.transport.http_server import too_large
from services.gateway import generation_messages, use_cases
from services.gateway.generation import CHAT, Generation
from services.gateway.keys import ApiKey, secret_of
from services.gateway.openai.parameters import Asked, check_chat
from services.gateway.use_cases import Keys


class GenerationRpc(generation_pb2_grpc.GenerationServiceServicer):
    """Answers chats over gRPC."""

    def __init__(self, keys: Keys, generation: Generation, max_body_bytes: int) -> None:
        self._keys, self._generation, self._max_body_bytes = keys, generation, max_body_bytes

    async def Generate(self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext) -> pb.GenerateResponse:
        """See the proto."""
        key, asked = await self._asked(request, context, is_streamed=False)
        async with self._generation.answer(key, CHAT, asked) as reading:
            return generation_messages.response(reading.whole(), reading.route.digest)

    async def StreamGenerate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        """See the proto."""
        key, asked = await self._asked(request, context, is_streamed=True)
        async with self._generation.answer(key, CHAT, asked) as reading:
            async for batch in reading.batches():
                for event in batch:
                    if isinstance(event, dict):
                        yield generation_messages.piece(event, reading.route.digest)

    async def _asked(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext, *, is_streamed: bool
    ) -> tuple[ApiKey, Asked]:
        authorization = str(dict(context.invocation_metadata() or ()).get("authorization", ""))
        key = await use_cases.authenticate(self._keys, secret_of(authorization))
        if request.ByteSize() > self._max_body_bytes:
            raise too_large(self._max_body_bytes)
        return key, check_chat(generation_messages.body_of(request, is_streamed=is_streamed))
