"""The door of a model server: what is not listed needs the key, whatever the server behind it would do."""

from typing import Any

import pytest

from services.inference.server.guard import KEY_VARIABLE, Guard

KEY = ("authorization", "Bearer the-secret")


async def ask(guard: Guard, method: str, path: str, *headers: tuple[str, str], kind: str = "http") -> Any:
    """Return the status of an answer, or what else was sent first."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    raw = [(name.encode(), value.encode()) for name, value in headers]
    await guard({"type": kind, "method": method, "path": path, "headers": raw}, receive, send)
    return sent[0].get("status", sent[0])


async def server(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Guard:
    monkeypatch.setenv(KEY_VARIABLE, "the-secret")
    return Guard(server)


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/tokenize", "/adapters", "/invocations", "/docs", "/openapi.json", "/version", "/load",
     "/metrics/", "/metrics/../v1/models", "/health/",
     "//health", "/HEALTH", "/health;x", "/health%2f..", "/nothing", ""],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
async def test_a_path_that_is_not_listed_needs_the_key(guard: Guard, method: str, path: str) -> None:
    assert await ask(guard, method, path) == 401
    assert await ask(guard, method, path, KEY) == 200


async def test_health_and_metrics_are_read_by_everybody_and_written_by_nobody(guard: Guard) -> None:
    for path in ("/health", "/metrics"):
        assert await ask(guard, "GET", path) == 200
        for method in ("POST", "HEAD", "OPTIONS", "PUT"):
            assert await ask(guard, method, path) == 401


@pytest.mark.parametrize(
    "value", ["Bearer guessed", "the-secret", "bearer the-secret", "Bearer the-secret ", "Bearer ", "", "Basic x"]
)
async def test_another_key_or_form_is_refused(guard: Guard, value: str) -> None:
    assert await ask(guard, "POST", "/v1/completions", ("authorization", value)) == 401


async def test_two_keys_are_none(guard: Guard) -> None:
    assert await ask(guard, "GET", "/v1/models", KEY, ("authorization", "Bearer guessed")) == 401


async def test_a_socket_needs_the_key_too(guard: Guard) -> None:
    assert await ask(guard, "GET", "/v1/realtime", kind="websocket") == {"type": "websocket.close", "code": 1008}


async def test_without_a_key_in_the_environment_nobody_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    for value in ("Bearer ", "Bearer", ""):
        assert await ask(Guard(server), "GET", "/v1/models", ("authorization", value)) == 401
