"""Models, probes, and the shape of every refusal, over real HTTP."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import openai
import pytest

from services.gateway.app import Limits
from tests.fakes_upstream import RunningGateway, ScriptedInference, ScriptedUpstream, running_gateway

DIGEST = "ab" * 32
OTHER_DIGEST = "cd" * 32


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
    inference.put("smol", "models/base", DIGEST, upstream.replica(DIGEST), kind="base")
    async with running_gateway(tmp_path, inference.address) as running:
        await running.knows("smol")
        yield running


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/no/such", 404, "unknown_url"),
        ("GET", "/nowhere", 404, "unknown_url"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/v1/files?limit=zero", 400, "invalid_value"),
        ("GET", "/v1/files?limitt=1", 400, "unknown_parameter"),
    ],
)
async def test_every_refusal_has_the_shape_of_openais_errors(
    gateway: RunningGateway, method: str, path: str, status: int, code: str
) -> None:
    headers = {"Authorization": f"Bearer {gateway.secret}", "X-Request-Id": "mine-1"}
    async with aiohttp.ClientSession(headers=headers) as session, session.request(method, gateway.url + path) as response:
        assert response.status == status
        body = await response.json()
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["code"] == code
        assert response.headers["x-request-id"] == "mine-1"


async def test_broken_json_is_told_and_the_probes_need_no_key(gateway: RunningGateway) -> None:
    headers = {"Authorization": f"Bearer {gateway.secret}"}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{gateway.url}/v1/chat/completions", data=b'{"model": NaN}', headers=headers) as response:
            assert response.status == 400
            assert "could not parse the JSON body" in (await response.json())["error"]["message"]
        for path in ("/healthz", "/readyz"):
            async with session.get(gateway.url + path) as response:
                assert response.status == 200
        assert 'afina_gateway_requests_total{method="POST",path="/v1/chat/completions",status="400"} 1.0' in gateway.counted()


async def test_models_are_listed_retrieved_and_only_fine_tuned_ones_deleted(
    gateway: RunningGateway, inference: ScriptedInference, upstream: ScriptedUpstream
) -> None:
    name = "projects/default/models/m1"
    inference.put("ft:smol:default::1", name, OTHER_DIGEST, upstream.replica(OTHER_DIGEST), kind="adapter", project="default")
    await gateway.knows("ft:smol:default::1")
    client = gateway.client()
    assert {model.id: model.owned_by async for model in client.models.list()} == {
        "smol": "afina",
        "ft:smol:default::1": "default",
    }
    assert (await client.models.retrieve("ft:smol:default::1")).id == "ft:smol:default::1"
    with pytest.raises(openai.BadRequestError, match="only fine-tuned models"):
        await client.models.delete("smol")
    assert (await client.models.delete("ft:smol:default::1")).deleted
    assert inference.deleted == [name]


async def test_a_form_that_trickles_is_given_up(tmp_path: Path, inference: ScriptedInference, upstream: ScriptedUpstream) -> None:
    async with running_gateway(tmp_path, inference.address, limits=Limits(body_timeout_s=0.5)) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.secret}\r\n"
        writer.write(f"{head}Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n--b\r\n".encode())
        async with asyncio.timeout(30):
            assert b" 408 " in await reader.readline()
            await reader.readuntil(b"body_too_slow")
        writer.close()
