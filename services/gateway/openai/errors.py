"""Errors as OpenAI writes them: `{"error": {"message", "type", "param", "code"}}`, whatever went wrong and where."""

from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from services.common import errors
from services.common.principal import secret_of
from services.common.transport.http_server import Headers, header, status_of
from services.gateway.openai import absent

RETRY_AFTER_S = "2"
MAX_DEPTH = 100  # orjson reads 1024 levels, but writes 254; no honest request comes near
AWAY = "A part of this service is away for the moment; try again."  # which one, and where it should be, is nobody's business
_JSON = (b"content-type", b"application/json")
_CODES = {
    "API_KEY_MISSING": "invalid_api_key",
    "API_KEY_EXPIRED": "invalid_api_key",
    "INVALID_INPUT": None,
    "INTERNAL": None,
    "OVER_LIMIT": "rate_limit_exceeded",
}


def body_of(error: errors.AfinaError) -> dict[str, Any]:
    """Return an error as JSON."""
    status = status_of(error)
    param = error.metadata.get("param") or next((v.field for v in error.violations), None)
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    code = _CODES.get(error.reason, error.reason.lower())
    message = AWAY if error.reason == "UNREACHABLE" else _sayable(error.message)
    return {"error": {"message": message, "type": kind, "param": param and _sayable(param), "code": code}}


def _sayable(text: str) -> str:
    """Return a text that UTF-8 has words for: what a client sent may hold half of a character."""
    return text.encode("utf-8", "replace").decode()


def present(error: errors.AfinaError, status: int) -> tuple[Headers, bytes]:
    """Return headers and body of an error."""
    headers: Headers = [_JSON]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (429, 503):
        headers.append((b"retry-after", error.metadata.get("retry_after_s", RETRY_AFTER_S).encode()))
    return headers, orjson.dumps(body_of(error))


def invalid(param: str, message: str, reason: str = "INVALID_VALUE") -> errors.InvalidInput:
    """Return the error of one parameter."""
    return errors.InvalidInput(message, reason=reason, metadata={"param": param})


def unknown_parameter(name: str, hint: str = "") -> errors.InvalidInput:
    """Return the error of a parameter that is not known, or not taken here."""
    told = f"Unknown parameter: '{name[:100]}'." if not hint else f"Unsupported parameter: '{name[:100]}'. {hint}"
    return invalid(name[:100], told, "UNKNOWN_PARAMETER" if not hint else "UNSUPPORTED_PARAMETER")


def parse_json(body: bytes) -> dict[str, Any]:
    """Return a request's JSON object. Raises: InvalidInput."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise errors.InvalidInput(
            f"We could not parse the JSON body of your request: {error}. Send a JSON object.", reason="JSON_INVALID"
        ) from error
    if not isinstance(parsed, dict):
        raise errors.InvalidInput("The body of your request must be a JSON object.", reason="JSON_INVALID")
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _is_deeper(parsed, MAX_DEPTH):
        told = f"The JSON body of your request is nested more than {MAX_DEPTH} levels deep; send it flatter."
        raise errors.InvalidInput(told, reason="JSON_INVALID")
    return parsed


def _is_deeper(parsed: Any, depth: int) -> bool:
    """Whether objects and lists stand in one another more often than that."""
    level = [parsed]
    for _ in range(depth):
        inside = (child for node in level for child in (node.values() if isinstance(node, dict) else node))
        level = [child for child in inside if isinstance(child, dict | list)]
        if not level:
            return False
    return True


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Write what the framework refuses by itself: paths, methods, broken forms."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        message = f"Invalid URL ({request.method} {request.url.path[:200]}) {absent.told(request.url.path)}".strip()
        ours: errors.AfinaError = errors.NotFound(message, reason="UNKNOWN_URL")
    elif error.status_code == 405:
        hint = absent.told(request.url.path) or "(HINT: Perhaps you meant another HTTP method?)"
        message = f"Not allowed to {request.method} on {request.url.path[:200]}. {hint}"
        ours = errors.InvalidInput(message, reason="METHOD_NOT_ALLOWED")
    else:
        ours = errors.InvalidInput(str(error.detail))
    headers, body = present(ours, error.status_code)
    response = Response(body, error.status_code, headers=dict(error.headers or {}))
    response.raw_headers.extend(headers)
    return response


async def on_validation_error(_: Request, error: Exception) -> Response:
    """Write what FastAPI says of query parameters and headers."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:])
    headers, body = present(invalid(param, f"Invalid '{param}': {first['msg']}."), 400)
    response = Response(body, 400)
    response.raw_headers.extend(headers)
    return response


def bearer(scope: Any) -> str:
    """Return the secret that a request shows, or nothing."""
    return secret_of(header(scope, b"authorization").decode("latin-1"))
