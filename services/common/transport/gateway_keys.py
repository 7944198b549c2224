"""How a program that has no keys of its own learns whose one is: from the gateway, by the secret's hash."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

from afina.v1 import api_key_pb2, api_key_pb2_grpc

from services.common.believed import Believed
from services.common.errors import NotFound, Unauthenticated, Unavailable
from services.common.names import last, project_of
from services.common.principal import Principal, expired, unknown
from services.common.transport.authentication import SERVICE_TOKEN
from services.common.transport.grpc_client import Client

VERIFY_TIMEOUT_S = 5.0


class GatewayKeys:
    """The gateway's keys, each believed for a second."""

    def __init__(self, gateway_address: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._keys = Client(api_key_pb2_grpc.ApiKeyServiceStub, gateway_address, retry=False)
        self._believed: Believed[api_key_pb2.ApiKey] = Believed()
        self._clock = clock

    async def __call__(self, secret: str) -> Principal:
        """Return whose a secret is. Raises: Unauthenticated, Unavailable (the gateway is away)."""
        secret_sha256 = hashlib.sha256(secret.encode()).hexdigest()
        is_known, key = self._believed.get(secret_sha256)
        if not is_known:
            key = await self._ask(secret_sha256)
            self._believed.put(secret_sha256, key, self._believed.revocations)
        if key is None:
            raise unknown(secret)
        if key.HasField("expire_time") and self._clock() >= (until := key.expire_time.ToDatetime(UTC)):
            raise expired(last(key.name), until.isoformat())
        return Principal(key.name, project_of(key.name), frozenset(key.scopes))

    async def _ask(self, secret_sha256: str) -> api_key_pb2.ApiKey | None:
        request = api_key_pb2.VerifyApiKeyRequest(secret_sha256=secret_sha256)
        try:
            found: api_key_pb2.ApiKey = await self._keys.VerifyApiKey(request, timeout_s=VERIFY_TIMEOUT_S)
            return found
        except NotFound:
            return None
        except Unauthenticated as error:  # not the caller's fault, so he is not told that it were
            told = f"The gateway does not know this program: give all of them the same {SERVICE_TOKEN}."
            raise Unavailable(told, reason="SERVICE_TOKEN_DIFFERS") from error

    async def close(self) -> None:
        """Close the connection."""
        await self._keys.close()
