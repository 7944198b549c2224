"""Chats as responses, without a network: every event and object is held against the SDK's own types, strictly."""

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from services.common.errors import InvalidInput
from services.gateway.openai.json_body import parse_strictly
from services.gateway.openai.responses_objects import Events, response_of
from services.gateway.openai.responses_parameters import asked_response

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
CALL = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1}}


def _asked(**fields: Any) -> Any:
    return asked_response({"model": "smol", "input": "hi", **fields})


def _chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"model": "smol", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def _events(*chunks: dict[str, Any]) -> list[Any]:
    events = Events(_asked(stream=True))
    told = [event for chunk in chunks for event in events.of_chunk(chunk)] + list(events.of_end())
    return [EVENT.validate_json(json.dumps(event), strict=True) for event in told]


def test_words_before_a_function_call_are_an_item_of_their_own() -> None:
    events = _events(
        _chunk({"role": "assistant", "content": "Let me "}), _chunk({"content": "add."}), _chunk({"tool_calls": [CALL]}),
        _chunk({}, "tool_calls"), {"model": "smol", "choices": [], "usage": USAGE},
    )  # fmt: skip
    final = events[-1].response
    assert [item.type for item in final.output] == ["message", "function_call"]
    assert (final.output_text, final.output[1].call_id, final.output[1].status) == ("Let me add.", "call-1", "completed")
    assert (final.usage.input_tokens, final.usage.input_tokens_details.cached_tokens) == (3, 1)
    kinds = [event.type for event in events]
    assert kinds.index("response.output_text.done") < kinds.index("response.function_call_arguments.delta")
    assert [event.output_index for event in events if event.type == "response.output_item.done"] == [0, 1]
    ids = {item.id for item in final.output}
    assert {event.item_id for event in events if hasattr(event, "item_id")} == ids


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    events = _events(_chunk({"role": "assistant", "content": ""}), _chunk({}, "stop"))
    assert events[-1].response.output_text == ""
    assert [item.type for item in events[-1].response.output] == ["message"]
    message = {"role": "assistant", "content": None}
    answer = response_of(_asked(), {"model": "smol", "choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE})
    assert [item["type"] for item in answer["output"]] == ["message"]


def test_a_whole_answer_with_words_and_calls_is_what_the_sdk_expects() -> None:
    message = {"role": "assistant", "content": "So.", "tool_calls": [CALL]}
    answer = response_of(
        _asked(metadata={"a": "b"}, text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}),
        {"model": "smol", "choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": USAGE},
    )
    read = Response.model_validate_json(json.dumps(answer), strict=True)
    assert (read.output_text, read.output[1].type, read.text.format.type) == ("So.", "function_call", "json_schema")  # type: ignore[union-attr]


def test_what_was_answered_can_be_sent_back_as_it_came() -> None:
    message = {"role": "assistant", "content": "So.", "tool_calls": [CALL]}
    answer = response_of(_asked(), {"model": "smol", "choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE})
    items = [item.model_dump() for item in Response.model_validate(answer).output]
    again = _asked(input=[{"role": "user", "content": "hi"}, *items])
    call = {name: CALL[name] for name in ("id", "type", "function")}
    assert again.chat["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "So.", "tool_calls": [call]},
    ]


@pytest.mark.parametrize("body", [b'{"a": 1, "a": 1}', b'{"b": [{"a": {}, "c": 1, "a": []}]}'])
def test_a_key_said_twice_is_named_wherever_it_stands(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="'a' stands twice"):
        parse_strictly(body)


def test_numbers_of_any_length_are_read_in_no_time() -> None:
    assert parse_strictly(b'{"a": 1' + b"0" * 300 + b"}") == {"a": 1e300}
