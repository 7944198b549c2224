"""Answers: names are rewritten in every chunk, wherever the network cuts them, and nothing of another model gets through."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from services.common.errors import AfinaError, Unavailable
from services.gateway.generation import DONE, Reading
from services.gateway.openai.errors import body_of
from services.gateway.routing import Replica, Route

DIGEST = "ab" * 32
ROUTE = Route("smol", "", "models/base", DIGEST, "base", datetime.now(UTC))


class Cut:
    """An answer that arrives in the pieces given."""

    replica = Replica("http://x", DIGEST, "key")

    def __init__(self, *pieces: bytes) -> None:
        self.first, *self._rest = pieces

    async def read(self) -> bytes:
        return self._rest.pop(0) if self._rest else b""


def reading(*pieces: bytes, tells_usage: bool = True) -> Reading:
    return Reading(ROUTE, "asked", Cut(*pieces), tells_usage=tells_usage)  # type: ignore[arg-type]


async def told(answer: Reading) -> list[Any]:
    return [event async for batch in answer.batches() for event in batch]


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else orjson.dumps(data)) + b"\n\n"


USAGE = {"prompt_tokens": 3, "completion_tokens": 4}
STREAM = (
    event({"model": DIGEST, "choices": [{"delta": {"content": "data: é\n\n"}}]})
    + b": a comment\n\n"
    + event({"model": DIGEST, "choices": [], "usage": USAGE})
    + event(b"[DONE]")
)


async def test_a_stream_is_the_same_wherever_it_is_cut() -> None:
    for size in range(1, len(STREAM) + 1):
        answer = reading(*(STREAM[at : at + size] for at in range(0, len(STREAM), size)))
        first, comment, last, done = await told(answer)
        assert [chunk["model"] for chunk in (first, last)] == ["asked", "asked"]
        assert first["choices"][0]["delta"]["content"] == "data: é\n\n"
        assert {chunk["system_fingerprint"] for chunk in (first, last)} == {f"fp_{DIGEST[:16]}"}
        assert (comment, done) == (b": a comment", DONE)
        assert answer.usage == USAGE


async def test_usage_is_counted_and_kept_from_who_did_not_ask_for_it() -> None:
    answer = reading(STREAM, tells_usage=False)
    assert [chunk for chunk in await told(answer) if isinstance(chunk, dict) and "usage" in chunk] == []
    assert answer.usage == USAGE


@pytest.mark.parametrize("error", [{"message": f"died {DIGEST}", "code": 500}, "died", {"message": "died", "code": None}])
async def test_an_error_in_a_stream_is_ours_and_what_came_before_it_is_told(error: Any) -> None:
    batches = reading(event({"model": DIGEST, "choices": []}) + event({"error": error})).batches()
    assert [chunk["model"] for chunk in await anext(batches)] == ["asked"]  # type: ignore[call-overload,index]
    with pytest.raises(Unavailable) as failed:
        await anext(batches)
    shape = body_of(failed.value)["error"]
    assert set(shape) == {"message", "type", "param", "code"}
    assert shape["type"] == "server_error"
    assert DIGEST not in shape["message"]


@pytest.mark.parametrize("pieces", [[event({"model": "another", "choices": []})], [b"data: {\n\n"], [b"data: []\n\n"]])
async def test_a_stream_of_another_model_or_of_none_is_withheld(pieces: list[bytes]) -> None:
    with pytest.raises(Unavailable):
        await told(reading(*pieces))


async def test_a_stream_without_its_end_is_an_error() -> None:
    with pytest.raises(Unavailable, match="too early"):
        await told(reading(STREAM.removesuffix(event(b"[DONE]"))))


@pytest.mark.parametrize("body", [b'{"model": "another"}', b"<html>", b"[]", b'{"error": {"message": "died"}}'])
def test_a_whole_answer_of_another_model_or_of_none_is_withheld(body: bytes) -> None:
    with pytest.raises(AfinaError):
        reading(body).whole()
