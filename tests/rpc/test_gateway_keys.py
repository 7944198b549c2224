"""API keys: issued and revoked over real gRPC, shown over real HTTP; and the program as it starts and stops."""

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import openai
import pytest
from afina.v1 import api_key_pb2, api_key_pb2_grpc
from google.protobuf import duration_pb2

from services.common.backends.database.sql import SqlDatabase
from services.common.errors import InvalidInput, NotFound, Unauthenticated
from services.common.ports.database import Record
from services.common.transport.grpc_client import Client
from services.gateway.keys import HASH_KIND
from services.gateway.use_cases import Keys, authenticate, create_key, delete_key, ensure_first_key
from tests.builders import eventually, free_port
from tests.fakes_upstream import RunningGateway, ScriptedInference, ScriptedUpstream, running_gateway

DIGEST = "ab" * 32
PARENT = "projects/default"


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def inference() -> AsyncIterator[ScriptedInference]:
    async with ScriptedUpstream(DIGEST).running() as upstream, ScriptedInference().running() as running:
        running.put("smol", "models/base", DIGEST, upstream.replica(DIGEST), kind="base")
        yield running


@pytest.fixture
async def gateway(tmp_path: Path, clock: Clock, inference: ScriptedInference) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, inference.address, clock=clock) as running:
        await running.knows("smol")
        yield running


async def issue(gateway: RunningGateway, **fields: object) -> api_key_pb2.CreateApiKeyResponse:
    request = api_key_pb2.CreateApiKeyRequest(parent=PARENT, **fields)  # type: ignore[arg-type]
    response: api_key_pb2.CreateApiKeyResponse = await gateway.api_keys.CreateApiKey(request)
    return response


async def ask(gateway: RunningGateway, secret: str) -> str:
    client = gateway.client(secret)
    completion = await client.chat.completions.create(model="smol", messages=[{"role": "user", "content": "hi"}])
    return completion.choices[0].message.content or ""


async def test_an_issued_key_works_and_its_secret_is_nowhere_in_the_database(gateway: RunningGateway, tmp_path: Path) -> None:
    issued = await issue(gateway, display_name="mine")
    assert issued.secret.startswith("afina-")
    assert len(issued.secret) == len("afina-") + 43
    assert await ask(gateway, issued.secret) == "hi"
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("gateway.db*"))
    assert issued.secret.encode() not in stored
    listed = await gateway.api_keys.ListApiKeys(api_key_pb2.ListApiKeysRequest(parent=PARENT))
    assert [key.display_name for key in listed.api_keys] == ["mine", "tests"]


async def test_a_revoked_key_is_refused_within_two_seconds(gateway: RunningGateway) -> None:
    issued = await issue(gateway)
    assert await ask(gateway, issued.secret) == "hi"
    await gateway.api_keys.DeleteApiKey(api_key_pb2.DeleteApiKeyRequest(name=issued.api_key.name))
    with pytest.raises(openai.AuthenticationError):
        await ask(gateway, issued.secret)
    with pytest.raises(NotFound):
        await gateway.api_keys.DeleteApiKey(api_key_pb2.DeleteApiKeyRequest(name=issued.api_key.name))


