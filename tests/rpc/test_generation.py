"""GenerationService over real gRPC, beside the same gateway's HTTP: the same keys, names, limits and questions."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import openai
import orjson
import pytest
from afina.v1 import api_key_pb2, generation_pb2_grpc
from afina.v1 import generation_pb2 as pb
from google.protobuf import json_format
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.common.errors import InvalidInput, NotFound, OverLimit, Unauthenticated, Unavailable
from services.gateway.app import Limits
from tests.builders import eventually
from tests.fakes_upstream import RunningGateway, ScriptedInference, ScriptedUpstream, running_gateway

DIGEST = "ab" * 32


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(DIGEST).running() as running:
        yield running


@pytest.fixture
async def inference(upstream: ScriptedUpstream) -> AsyncIterator[ScriptedInference]:
    async with ScriptedInference().running() as running:
        running.put("smol", "models/base", DIGEST, upstream.replica(DIGEST), kind="base")
        yield running


@pytest.fixture
async def gateway(tmp_path: Path, inference: ScriptedInference) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, inference.address, ensure_timeout_s=1.0) as running:
        await running.knows("smol")
        yield running


def asking(text: str, **fields: Any) -> pb.GenerateRequest:
    message = pb.ChatMessage(role=pb.ChatMessage.ROLE_USER, content=[pb.ContentPart(text=text)])
    return pb.GenerateRequest(**{"model": "smol", "messages": [message], **fields})


async def ask(gateway: RunningGateway, request: pb.GenerateRequest, secret: str = "") -> pb.GenerateResponse:
    response: pb.GenerateResponse = await gateway.generation.Generate(request, metadata=shown(gateway, secret))
    return response


def stream(gateway: RunningGateway, request: pb.GenerateRequest) -> AsyncIterator[pb.StreamGenerateResponse]:
    pieces: AsyncIterator[pb.StreamGenerateResponse] = gateway.generation.StreamGenerate(request, metadata=shown(gateway))
    return pieces


def shown(gateway: RunningGateway, secret: str = "") -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret or gateway.secret}"),)


async def test_a_chat_is_answered_whole_with_its_digest_and_usage(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    answer = await ask(gateway, asking("one two"))
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content[0].text) == (pb.ChatMessage.ROLE_ASSISTANT, "one two")
    assert choice.finish_reason == pb.FINISH_REASON_STOP
    assert (answer.model, answer.model_digest, answer.id) == ("smol", DIGEST, "cmpl-1")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 2)
    assert upstream.requests[0]["model"] == DIGEST
    assert gateway.secret not in str(upstream.headers)


async def test_a_stream_brings_its_pieces_as_they_come_and_usage_last(
    gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    upstream.gate.clear()
    pieces = stream(gateway, asking("one two"))
    first = await anext(pieces)
    assert first.deltas[0].text == "one "
    upstream.gate.set()
    rest = [piece async for piece in pieces]
    assert [delta.text for piece in rest for delta in piece.deltas] == ["two "]
    assert {(piece.model, piece.model_digest) for piece in (first, *rest)} == {("smol", DIGEST)}
    assert [piece.HasField("usage") for piece in (first, *rest)] == [False, False, True]
    assert rest[-1].usage.completion_tokens == 2


SCHEMA: dict[str, Any] = {"type": "object", "properties": {"zulu": {"type": "integer"}, "alpha": {"type": "string"}}}
REQUEST: dict[str, Any] = {
    "model": "smol",
    "messages": [
        {"role": "ROLE_SYSTEM", "content": [{"text": "Be brief."}]},
        {"role": "ROLE_USER", "content": [{"text": "What is"}, {"text": "the weather?"}], "name": "ann"},
        {
            "role": "ROLE_ASSISTANT",
            "toolCalls": [{"id": "call-1", "function": {"name": "weather", "arguments": '{"zulu": 1}'}}],
        },
        {"role": "ROLE_TOOL", "content": [{"text": "rain"}], "toolCallId": "call-1"},
    ],
    "sampling": {
        "temperature": 0, "topP": 0.9, "topK": 40, "minP": 0.1, "frequencyPenalty": 0.5, "presencePenalty": -0.5,
        "repetitionPenalty": 1.1, "seed": "7", "maxTokens": 9, "minTokens": 1, "stop": ["END"], "stopTokenIds": [2],
        "logitBias": {"5": -100},
    },
    "choiceCount": 2,
    "tools": [{"function": {
        "name": "weather", "description": "Tells it.", "parameters": orjson.dumps(SCHEMA).decode(), "strict": True,
    }}],
    "toolChoice": {"function": "weather"},
    "parallelToolCalls": False,
    "outputFormat": {"jsonSchema": {"name": "report", "schema": orjson.dumps(SCHEMA).decode(), "strict": True}},
    "topLogprobs": 3,
}  # fmt: skip


THE_SAME: dict[str, Any] = {
    "model": "smol",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "the weather?"}],
            "name": "ann",
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{
                "id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"zulu": 1}'},
            }],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "call-1"},
    ],
    "temperature": 0, "top_p": 0.9, "frequency_penalty": 0.5, "presence_penalty": -0.5, "seed": 7, "max_tokens": 9,
    "stop": ["END"], "logit_bias": {"5": -100}, "n": 2, "parallel_tool_calls": False, "logprobs": True, "top_logprobs": 3,
    "tools": [{"type": "function", "function": {
        "name": "weather", "description": "Tells it.", "parameters": SCHEMA, "strict": True,
    }}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "report", "schema": SCHEMA, "strict": True}},
}  # fmt: skip
NOT_OPENAIS = {"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 1, "stop_token_ids": [2]}


async def test_a_question_reaches_the_model_server_as_the_openai_sdk_asks_it(
    gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    await ask(gateway, json_format.ParseDict(REQUEST, pb.GenerateRequest()))
    await gateway.client().chat.completions.create(**THE_SAME, extra_body=NOT_OPENAIS)
    over_grpc, over_http = upstream.requests
    assert over_grpc == over_http
    properties = over_grpc["tools"][0]["function"]["parameters"]["properties"]
    assert list(properties) == ["zulu", "alpha"]  # in the caller's order


LOGPROB = {"token": "é", "bytes": [195, 169], "logprob": -0.25, "top_logprobs": [{"token": "e", "bytes": None, "logprob": -2.0}]}


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_tool_calls_and_log_probabilities_arrive(
    gateway: RunningGateway, upstream: ScriptedUpstream, is_streamed: bool
) -> None:
    call = {"index": 0, "id": "call-9", "function": {"name": "weather", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    part = {"delta" if is_streamed else "message": said, "finish_reason": "tool_calls", "logprobs": {"content": [LOGPROB]}}
    upstream.script = [part]
    choice: pb.Choice | pb.ChoiceDelta
    if is_streamed:
        pieces = [piece async for piece in stream(gateway, asking("rain?"))]
        choice = pieces[0].deltas[0]
        delta = choice.tool_calls[0]
        assert (delta.index, delta.id, delta.name, delta.arguments) == (0, "call-9", "weather", "{}")
    else:
        choice = (await ask(gateway, asking("rain?"))).choices[0]
        (told,) = choice.message.tool_calls
        assert (told.id, told.function.name, told.function.arguments) == ("call-9", "weather", "{}")
        assert not choice.message.content
    assert choice.finish_reason == pb.FINISH_REASON_TOOL_CALLS
    (logprob,) = choice.logprobs
    assert (logprob.token, logprob.token_bytes.decode(), logprob.logprob) == ("é", "é", -0.25)
    assert [(top.token, top.logprob) for top in logprob.top] == [("e", -2.0)]


async def test_who_shows_no_key_or_a_wrong_or_a_revoked_one_is_not_answered(
    gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    issued = await gateway.api_keys.CreateApiKey(api_key_pb2.CreateApiKeyRequest(parent="projects/default"))
    assert (await ask(gateway, asking("hi"), issued.secret)).model == "smol"
    await gateway.api_keys.DeleteApiKey(api_key_pb2.DeleteApiKeyRequest(name=issued.api_key.name))
    for secret in ("afina-" + "x" * 43, "sk-another", issued.secret):
        with pytest.raises(Unauthenticated) as refused:
            await ask(gateway, asking("hi"), secret)
        assert refused.value.reason == "INVALID_API_KEY"
    with pytest.raises(Unauthenticated) as refused:
        await gateway.generation.Generate(asking("hi"))
    assert refused.value.reason == "API_KEY_MISSING"
    assert len(upstream.requests) == 1


async def test_an_unknown_model_is_not_found(gateway: RunningGateway) -> None:
    with pytest.raises(NotFound) as refused:
        await ask(gateway, asking("hi", model="gpt-none"))
    assert refused.value.reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [pb.ChatMessage(content=[pb.ContentPart(text="x")])]}, "messages[0].role"),
        ({"messages": [pb.ChatMessage(role=3, content=[pb.ContentPart()])]}, "messages[0].content[0]"),  # type: ignore[arg-type]
        ({"choice_count": 129}, "choice_count"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"tool_choice": pb.ToolChoice()}, "tool_choice"),
        (
            {"tools": [pb.Tool(function=pb.FunctionDeclaration(name="f", parameters="{"))]},
            "tools[0].function.parameters",
        ),
        (
            {"output_format": pb.OutputFormat(json_schema=pb.JsonSchema(name="f", schema="[]"))},
            "output_format.json_schema.schema",
        ),
    ],
)
async def test_what_can_not_be_asked_is_refused_by_its_name(
    gateway: RunningGateway, upstream: ScriptedUpstream, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await ask(gateway, asking("hi", **fields))
    assert refused.value.metadata["param"] == param
    assert not upstream.requests


async def test_what_the_server_refuses_is_told_without_names_of_the_inside(gateway: RunningGateway) -> None:
    with pytest.raises(InvalidInput) as refused:
        await ask(gateway, asking("too-long"))
    assert refused.value.reason == "CONTEXT_LENGTH_EXCEEDED"
    assert DIGEST not in refused.value.message


async def test_an_answer_in_another_models_name_is_withheld(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.script = ["impostor"]
    with pytest.raises(Unavailable) as refused:
        await ask(gateway, asking("hi"))
    assert refused.value.reason == "WRONG_MODEL_ANSWERED"


@pytest.mark.parametrize("failure", ["cut", "fail"])
async def test_a_stream_that_breaks_in_its_middle_ends_with_an_error(
    gateway: RunningGateway, upstream: ScriptedUpstream, failure: str
) -> None:
    upstream.script = [failure]
    pieces = stream(gateway, asking("one two"))
    assert (await anext(pieces)).deltas[0].text == "one "
    with pytest.raises(Unavailable) as broken:
        await anext(pieces)
    assert broken.value.reason == "MODEL_SERVER_FAILED"


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_client_that_cancels_ends_the_work_at_the_model_server(
    gateway: RunningGateway, upstream: ScriptedUpstream, is_streamed: bool
) -> None:
    upstream.gate.clear()
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        call = (stub.StreamGenerate if is_streamed else stub.Generate)(asking("one two"), metadata=shown(gateway))
        await eventually(lambda: upstream.requests)
        if is_streamed:
            assert (await call.read()).deltas[0].text == "one "
        call.cancel()
        await eventually(lambda: upstream.cancelled)


async def test_places_and_sizes_are_shared_with_http(
    tmp_path: Path, inference: ScriptedInference, upstream: ScriptedUpstream
) -> None:
    limits = Limits(max_generations=1, max_body_bytes=1000)
    async with running_gateway(tmp_path, inference.address, limits=limits) as gateway:
        await gateway.knows("smol")
        with pytest.raises(OverLimit) as refused:
            await ask(gateway, asking("x" * 1000))
        assert refused.value.reason == "BODY_TOO_LARGE"
        upstream.gate.clear()
        first = asyncio.ensure_future(ask(gateway, asking("one")))
        await eventually(lambda: upstream.requests)
        with pytest.raises(openai.RateLimitError):
            await gateway.client().chat.completions.create(model="smol", messages=[{"role": "user", "content": "two"}])
        with pytest.raises(OverLimit):
            await ask(gateway, asking("two"))
        upstream.gate.set()
        assert (await first).choices[0].message.content[0].text == "one"


async def test_what_is_asked_over_grpc_is_counted_with_the_rest(gateway: RunningGateway) -> None:
    await ask(gateway, asking("one two three"))
    assert [piece async for piece in stream(gateway, asking("four"))]
    told = gateway.counted()
    assert 'afina_gateway_tokens_total{kind="completion",model_kind="base",project="default"} 4.0' in told


async def test_a_client_without_our_protos_finds_the_service(gateway: RunningGateway) -> None:
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="afina.v1.GenerationService"),
        ]
        listed, file = [response async for response in stub.ServerReflectionInfo(iter(asked))]
    assert "afina.v1.GenerationService" in [service.name for service in listed.list_services_response.service]
    assert file.file_descriptor_response.file_descriptor_proto


async def test_a_client_that_is_not_ours_is_answered_whole_and_in_pieces(gateway: RunningGateway) -> None:
    program = Path(sys.executable).with_name("buf")
    if not program.exists():
        pytest.skip("needs buf: pip install buf-bin")
    document = json_format.MessageToJson(asking("one two"))
    header = f"authorization: Bearer {gateway.secret}"
    told = {}
    for method in ("Generate", "StreamGenerate"):
        client = await asyncio.create_subprocess_exec(
            program, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-H", header, "-d", document,
            f"http://{gateway.grpc_address}/afina.v1.GenerationService/{method}",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, complaint = await client.communicate()
        assert client.returncode == 0, complaint
        told[method] = output.decode()
    assert json.loads(told["Generate"])["choices"][0]["message"]["content"] == [{"text": "one two"}]
    assert [text in told["StreamGenerate"] for text in ("one ", "two ", DIGEST)] == [True] * 3
