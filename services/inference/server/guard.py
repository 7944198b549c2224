"""The door of a model server: every path needs the server's key, but the two that tell no secret.

vLLM's own `--api-key` guards `/v1`, `/v2`, `/inference` and `/cohere`. It leaves open `/tokenize`, `/detokenize`, `/invocations`
(which generates), `/docs`, `/openapi.json`, `/version`, `/load` and whatever a release adds. So the rule here is the other way
round: what is not listed is closed. `/health` is asked by whoever supervises the server, `/metrics` by who monitors it.

vLLM adds it with `--middleware`, outside all others.
"""

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

KEY_VARIABLE = "VLLM_API_KEY"
OPEN = frozenset({("GET", "/health"), ("GET", "/metrics")})
REFUSAL = b'{"error":{"message":"Unauthorized","type":"invalid_request_error","code":401}}'

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """An ASGI middleware. Without a key in the environment it lets nobody in."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        key = os.environ.get(KEY_VARIABLE, "")
        self._wanted = _sha256(f"Bearer {key}".encode()) if key else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] == "lifespan" or (scope.get("method"), scope.get("path")) in OPEN or self._is_ours(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})

    def _is_ours(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return bool(self._wanted) and len(given) == 1 and hmac.compare_digest(_sha256(given[0]), self._wanted)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
