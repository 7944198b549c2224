"""/v1/responses as the `openai` SDK sees it: text, events, functions, structured output, log-probabilities, and refusals."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from tests.fakes_chat import TalkingUpstream
from tests.fakes_upstream import RunningGateway, ScriptedInference, running_gateway

DIGEST = "ab" * 32
ADD = {
    "type": "function", "name": "add", "description": "Adds.", "strict": True,
    "parameters": {"type": "object", "properties": {"said": {"type": "string"}}, "required": ["said"],
                   "additionalProperties": False},
}  # fmt: skip


@pytest.fixture
async def upstream() -> AsyncIterator[TalkingUpstream]:
    async with TalkingUpstream(DIGEST, has_tool_parser=True).running() as running:
        assert isinstance(running, TalkingUpstream)
        yield running


@pytest.fixture
async def gateway(tmp_path: Path, upstream: TalkingUpstream) -> AsyncIterator[RunningGateway]:
    async with ScriptedInference().running() as inference:
        inference.put("smol", "models/base", DIGEST, upstream.replica(DIGEST), kind="base")
        async with running_gateway(tmp_path, inference.address) as running:
            await running.knows("smol")
            yield running


@pytest.fixture
def client(gateway: RunningGateway) -> openai.AsyncOpenAI:
    return gateway.client()


async def test_a_text_is_answered_with_a_response_that_the_sdk_reads_strictly(
    client: openai.AsyncOpenAI, upstream: TalkingUpstream
) -> None:
    raw = await client.responses.with_raw_response.create(
        model="smol", input="Is 4 even?", instructions="Be short.", max_output_tokens=16, temperature=0, top_p=0.5,
        metadata={"team": "a"}, user="me", store=False, truncation="disabled", reasoning={"effort": "low"},
    )  # fmt: skip
    told = json.loads(raw.text)
    answer = Response.model_validate(told, strict=True)
    assert (answer.output_text, answer.status, answer.model) == ("Is 4 even?", "completed", "smol")
    assert (answer.instructions, answer.metadata, answer.max_output_tokens) == ("Be short.", {"team": "a"}, 16)
    assert (answer.temperature, answer.top_p, told["store"], answer.error) == (0, 0.5, False, None)
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (5, 3, 8)
    assert raw.headers["afina-model-digest"] == DIGEST
    assert upstream.requests[-1] == {
        "model": DIGEST, "temperature": 0, "top_p": 0.5, "user": "me", "max_completion_tokens": 16, "reasoning_effort": "low",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Is 4 even?"}],
        "cache_salt": "default",
    }  # fmt: skip


async def test_an_answer_that_was_cut_says_so(client: openai.AsyncOpenAI) -> None:
    answer = await client.responses.create(model="smol", input="one two three", max_output_tokens=2)
    assert (answer.status, answer.output_text) == ("incomplete", "one two")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    events = [
        e async for e in await client.responses.create(model="smol", input="one two three", max_output_tokens=2, stream=True)
    ]
    assert events[-1].type == "response.incomplete"


async def test_a_stream_tells_of_text_in_openais_order(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model="smol", input="yes or no", stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        *["response.output_text.delta"] * 3, "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for event in events:
        type(event).model_validate(json.loads(event.model_dump_json(by_alias=True)), strict=True)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "yes or no"
    completed = events[-1]
    assert completed.type == "response.completed"
    assert completed.response.output_text == "yes or no"
    assert completed.response.usage is not None
    assert completed.response.usage.output_tokens == 3


async def test_the_sdks_own_stream_gathers_the_final_response(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model="smol", input="call it", tools=[ADD]) as stream:  # type: ignore[list-item]
        final = await stream.get_final_response()
    (call,) = final.output
    assert call.type == "function_call"
    assert call.parsed_arguments == {"said": "call it"}


async def test_functions_are_called_and_their_results_go_back(client: openai.AsyncOpenAI, upstream: TalkingUpstream) -> None:
    items: list[Any] = [{"role": "user", "content": "What is 2+2?"}]
    first = await client.responses.create(model="smol", input=items, tools=[ADD])  # type: ignore[list-item]
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, call.arguments, call.status) == ("add", '{"said": "What is 2+2?"}', "completed")
    items += first.output
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "It is four"})
    second = await client.responses.create(model="smol", input=items, tools=[ADD])  # type: ignore[list-item]
    assert second.output_text == "It is four"
    assert upstream.requests[-1]["messages"] == [
        {"role": "user", "content": "What is 2+2?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": call.call_id, "type": "function", "function": {"name": "add", "arguments": call.arguments}}]},
        {"role": "tool", "tool_call_id": call.call_id, "content": "It is four"},
    ]  # fmt: skip
    function = {name: ADD[name] for name in ("name", "description", "parameters", "strict")}
    assert upstream.requests[-1]["tools"] == [{"type": "function", "function": function}]


async def test_arguments_of_several_functions_are_streamed_each_as_an_item(client: openai.AsyncOpenAI) -> None:
    tools: Any = [ADD, {**ADD, "name": "subtract"}]
    events = [e async for e in await client.responses.create(model="smol", input="go", tools=tools, stream=True)]
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [(event.output_index, event.arguments) for event in done] == [(0, '{"said": "go"}'), (1, '{"said": "go"}')]
    for index in (0, 1):
        deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta" and e.output_index == index]
        assert (len(deltas), "".join(deltas)) == (2, '{"said": "go"}')
    final = events[-1]
    assert final.type == "response.completed"
    assert [item.name for item in final.response.output if item.type == "function_call"] == ["add", "subtract"]


async def test_one_function_can_be_asked_for_and_none(client: openai.AsyncOpenAI) -> None:
    tools: Any = [ADD, {**ADD, "name": "subtract"}]
    chosen = await client.responses.create(
        model="smol", input="go", tools=tools, tool_choice={"type": "function", "name": "subtract"}
    )
    assert [item.name for item in chosen.output if item.type == "function_call"] == ["subtract"]
    none = await client.responses.create(model="smol", input="go", tools=tools, tool_choice="none")
    assert none.output_text == "go"


async def test_a_server_without_a_tool_parser_says_what_to_set(client: openai.AsyncOpenAI, upstream: TalkingUpstream) -> None:
    upstream.has_tool_parser = False
    for stream, choice in ((False, "auto"), (True, "auto"), (False, "required"), (False, {"type": "function", "name": "add"})):
        asked: Any = {"tools": [ADD], "tool_choice": choice, "stream": stream}
        with pytest.raises(openai.BadRequestError, match="--tool-call-parser to be set"):
            await client.responses.create(model="smol", input="go", **asked)


class Answer(BaseModel):
    answer: int


async def test_structured_output_reaches_the_engine_as_its_response_format(
    client: openai.AsyncOpenAI, upstream: TalkingUpstream
) -> None:
    parsed = await client.responses.parse(model="smol", input='{"answer": 4}', text_format=Answer)
    assert parsed.output_parsed == Answer(answer=4)
    asked = upstream.requests[-1]["response_format"]
    assert (asked["type"], asked["json_schema"]["name"], asked["json_schema"]["strict"]) == ("json_schema", "Answer", True)
    assert asked["json_schema"]["schema"]["properties"]["answer"]["type"] == "integer"
    await client.responses.create(model="smol", input="x", text={"format": {"type": "json_object"}})
    assert upstream.requests[-1]["response_format"] == {"type": "json_object"}


async def test_logprobs_pass_through_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "smol", "input": "yes no", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    answer = await client.responses.create(**asked)
    part = answer.output[0].content[0]  # type: ignore[union-attr, index]
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert [(told.token, told.logprob, len(told.top_logprobs)) for told in part.logprobs] == [("yes", -0.25, 2), ("no", -0.25, 2)]
    events = [event async for event in await client.responses.create(**asked, stream=True)]
    assert [len(event.logprobs) for event in events if event.type == "response.output_text.delta"] == [1, 1]
    (done,) = [event for event in events if event.type == "response.output_text.done"]
    assert [told.token for told in done.logprobs] == ["yes ", "no"]


async def test_a_stream_that_breaks_ends_as_failed(client: openai.AsyncOpenAI, upstream: TalkingUpstream) -> None:
    for script in ("fail", "cut"):
        upstream.script = [script]
        events = [event async for event in await client.responses.create(model="smol", input="one two", stream=True)]
        assert events[-1].type == "response.failed"
        assert events[-1].response.error is not None
        assert events[-1].response.error.code == "server_error"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "not stored"),
        ({"store": True}, "store", "not stored"),
        ({"conversation": "conv_1"}, "conversation", "not stored"),
        ({"background": True}, "background", "while you wait"),
        ({"truncation": "auto"}, "truncation", "shorten"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "instructions"),
        ({"max_tool_calls": 3}, "max_tool_calls", "no built-in tools"),
        ({"service_tier": "flex"}, "service_tier", "one tier"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "send functions"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type", "send functions"),
        ({"tools": [{**ADD, "defer_loading": True}]}, "tools[0].defer_loading", "has a name"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "Missing"),
        ({"tools": [ADD], "tool_choice": {"type": "file_search"}}, "tool_choice", "Functions are the only tools"),
        ({"tool_choice": "required"}, "tool_choice", "'tools' has none"),
        ({"include": ["reasoning.encrypted_content"]}, "include", "text and function calls"),
        ({"top_logprobs": 21}, "top_logprobs", "0 to 20"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary", "Unknown parameter"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "in the prompt"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "json_schema"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", "not padded"),
        ({"metadata": {"k": "v" * 513}}, "metadata", "512"),
        ({"input": []}, "input", "Missing"),
        ({"input": "too-long"}, "input", "maximum context length"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "send the item itself"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role", "developer"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]},
         "input[0].content[0].type", "read text"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id", "Missing"),
        ({"extra_body": {"seed": 1}}, "seed", "Unknown parameter"),
        ({"model": ""}, "model", "model parameter"),
    ],
)  # fmt: skip
async def test_what_is_not_here_is_refused_by_its_name(
    client: openai.AsyncOpenAI, fields: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(**{"model": "smol", "input": "hi", **fields})
    assert refused.value.param == param
    assert words in refused.value.message


async def test_what_comes_after_a_response_is_refused_because_nothing_is_stored(client: openai.AsyncOpenAI) -> None:
    calls = [
        client.responses.retrieve("resp_1"),
        client.responses.delete("resp_1"),
        client.responses.cancel("resp_1"),
        client.responses.input_items.list("resp_1"),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError, match="not stored here"):
            await call  # type: ignore[misc]
    with pytest.raises(openai.NotFoundError, match="counts its tokens"):
        await client.responses.input_tokens.count(model="smol", input="x")


async def test_an_unknown_model_and_the_synchronous_sdk_walk_the_same_road(gateway: RunningGateway) -> None:
    def walk() -> str:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.secret, max_retries=0) as client:
            with pytest.raises(openai.NotFoundError) as refused:
                client.responses.create(model="none", input="hi")
            assert refused.value.code == "model_not_found"
            with client.responses.stream(model="smol", input="hi there") as stream:
                stream.until_done()
            return client.responses.create(
                model="smol", input=[{"role": "developer", "content": "a"}, {"role": "user", "content": "b"}]
            ).output_text

    assert await asyncio.to_thread(walk) == "b"
