"""What signs a workload's requests to a store, as the programs serve it: real gRPC in a thread, grants as a test tells them."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlencode

from afina.v1 import store_access_pb2, store_access_pb2_grpc

from services.common.errors import Unauthenticated
from services.common.ports.object_store import ObjectStore, StoreRequest
from services.common.store_access import Grant
from services.common.transport.grpc_server import GrpcServer, registration
from services.common.transport.store_access_rpc import StoreAccessRpc
from tests.builders import free_port


class Everything(Grant):
    """Allows what the port does: a contract suite names keys that no job has."""

    def require(self, request: StoreRequest) -> None:
        return


class SigningServer:
    """A program that signs, with one token for everybody, and can be away for a while."""

    def __init__(self, store: ObjectStore) -> None:
        self.store, self.address = store, f"127.0.0.1:{free_port()}"
        self.grants: dict[str, Grant] = {"everything": Everything()}
        self.token = "secret"
        self.asked: list[tuple[str, int]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()

    def url(self, name: str, attempt: int = 1) -> str:
        """What opens the store for an attempt."""
        return f"signed://{self.address}/{name}/attempts/{attempt}?{urlencode({'store': self.store.url})}"

    def start(self) -> None:
        """Be there."""

        async def start() -> GrpcServer:
            rpc = StoreAccessRpc(self.store, self._find)
            server = GrpcServer(self.address, [registration(store_access_pb2_grpc, store_access_pb2, "StoreAccessService", rpc)])
            await server.start()
            return server

        self._server = self._run(start())

    def leave(self) -> None:
        """Be away, until `start`."""
        self._run(self._server.stop(0.0))

    def stop(self) -> None:
        """Be gone."""
        self.leave()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _find(self, name: str, attempt: int, token: str) -> Grant:
        self.asked.append((name, attempt))
        if token != self.token or name not in self.grants:
            raise Unauthenticated("The token is not this attempt's.", reason="TOKEN_WRONG")
        return self.grants[name]

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)
