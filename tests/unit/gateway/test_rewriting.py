"""Streams: names are rewritten in every chunk, wherever the network cuts them."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from services.common.errors import Unavailable
from services.gateway.openai.chat import Rewriting
from services.gateway.routing import Replica, Route

DIGEST = "ab" * 32
ROUTE = Route("smol", "", "models/base", DIGEST, "base", datetime.now(UTC))
REPLICA = Replica("http://x", DIGEST, "key")


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else orjson.dumps(data)) + b"\n\n"


def parsed(stream: bytes) -> list[Any]:
    payloads = [part.removeprefix(b"data: ") for part in stream.split(b"\n\n") if part.startswith(b"data: ")]
    return [orjson.loads(payload) for payload in payloads if payload != b"[DONE]"]


STREAM = (
    event({"model": DIGEST, "choices": [{"delta": {"content": "data: é\n\n"}}]})
    + b": a comment\n\n"
    + event({"model": DIGEST, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    + event(b"[DONE]")
)


def test_a_stream_is_the_same_wherever_it_is_cut() -> None:
    for size in range(1, len(STREAM) + 1):
        rewriting = Rewriting(ROUTE, "asked", REPLICA)
        told = b"".join(rewriting.events(STREAM[at : at + size]) for at in range(0, len(STREAM), size))
        chunks = parsed(told)
        assert [chunk["model"] for chunk in chunks] == ["asked", "asked"]
        assert chunks[0]["choices"][0]["delta"]["content"] == "data: é\n\n"
        assert {chunk["system_fingerprint"] for chunk in chunks} == {f"fp_{DIGEST[:16]}"}
        assert told.endswith(b"data: [DONE]\n\n")
        assert b": a comment\n\n" in told
        assert rewriting.is_done
        assert rewriting.usage == {"prompt_tokens": 3, "completion_tokens": 4}


@pytest.mark.parametrize("error", [{"message": f"died {DIGEST}", "code": 500}, "died", {"message": "died", "code": None}])
def test_an_error_in_a_stream_gets_openais_shape(error: Any) -> None:
    (told,) = parsed(Rewriting(ROUTE, "asked", REPLICA).events(event({"error": error})))
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert told["error"]["type"] == "server_error"
    assert DIGEST not in told["error"]["message"]


def test_an_answer_of_another_model_is_withheld() -> None:
    with pytest.raises(Unavailable):
        Rewriting(ROUTE, "asked", REPLICA).events(event({"model": "another", "choices": []}))
    with pytest.raises(Unavailable):
        Rewriting(ROUTE, "asked", REPLICA).whole(b'{"model": "another"}')
    for answer in (b"<html>", b"[]"):
        with pytest.raises(Unavailable):
            Rewriting(ROUTE, "asked", REPLICA).whole(answer)
