"""The two inference paths as the `openai` SDK sees them, over real HTTP, real gRPC and a scripted model server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from afina.v1 import model_pb2

from services.gateway.app import Limits
from tests.builders import eventually, free_port
from tests.fakes_upstream import RunningGateway, ScriptedInference, ScriptedUpstream, running_gateway

DIGEST = "ab" * 32
OTHER_DIGEST = "cd" * 32
BASE = "models/base"


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(DIGEST).running() as running:
        yield running


@pytest.fixture
async def inference() -> AsyncIterator[ScriptedInference]:
    async with ScriptedInference().running() as running:
        yield running


@pytest.fixture
async def gateway(tmp_path: Path, inference: ScriptedInference, upstream: ScriptedUpstream) -> AsyncIterator[RunningGateway]:
    inference.put("smol", BASE, DIGEST, upstream.replica(DIGEST), kind="base")
    async with running_gateway(tmp_path, inference.address, ensure_timeout_s=1.0) as running:
        await eventually(lambda: running.routes.are_known)
        yield running


def says(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def test_a_chat_is_answered_under_the_name_that_was_asked_for(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    raw = await gateway.client().chat.completions.with_raw_response.create(model="smol", messages=says("one two"))
    completion = raw.parse()
    assert completion.choices[0].message.content == "one two"
    assert completion.model == "smol"
    assert completion.system_fingerprint == f"fp_{DIGEST[:16]}"
    assert raw.headers["afina-model-digest"] == DIGEST
    assert raw.headers["x-request-id"].startswith("req-")
    assert upstream.requests[0]["model"] == DIGEST
    assert upstream.headers[0]["Authorization"] == "Bearer upstream-key"
    assert gateway.secret not in str(upstream.headers)


async def test_a_streamed_chat_carries_the_name_in_every_chunk_and_ends(gateway: RunningGateway) -> None:
    stream = await gateway.client().chat.completions.create(model="smol", messages=says("one two three"), stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three "
    assert {chunk.model for chunk in chunks} == {"smol"}
    assert {chunk.system_fingerprint for chunk in chunks} == {f"fp_{DIGEST[:16]}"}


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_the_log_says_which_weights_gave_an_answer_and_nothing_of_what_was_said(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture, is_streamed: bool
) -> None:
    create = gateway.client().chat.completions.create
    with caplog.at_level("INFO", logger="afina.gateway"):
        if is_streamed:
            async for chunk in await create(model="smol", messages=says("apples pears"), stream=True):
                answer_id = chunk.id
        else:
            answer_id = (await create(model="smol", messages=says("apples pears"))).id
        (line,) = await eventually(lambda: [record for record in caplog.records if record.message == "answered"])
    told = line.fields
    assert (told["id"], told["model"], told["digest"], told["project"]) == (answer_id, "smol", DIGEST, "default")
    assert told["completion_tokens"] == 2
    assert "apples" not in str(told)


async def test_the_tokens_of_a_stream_are_counted_and_told_to_who_asks(gateway: RunningGateway) -> None:
    create = gateway.client().chat.completions.create
    plain = [chunk async for chunk in await create(model="smol", messages=says("one two"), stream=True)]
    options: Any = {"include_usage": True}
    asked = [chunk async for chunk in await create(model="smol", messages=says("three"), stream=True, stream_options=options)]
    assert [chunk.usage for chunk in plain] == [None, None]
    assert asked[-1].usage is not None
    assert asked[-1].usage.completion_tokens == 1
    told = gateway.counted()
    assert 'afina_gateway_tokens_total{kind="completion",model_kind="base",project="default"} 3.0' in told


async def test_the_first_words_of_a_stream_come_before_the_last_are_written(
    gateway: RunningGateway, upstream: ScriptedUpstream
) -> None:
    upstream.gate.clear()
    stream = await gateway.client().chat.completions.create(model="smol", messages=says("one two"), stream=True)
    chunks = aiter(stream)
    assert (await anext(chunks)).choices[0].delta.content == "one "
    upstream.gate.set()
    assert (await anext(chunks)).choices[0].delta.content == "two "


async def test_an_answer_does_not_wait_for_a_delayed_acknowledgement(gateway: RunningGateway) -> None:
    """Where TCP_NODELAY is not set, every answer on a kept connection takes 40 ms."""
    client, clock, seconds = gateway.client(), asyncio.get_running_loop().time, []
    for _ in range(21):
        begin = clock()
        await client.chat.completions.create(model="smol", messages=says("hi"))
        seconds.append(clock() - begin)
    assert sorted(seconds)[10] < 0.035


async def test_the_synchronous_sdk_is_answered_as_well(gateway: RunningGateway) -> None:
    def ask() -> str:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.secret, max_retries=0) as client:
            stream = client.chat.completions.create(model="smol", messages=says("a b"), stream=True)
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            whole = client.chat.completions.create(model="smol", messages=says("a b"), temperature=0, max_tokens=5)
            return streamed + (whole.choices[0].message.content or "")

    assert await asyncio.to_thread(ask) == "a b a b"


async def test_completions_pass_label_scoring_through(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    completion = await gateway.client().completions.create(
        model="smol",
        prompt=[1, 2, 3],
        max_tokens=1,
        logprobs=1,
        extra_body={"logprob_token_ids": [7, 9], "return_tokens_as_token_ids": True},
    )
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.top_logprobs == [{"token_id:7": 0.0, "token_id:9": -0.5}]
    assert upstream.requests[0] == {
        "model": DIGEST,
        "prompt": [1, 2, 3],
        "max_tokens": 1,
        "logprobs": 1,
        "logprob_token_ids": [7, 9],
        "return_tokens_as_token_ids": True,
        "cache_salt": "default",
    }


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"lora_path": "/etc"}, "lora_path"),
        ({"no_such_thing": 1}, "no_such_thing"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]}, "messages[0]"),
        ({"n": 100000}, "n"),
        ({"messages": []}, "messages"),
    ],
)
async def test_a_parameter_that_is_not_passed_on_is_refused_by_its_name(
    gateway: RunningGateway, upstream: ScriptedUpstream, extra: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await gateway.client().chat.completions.create(model="smol", messages=says("hi"), extra_body=extra)
    assert (refused.value.param or "").startswith(param)
    assert refused.value.type == "invalid_request_error"
    assert param.split("[")[0] in refused.value.message
    assert not upstream.requests


async def test_echo_with_logprobs_is_refused_because_it_would_stop_the_engine(gateway: RunningGateway) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await gateway.client().completions.create(model="smol", prompt="hi", echo=True, logprobs=0)
    assert refused.value.param == "echo"


async def test_a_wrong_key_and_no_key_are_authentication_errors(gateway: RunningGateway) -> None:
    for secret in ("afina-" + "x" * 43, "sk-something-else"):
        with pytest.raises(openai.AuthenticationError) as refused:
            await gateway.client(secret).chat.completions.create(model="smol", messages=says("hi"))
        assert refused.value.code == "invalid_api_key"
        assert refused.value.response.headers["www-authenticate"] == "Bearer"
    async with aiohttp.ClientSession() as session, session.post(f"{gateway.url}/v1/chat/completions", data=b"{") as response:
        assert response.status == 401
        assert (await response.json())["error"]["message"].startswith("You didn't provide an API key")


async def test_an_unknown_model_is_not_found_in_the_words_that_openai_uses(gateway: RunningGateway) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        await gateway.client().chat.completions.create(model="gpt-none", messages=says("hi"))
    assert refused.value.code == "model_not_found"
    assert refused.value.param == "model"
    assert "`gpt-none` does not exist or you do not have access to it" in refused.value.message


async def test_a_name_of_another_project_is_as_unknown_as_one_that_does_not_exist(
    gateway: RunningGateway, inference: ScriptedInference, upstream: ScriptedUpstream
) -> None:
    inference.put(
        "ft:smol:other:x:1", "projects/other/models/m", DIGEST, upstream.replica(DIGEST), kind="adapter", project="other"
    )
    inference.put("marker", BASE, DIGEST, kind="base")
    await gateway.knows("marker")
    with pytest.raises(openai.NotFoundError):
        await gateway.client().chat.completions.create(model="ft:smol:other:x:1", messages=says("hi"))
    assert "ft:smol:other:x:1" not in [model.id async for model in gateway.client().models.list()]


async def test_a_model_that_was_registered_a_moment_ago_answers_before_the_table_has_it(
    gateway: RunningGateway, inference: ScriptedInference, upstream: ScriptedUpstream
) -> None:
    name = "projects/default/models/new"
    inference.models[name] = model_pb2.Model(name=name, public_id="ft:new", digest=DIGEST, kind=model_pb2.Model.KIND_ADAPTER)
    inference.replicas[name] = [upstream.replica(DIGEST)]
    raw = await gateway.client().chat.completions.with_raw_response.create(model="ft:new", messages=says("hi"))
    assert raw.headers["afina-model-digest"] == DIGEST


async def test_requests_for_a_model_without_replicas_share_one_ensure_served(
    gateway: RunningGateway, inference: ScriptedInference, upstream: ScriptedUpstream
) -> None:
    inference.put("cold", "models/cold", DIGEST, kind="base")
    await gateway.knows("cold")
    inference.may_ensure.clear()
    client = gateway.client()
    asks = [asyncio.ensure_future(client.chat.completions.create(model="cold", messages=says(f"q{i}"))) for i in range(5)]
    await eventually(lambda: inference.ensured)
    inference.replicas["models/cold"] = [upstream.replica(DIGEST)]
    inference.may_ensure.set()
    answers = await asyncio.gather(*asks)
    assert [answer.choices[0].message.content for answer in answers] == [f"q{i}" for i in range(5)]
    assert inference.ensured == ["models/cold"]


async def test_a_model_that_nobody_loads_in_time_is_unavailable_with_retry_after(
    gateway: RunningGateway, inference: ScriptedInference
) -> None:
    inference.put("cold", "models/cold", DIGEST, kind="base")
    await gateway.knows("cold")
    with pytest.raises(openai.InternalServerError) as refused:
        await gateway.client().chat.completions.create(model="cold", messages=says("hi"), stream=True)
    assert refused.value.status_code == 503
    assert refused.value.code == "model_not_ready"
    assert int(refused.value.response.headers["retry-after"]) > 0
    assert len(inference.ensured) >= 2


async def test_a_dead_replica_is_passed_over_for_a_live_one(
    gateway: RunningGateway, inference: ScriptedInference, upstream: ScriptedUpstream
) -> None:
    dead = ScriptedUpstream(DIGEST)
    dead.url = f"http://127.0.0.1:{free_port()}"
    inference.put("two", BASE, DIGEST, dead.replica(DIGEST), upstream.replica(DIGEST), kind="base")
    await gateway.knows("two")
    for number in range(6):  # whichever is chosen first
        completion = await gateway.client().chat.completions.create(model="two", messages=says(f"hi {number}"))
        assert completion.choices[0].message.content == f"hi {number}"


@pytest.mark.parametrize("failure", ["drop", 500, 503, 404, 401])
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_replica_that_fails_before_its_first_byte_is_asked_again_after_it_is_ensured(
    gateway: RunningGateway, inference: ScriptedInference, upstream: ScriptedUpstream, failure: int | str, is_streamed: bool
) -> None:
    inference.replicas[BASE] = [upstream.replica(DIGEST)]
    upstream.script = [failure]
    answer = await gateway.client().chat.completions.create(model="smol", messages=says("hi"), stream=is_streamed)
    if is_streamed:
        assert [chunk.choices[0].delta.content async for chunk in answer] == ["hi "]  # type: ignore[union-attr]
    else:
        assert answer.choices[0].message.content == "hi"  # type: ignore[union-attr]
    assert inference.ensured == [BASE]


async def test_a_server_that_fails_twice_is_unavailable_and_its_digest_stays_inside(
    gateway: RunningGateway, inference: ScriptedInference, upstream: ScriptedUpstream
) -> None:
    inference.replicas[BASE] = [upstream.replica(DIGEST)]
    upstream.script = [500, 500]
    with pytest.raises(openai.InternalServerError) as refused:
        await gateway.client().chat.completions.create(model="smol", messages=says("hi"))
    assert (refused.value.status_code, refused.value.code) == (503, "model_server_failed")
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("failure", ["cut", "fail"])
async def test_a_stream_that_breaks_in_its_middle_raises_in_the_sdk(
    gateway: RunningGateway, upstream: ScriptedUpstream, failure: str
) -> None:
    upstream.script = [failure]
    stream = await gateway.client().chat.completions.create(model="smol", messages=says("one two"), stream=True)
    with pytest.raises(openai.APIError, match="The model server"):
        async for _ in stream:
            pass
    assert len(upstream.requests) == 1


async def test_a_server_that_falls_silent_ends_the_stream_with_an_error(
    tmp_path: Path, inference: ScriptedInference, upstream: ScriptedUpstream
) -> None:
    inference.put("smol", BASE, DIGEST, upstream.replica(DIGEST), kind="base")
    async with running_gateway(tmp_path, inference.address, idle_timeout_s=0.3) as gateway:
        await eventually(lambda: gateway.routes.are_known)
        upstream.gate.clear()
        stream = await gateway.client().chat.completions.create(model="smol", messages=says("one two"), stream=True)
        with pytest.raises(openai.APIError, match=r"silent for 0\.3 s"):
            async for _ in stream:
                pass


async def test_an_answer_in_another_models_name_is_withheld(gateway: RunningGateway, upstream: ScriptedUpstream) -> None:
    upstream.script = ["impostor"]
    with pytest.raises(openai.InternalServerError) as refused:
        await gateway.client().chat.completions.create(model="smol", messages=says("hi"))
    assert refused.value.code == "wrong_model_answered"


async def test_what_the_server_refuses_is_told_without_names_of_the_inside(gateway: RunningGateway) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await gateway.client().chat.completions.create(model="smol", messages=says("too-long"))
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "messages"
    assert DIGEST not in str(refused.value)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_client_that_leaves_ends_the_work_at_the_model_server(
    gateway: RunningGateway, upstream: ScriptedUpstream, is_streamed: bool
) -> None:
    upstream.gate.clear()
    ask = gateway.client().chat.completions.create(model="smol", messages=says("one two"), stream=is_streamed)
    task = asyncio.ensure_future(ask)
    await eventually(lambda: upstream.requests)
    if is_streamed:
        await (await task).close()  # type: ignore[union-attr]
    else:
        task.cancel()
    await eventually(lambda: upstream.cancelled)


async def test_a_body_that_is_too_large_is_refused_with_413(gateway: RunningGateway) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await gateway.client().chat.completions.create(model="smol", messages=says("x" * (11 << 20)))
    assert (refused.value.status_code, refused.value.code) == (413, "body_too_large")  # type: ignore[attr-defined]


async def test_one_answer_more_than_the_limit_is_refused_at_once(
    tmp_path: Path, inference: ScriptedInference, upstream: ScriptedUpstream
) -> None:
    inference.put("smol", BASE, DIGEST, upstream.replica(DIGEST), kind="base")
    async with running_gateway(tmp_path, inference.address, limits=Limits(max_generations=1)) as gateway:
        await eventually(lambda: gateway.routes.are_known)
        upstream.gate.clear()
        first = asyncio.ensure_future(gateway.client().chat.completions.create(model="smol", messages=says("one")))
        await eventually(lambda: upstream.requests)
        with pytest.raises(openai.RateLimitError) as refused:
            await gateway.client().chat.completions.create(model="smol", messages=says("two"))
        assert refused.value.response.headers["retry-after"] == "1"
        upstream.gate.set()
        assert (await first).choices[0].message.content == "one"


async def test_a_body_that_comes_slowly_holds_no_place_and_is_given_up(
    tmp_path: Path, inference: ScriptedInference, upstream: ScriptedUpstream
) -> None:
    inference.put("smol", BASE, DIGEST, upstream.replica(DIGEST), kind="base")
    limits = Limits(max_generations=1, body_timeout_s=1.0)
    async with running_gateway(tmp_path, inference.address, limits=limits) as gateway:
        await eventually(lambda: gateway.routes.are_known)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.secret}\r\n"
        writer.write(f"{head}Expect: 100-continue\r\nContent-Length: 100\r\n\r\n".encode())
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")  # the gateway reads the body now
        assert (await gateway.client().chat.completions.create(model="smol", messages=says("one"))).model == "smol"
        assert b" 408 " in await reader.readline()
        writer.close()


async def test_the_counters_tell_strangers_neither_keys_nor_the_names_of_models(
    gateway: RunningGateway, inference: ScriptedInference, upstream: ScriptedUpstream
) -> None:
    name = "ft:smol:default:secret-plan:1"
    inference.put(name, "projects/default/models/m", DIGEST, upstream.replica(DIGEST), kind="adapter", project="default")
    await gateway.knows(name)
    await gateway.client().completions.create(model=name, prompt="one two")
    async with aiohttp.ClientSession() as session:
        for method in ("GET", "PATCH"):
            async with session.request(method, gateway.url + "/nowhere"):
                pass
        async with session.get(gateway.url + "/metrics") as response:
            assert response.status == 404  # strangers reach this address
    told = gateway.counted()
    assert 'afina_gateway_tokens_total{kind="prompt",model_kind="adapter",project="default"}' in told
    for secret in ("secret-plan", "apiKeys", "key="):
        assert secret not in told


async def test_chats_go_on_while_inference_is_away_and_the_routes_come_back_with_it(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    address = f"127.0.0.1:{free_port()}"
    scripted = ScriptedInference()
    scripted.put("smol", BASE, DIGEST, upstream.replica(DIGEST), kind="base")
    async with running_gateway(tmp_path, address) as gateway:
        client = gateway.client()
        async with aiohttp.ClientSession() as session, session.get(f"{gateway.url}/readyz") as response:
            assert response.status == 503
        with pytest.raises(openai.InternalServerError):
            await client.models.list()
        async with scripted.running(address):
            await gateway.knows("smol")
        assert (await client.chat.completions.create(model="smol", messages=says("alone"))).model == "smol"
        scripted.put("later", BASE, DIGEST, upstream.replica(DIGEST), kind="base")
        async with scripted.running(address):
            await gateway.knows("later")


async def test_who_waits_for_a_cold_model_takes_no_place_from_a_warm_one(
    tmp_path: Path, inference: ScriptedInference, upstream: ScriptedUpstream
) -> None:
    inference.put("smol", BASE, DIGEST, upstream.replica(DIGEST), kind="base")
    inference.put("cold", "models/cold", DIGEST, kind="base")
    async with running_gateway(tmp_path, inference.address, limits=Limits(max_generations=1)) as gateway:
        await eventually(lambda: gateway.routes.are_known)
        inference.may_ensure.clear()
        waits = asyncio.ensure_future(gateway.client().chat.completions.create(model="cold", messages=says("one")))
        await eventually(lambda: inference.ensured)
        assert (await gateway.client().chat.completions.create(model="smol", messages=says("two"))).model == "smol"
        with pytest.raises(openai.RateLimitError):  # those who wait are bounded as well
            await gateway.client().chat.completions.create(model="cold", messages=says("three"))
        inference.replicas["models/cold"] = [upstream.replica(DIGEST)]
        inference.may_ensure.set()
        assert (await waits).choices[0].message.content == "one"
