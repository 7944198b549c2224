"""Who asks: the key that a request showed, and what it may do."""

from fastapi import Request

from services.common.errors import PermissionDenied
from services.common.transport.http_server import App, Receive, Scope, Send
from services.gateway import use_cases
from services.gateway.keys import ApiKey
from services.gateway.openai.errors import bearer
from services.gateway.use_cases import Keys

SCOPE_KEY = "afina.key"


class Authentication:
    """ASGI middleware: nothing under /v1 is read, not even a body, before the key is known."""

    def __init__(self, app: App, *, keys: Keys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through with its key in the scope. Raises: Unauthenticated."""
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            scope[SCOPE_KEY] = await use_cases.authenticate(self._keys, bearer(scope))
        await self._app(scope, receive, send)


def caller(request: Request) -> ApiKey:
    """Return the key that the request showed."""
    key: ApiKey = request.scope[SCOPE_KEY]
    return key


def manager(request: Request) -> ApiKey:
    """Return the key that the request showed. Raises: PermissionDenied (it may only ask models)."""
    key = caller(request)
    if key.inference_only:
        raise PermissionDenied(
            "This API key may only ask models; use one without that restriction.", reason="INSUFFICIENT_PERMISSIONS"
        )
    return key
