"""StoreAccessService, as every program serves it that launches workloads: proto → grant → signature."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
from afina.v1 import store_access_pb2 as pb
from afina.v1 import store_access_pb2_grpc

from services.common.errors import InvalidInput
from services.common.ports.object_store import ObjectStore, StoreRequest, StoreVerb
from services.common.store_access import LIFETIME_S, Grant
from services.common.transport.worker_reports import TOKEN_KEY

FindGrant = Callable[[str, int, str], Awaitable[Grant]]


class StoreAccessRpc(store_access_pb2_grpc.StoreAccessServiceServicer):
    """Signs what a grant allows: `find_grant` gets name, attempt and token, and raises Unauthenticated for a wrong one."""

    def __init__(self, store: ObjectStore, find_grant: FindGrant) -> None:
        self._store, self._find_grant = store, find_grant

    async def SignStoreRequest(
        self, request: pb.SignStoreRequestRequest, context: grpc.aio.ServicerContext
    ) -> pb.SignStoreRequestResponse:
        """See the proto."""
        token = str(dict(context.invocation_metadata() or ()).get(TOKEN_KEY, ""))
        grant = await self._find_grant(request.name, request.attempt, token)
        asked = request_of(request.request)
        grant.require(asked)
        return pb.SignStoreRequestResponse(url=await asyncio.to_thread(self._store.sign, asked, LIFETIME_S))


def request_of(told: pb.StoreRequest) -> StoreRequest:
    """Return a request as it came. Raises: InvalidInput (no verb)."""
    name = pb.StoreRequest.Verb.Name(told.verb).removeprefix("VERB_") if told.verb in pb.StoreRequest.Verb.values() else ""
    if name not in set(StoreVerb):
        raise InvalidInput(f"request.verb {told.verb} is not a verb of the store.", reason="STORE_VERB_INVALID")
    return StoreRequest(
        StoreVerb(name),
        told.key,
        upload_id=told.upload_id,
        part_number=told.part_number,
        sha256=told.sha256,
        crc32=told.crc32,
        mark=told.mark,
        after=told.after,
    )


def message_of(request: StoreRequest) -> pb.StoreRequest:
    """Return a request as it travels."""
    return pb.StoreRequest(
        verb=pb.StoreRequest.Verb.Value(f"VERB_{request.verb}"),
        key=request.key,
        upload_id=request.upload_id,
        part_number=request.part_number,
        sha256=request.sha256,
        crc32=request.crc32,
        mark=request.mark,
        after=request.after,
    )
