"""What a model server may read of the object store: the adapters that are placed on it, and nothing else.

Its token is the key of its generation, so the next generation revokes it, and so does its end. Adapters come and go while it
runs; what it may read is asked of the placements each time, and only what a manifest names is remembered, which never changes.
"""

import asyncio
import hmac

from services.common.errors import NotFound, Unauthenticated
from services.common.ports.manifest import Manifest
from services.common.store_access import Grant
from services.inference.inference import Inference
from services.inference.records import every
from services.inference.servers import PLACEMENT_KIND, SERVER_KIND, Placement, Server

RUNNING = ("STARTING", "ACTIVE", "STOPPING")
MAX_KNOWN = 1000


class ServerAccess:
    """The grants of model servers."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._files: dict[str, tuple[str, ...]] = {}  # of the manifest under a key

    async def grant(self, name: str, generation: int, token: str) -> Grant:
        """Return what a server may read. Raises: Unauthenticated (it is over, or this is not its key), ArtifactNotFound."""
        try:
            server = Server.from_document((await self._inference.database.get(SERVER_KIND, name)).document)
        except NotFound as error:
            raise Unauthenticated("There is no such server.", reason="ATTEMPT_UNKNOWN") from error
        if not server.api_key or not hmac.compare_digest(server.api_key.encode(), token.encode()):
            raise Unauthenticated("The token is not this server's.", reason="TOKEN_WRONG")
        if server.generation != generation or server.state not in RUNNING:
            raise Unauthenticated(f"Generation {generation} of {name} is over.", reason="ATTEMPT_OVER")
        placed = [Placement.from_document(record.document) for record in await every(self._inference.database, PLACEMENT_KIND)]
        reads: list[str] = []
        for placement in placed:
            if placement.server == name:
                reads += [f"manifests/adapters/{placement.digest}.json", *await self._files_of(placement.manifest_key)]
        return Grant(tuple(reads))

    async def _files_of(self, manifest_key: str) -> tuple[str, ...]:
        if manifest_key not in self._files:
            document = await asyncio.to_thread(self._inference.store.read, manifest_key)
            keys = tuple(file.artifact.key for file in Manifest.from_json(document).files)
            if len(self._files) >= MAX_KNOWN:
                self._files.clear()
            self._files[manifest_key] = keys
        return self._files[manifest_key]
