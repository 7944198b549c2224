"""What every program's gRPC server does: health, reflection, rich errors within trailers, deadlines, limits."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from afina.v1 import dataset_pb2, dataset_pb2_grpc, file_pb2, file_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.common import errors
from services.common.transport import wire
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import GrpcServer, registration


class Datasets(dataset_pb2_grpc.DatasetServiceServicer):
    def __init__(self) -> None:
        self.calls = 0

    async def GetDataset(self, request: dataset_pb2.GetDatasetRequest, context: object) -> dataset_pb2.Dataset:
        self.calls += 1
        if request.name == "slow":
            await asyncio.sleep(60)
        if request.name == "broken":
            raise ZeroDivisionError("a secret detail")
        if request.name == "flaky":
            if self.calls < 3:
                raise errors.Unavailable("not yet")
            return dataset_pb2.Dataset(name="flaky")
        if request.name == "wide":
            raise errors.InvalidInput("文" * 2000, reason="WIDE", metadata={"text": "文" * 2000})
        if request.name.startswith("bad"):
            violations = [errors.Violation(f"line {i}", "JSON_INVALID", "x" * 400) for i in range(1000)]
            raise errors.InvalidInput("y" * 5000, reason="RECORDS_INVALID", violations=violations)
        raise getattr(errors, request.name)("no", reason="SOME_REASON", metadata={"key": "value"})


@pytest.fixture
async def server() -> AsyncIterator[GrpcServer]:
    server = GrpcServer("127.0.0.1:0", [registration(dataset_pb2_grpc, dataset_pb2, "DatasetService", Datasets())])
    await server.start()
    yield server
    await server.stop(0.1)


@pytest.fixture
async def client(server: GrpcServer) -> AsyncIterator[Client]:
    client = Client(dataset_pb2_grpc.DatasetServiceStub, f"127.0.0.1:{server.port}", retry=True)
    yield client
    await client.close()


async def get(client: Client, name: str, timeout_s: float = 10) -> None:
    await client.GetDataset(dataset_pb2.GetDatasetRequest(name=name), timeout_s=timeout_s)


@pytest.mark.parametrize(
    "kind",
    ["InvalidInput", "NotFound", "AlreadyExists", "WrongState", "Conflict", "OverLimit", "Unauthenticated", "PermissionDenied"],
)
async def test_each_error_arrives_as_itself_with_reason_and_metadata(client: Client, kind: str) -> None:
    with pytest.raises(getattr(errors, kind)) as caught:
        await get(client, kind)
    assert type(caught.value).__name__ == kind
    assert (caught.value.reason, caught.value.metadata) == ("SOME_REASON", {"key": "value"})


async def test_a_thousand_violations_arrive_as_what_fits_with_the_full_count(client: Client) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        await get(client, "bad")
    assert 5 <= len(caught.value.violations) <= 50
    assert caught.value.violation_count == 1000
    assert caught.value.violations[0].field == "line 0"


async def test_whatever_else_happens_is_internal_with_an_incident_and_no_detail(client: Client) -> None:
    with pytest.raises(errors.AfinaError) as caught:
        await get(client, "broken")
    assert caught.value.reason == "INTERNAL"
    assert caught.value.metadata["incident"] in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_unavailable_is_tried_again_by_the_client(client: Client) -> None:
    await get(client, "flaky")


async def test_a_deadline_is_kept(client: Client) -> None:
    with pytest.raises(errors.Unavailable) as caught:
        await get(client, "slow", timeout_s=0.2)
    assert caught.value.reason == "DEADLINE_EXCEEDED"


async def test_a_message_over_the_limit_is_refused(server: GrpcServer) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = dataset_pb2_grpc.DatasetServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetDataset(dataset_pb2.GetDatasetRequest(name="x" * (9 << 20)))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_health_says_serving_and_reflection_lists_the_services(server: GrpcServer) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="afina.v1.DatasetService"))
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        names = [s.name async for r in stub.ServerReflectionInfo(iter(requests)) for s in r.list_services_response.service]
    assert {"afina.v1.DatasetService", "grpc.health.v1.Health"} <= set(names)


async def test_nothing_at_an_address_is_unavailable_and_says_what_to_check() -> None:
    client = Client(dataset_pb2_grpc.DatasetServiceStub, "127.0.0.1:1", retry=False)
    with pytest.raises(errors.Unavailable, match="is the program running"):
        await get(client, "x", timeout_s=5)
    await client.close()


async def test_a_port_that_is_taken_is_said_in_words(server: GrpcServer) -> None:
    second = GrpcServer(f"127.0.0.1:{server.port}", [])
    with pytest.raises(errors.Unavailable, match="another program has it"):
        await second.start()


async def test_a_long_message_in_any_script_stays_within_the_trailers(client: Client) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        await get(client, "wide")
    assert str(caught.value).startswith("文文")
    assert caught.value.reason == "WIDE"


@pytest.mark.parametrize("token", ["²", "9" * 30, "1" * 5000, "-1", "x"])
async def test_a_page_token_that_no_list_gave_is_refused_in_words(token: str) -> None:
    with pytest.raises(errors.InvalidInput):
        wire.page_of(0, token)


class EndlessFiles(file_pb2_grpc.FileServiceServicer):
    def __init__(self) -> None:
        self.has_begun, self.was_cancelled = asyncio.Event(), asyncio.Event()

    async def ReadFile(self, request: file_pb2.ReadFileRequest, context: object) -> AsyncIterator[file_pb2.ReadFileResponse]:
        yield file_pb2.ReadFileResponse(chunk=b"x")
        self.has_begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise


async def test_a_stream_that_its_reader_closes_early_ends_the_servers_work() -> None:
    endless = EndlessFiles()
    server = GrpcServer("127.0.0.1:0", [registration(file_pb2_grpc, file_pb2, "FileService", endless)])
    await server.start()
    client = Client(file_pb2_grpc.FileServiceStub, f"127.0.0.1:{server.port}")
    parts = client.ReadFile(file_pb2.ReadFileRequest(name="x"))
    assert (await anext(parts)).chunk == b"x"
    await endless.has_begun.wait()
    await parts.aclose()
    await asyncio.wait_for(endless.was_cancelled.wait(), 5)
    await client.close()
    await server.stop(0.1)