class SlowOnce(SqlDatabase):
    """Tells what it found of the first key that is looked up when it is let."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.has_looked, self.may_tell = asyncio.Event(), asyncio.Event()

    async def get(self, kind: str, name: str) -> Record:
        record = await super().get(kind, name)
        if kind == HASH_KIND and not self.has_looked.is_set():
            self.has_looked.set()
            await self.may_tell.wait()
        return record


async def test_a_look_that_was_under_way_when_its_key_was_revoked_does_not_keep_the_key_alive(tmp_path: Path) -> None:
    database = SlowOnce(f"sqlite:///{tmp_path}/keys.db")
    context = Keys(database)
    record, secret = await create_key(context, PARENT, "", None)
    look = asyncio.create_task(authenticate(context, secret))
    await database.has_looked.wait()
    await delete_key(context, record.name)
    database.may_tell.set()
    await look  # it was asked before the key was revoked
    with pytest.raises(Unauthenticated):
        await authenticate(context, secret)
    await database.close()


async def test_a_key_that_another_replica_revoked_is_refused_within_two_seconds(gateway: RunningGateway, tmp_path: Path) -> None:
    issued = await issue(gateway)
    assert await ask(gateway, issued.secret) == "hi"
    async with running_gateway(tmp_path) as other:  # on the same database
        await other.api_keys.DeleteApiKey(api_key_pb2.DeleteApiKeyRequest(name=issued.api_key.name))

    async def is_refused() -> bool:
        try:
            await ask(gateway, issued.secret)
        except openai.AuthenticationError:
            return True
        return False

    await eventually(is_refused, timeout_s=2.0)


async def test_a_key_expires_when_its_time_is_over(gateway: RunningGateway, clock: Clock) -> None:
    issued = await issue(gateway, ttl=duration_pb2.Duration(seconds=60))
    assert issued.api_key.expire_time.ToDatetime(tzinfo=UTC) == clock.now + timedelta(seconds=60)
    assert await ask(gateway, issued.secret) == "hi"
    clock.now += timedelta(seconds=61)
    with pytest.raises(openai.AuthenticationError, match="expired"):
        await ask(gateway, issued.secret)


async def test_a_key_for_inference_alone_may_ask_and_list_models_but_not_manage(gateway: RunningGateway) -> None:
    secret = (await issue(gateway, scopes=["inference"])).secret
    assert await ask(gateway, secret) == "hi"
    client = gateway.client(secret)
    assert [model.id async for model in client.models.list()] == ["smol"]
    for call in (
        client.files.list(),
        client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune"),
        client.fine_tuning.jobs.list(),
        client.fine_tuning.jobs.create(model="smol", training_file="file-1"),
        client.models.delete("ft:x"),
    ):
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await call
        assert refused.value.code == "insufficient_permissions"


@pytest.mark.parametrize(
    "fields",
    [
        {"display_name": "x" * 129},
        {"scopes": ["inference", "everything"]},
        {"ttl": duration_pb2.Duration(seconds=0)},
        {"ttl": duration_pb2.Duration(seconds=11 * 366 * 86400)},
    ],
)
async def test_a_key_that_can_not_be_made_says_why(gateway: RunningGateway, fields: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as refused:
        await issue(gateway, **fields)
    assert refused.value.violations


async def test_the_first_key_is_left_in_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    keys, file = Keys(SqlDatabase(f"sqlite:///{tmp_path}/keys.db")), tmp_path / "state" / "api-key"
    await ensure_first_key(keys, file)
    secret = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (await authenticate(keys, secret)).project == "default"
    await ensure_first_key(keys, file)  # the second start changes nothing
    assert file.read_text().strip() == secret
    await keys.database.close()


async def test_a_file_whose_key_the_database_does_not_know_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "api-key"
    file.write_text("afina-" + "x" * 43)
    file.chmod(0o644)
    keys = Keys(SqlDatabase(f"sqlite:///{tmp_path}/keys.db"))
    with pytest.raises(Unauthenticated):
        await authenticate(keys, file.read_text())
    await ensure_first_key(keys, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await authenticate(keys, file.read_text().strip())
    await keys.database.close()


async def test_the_program_finishes_its_streams_when_it_is_stopped(tmp_path: Path) -> None:
    async with ScriptedUpstream(DIGEST).running() as upstream, ScriptedInference().running() as inference:
        inference.put("smol", "models/base", DIGEST, upstream.replica(DIGEST), kind="base")
        http, grpc = free_port(), free_port()
        environment = {
            **os.environ,
            "DATABASE": f"sqlite:///{tmp_path}/gateway.db",
            "API_KEY_FILE": str(tmp_path / "api-key"),
            "GATEWAY_HTTP_ADDRESS": f"127.0.0.1:{http}",
            "GATEWAY_ADDRESS": f"127.0.0.1:{grpc}",
            "GATEWAY_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
            "INFERENCE_ADDRESS": inference.address,
        }
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.gateway", env=environment, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await eventually(lambda: inference.watchers and (tmp_path / "api-key").exists(), timeout_s=30)
            secret = (tmp_path / "api-key").read_text().strip()
            async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{http}/v1", api_key=secret) as client:
                upstream.gate.clear()
                stream = await client.chat.completions.create(
                    model="smol", messages=[{"role": "user", "content": "one two"}], stream=True
                )
                chunks = aiter(stream)
                assert (await anext(chunks)).choices[0].delta.content == "one "
                program.send_signal(signal.SIGTERM)
                await eventually(lambda: refuses(http))
                upstream.gate.set()
                assert [chunk.choices[0].delta.content async for chunk in chunks] == ["two "]
            assert await asyncio.wait_for(program.wait(), 15) == 0
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()


async def refuses(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def test_a_second_program_on_the_same_address_says_so_and_leaves(gateway: RunningGateway, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "DATABASE": f"sqlite:///{tmp_path}/second.db",
        "API_KEY_FILE": str(tmp_path / "second-key"),
        "GATEWAY_HTTP_ADDRESS": gateway.url.removeprefix("http://"),
    }
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.gateway", env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, told = await asyncio.wait_for(program.communicate(), 30)
    assert program.returncode != 0
    assert b"can't be bound" in told


async def test_the_grpc_address_of_the_keys_is_a_server_like_the_others(gateway: RunningGateway) -> None:
    client = Client(api_key_pb2_grpc.ApiKeyServiceStub, gateway.grpc_address)
    with pytest.raises(InvalidInput):
        await client.ListApiKeys(api_key_pb2.ListApiKeysRequest(parent="default"))
    await client.close()
