"""ApiKeyService: proto ↔ use case."""

import grpc
from afina.v1 import api_key_pb2 as pb
from afina.v1 import api_key_pb2_grpc
from google.protobuf import empty_pb2

from services.common.ports.database import Record
from services.common.transport import wire
from services.gateway import use_cases
from services.gateway.keys import ApiKey
from services.gateway.use_cases import Keys


class ApiKeyRpc(api_key_pb2_grpc.ApiKeyServiceServicer):
    """The keys' API."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: grpc.aio.ServicerContext) -> pb.CreateApiKeyResponse:
        """See the proto."""
        ttl_s = request.ttl.seconds + request.ttl.nanos / 1e9 if request.HasField("ttl") else None
        record, secret = await use_cases.create_key(self._keys, request.parent, request.display_name, ttl_s, request.scopes)
        return pb.CreateApiKeyResponse(api_key=_message(record), secret=secret)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: grpc.aio.ServicerContext) -> pb.ListApiKeysResponse:
        """See the proto."""
        after, limit = wire.page_of(request.page_size, request.page_token)
        records = await use_cases.list_keys(self._keys, request.parent, after, limit)
        return pb.ListApiKeysResponse(
            api_keys=[_message(record) for record in records], next_page_token=wire.next_page_token(records, limit)
        )

    async def DeleteApiKey(self, request: pb.DeleteApiKeyRequest, context: grpc.aio.ServicerContext) -> empty_pb2.Empty:
        """See the proto."""
        await use_cases.delete_key(self._keys, request.name)
        return empty_pb2.Empty()

    async def VerifyApiKey(self, request: pb.VerifyApiKeyRequest, context: grpc.aio.ServicerContext) -> pb.ApiKey:
        """See the proto."""
        return _message(await use_cases.verify_key(self._keys, request.secret_sha256))


def _message(record: Record) -> pb.ApiKey:
    key = ApiKey.from_document(record.document)
    return pb.ApiKey(
        name=key.name,
        display_name=key.display_name,
        expire_time=wire.timestamp(key.expire_time),
        create_time=wire.timestamp(record.create_time),
        scopes=key.scopes,
    )
