"""Who asks over HTTP: the key that a request showed, and whether it may do what the request asks for."""

from collections.abc import Callable, Sequence

from fastapi import Request
from starlette.routing import BaseRoute, Match, Route

from services.common import scopes
from services.common.principal import act_as
from services.common.transport.http_server import App, Receive, Scope, Send
from services.gateway import use_cases
from services.gateway.keys import ApiKey
from services.gateway.openai.errors import bearer
from services.gateway.use_cases import Keys

SCOPE_KEY = "afina.key"


class Authentication:
    """ASGI middleware: nothing under /v1 is read, not even a body, before the key is known and may do it.

    `routes` gives the application's own: a path is looked up as the application will look it up.
    """

    def __init__(self, app: App, *, keys: Keys, routes: Callable[[], Sequence[BaseRoute]]) -> None:
        self._app, self._keys, self._routes = app, keys, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through with its key in the scope. Raises: Unauthenticated, PermissionDenied (it lacks the scope)."""
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            key = scope[SCOPE_KEY] = await use_cases.authenticate(self._keys, bearer(scope))
            principal = key.principal()
            act_as(principal)
            if asked := self._asked(scope):
                principal.require(asked)
        await self._app(scope, receive, send)

    def _asked(self, scope: Scope) -> str:
        """Return the scope that a request asks for; nothing for a path or a method that there is not."""
        fixed = scopes.OF_ROUTE.get(f"{scope['method']} {scope['path']}")
        if fixed:
            return fixed
        for route in self._routes():
            if isinstance(route, Route) and route.matches(scope)[0] is Match.FULL:
                return scopes.OF_ROUTE.get(f"{scope['method']} {route.path}", scopes.OPERATOR)
        return ""


def caller(request: Request) -> ApiKey:
    """Return the key that the request showed."""
    key: ApiKey = request.scope[SCOPE_KEY]
    return key
