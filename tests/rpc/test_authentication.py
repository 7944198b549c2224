"""Who calls over gRPC: what is shown, who is believed, and what a key may name. Across programs: `test_projects.py`."""

import contextlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from afina.v1 import (
    api_key_pb2,
    catalogue_pb2,
    dataset_pb2,
    dataset_pb2_grpc,
    evaluation_pb2,
    file_pb2,
    fine_tuning_job_pb2,
    generation_pb2,
    model_pb2,
    upload_pb2,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.cli.home import find
from services.common import errors
from services.common.backends.launcher import process
from services.common.principal import OPERATOR, PROGRAM, Principal, act_as, acting
from services.common.transport.authentication import Authentication, within_project
from services.common.transport.gateway_keys import GatewayKeys
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import GrpcServer, registration
from tests.builders import SERVICE_TOKEN, eventually
from tests.fakes_upstream import DEAD_ADDRESS, running_gateway

SECRET = f"afina-{'k' * 43}"
KEY = Principal("projects/a/apiKeys/key-1", "a", frozenset({"files.read"}))
NAME = "projects/a/datasets/ds-1"
GET = "/afina.v1.DatasetService/GetDataset"


class Datasets(dataset_pb2_grpc.DatasetServiceServicer):
    """Answers with who acts."""

    async def GetDataset(self, request: dataset_pb2.GetDatasetRequest, context: object) -> dataset_pb2.Dataset:
        return dataset_pb2.Dataset(name=acting().name, digest=acting().project)

    async def ListDatasets(self, request: dataset_pb2.ListDatasetsRequest, context: object) -> Any:
        return dataset_pb2.ListDatasetsResponse(next_page_token=request.parent)


async def verify(secret: str) -> Principal:
    if secret != SECRET:
        raise errors.Unauthenticated("no")
    return KEY


@contextlib.asynccontextmanager
async def datasets(authentication: Authentication) -> AsyncIterator[str]:
    served = [registration(dataset_pb2_grpc, dataset_pb2, "DatasetService", Datasets())]
    server = GrpcServer("127.0.0.1:0", served, authentication=authentication)
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with datasets(Authentication(SERVICE_TOKEN, verify)) as address:
        yield address


async def get(address: str, token: str | None = None, name: str = NAME, metadata: Any = ()) -> tuple[str, str]:
    """Return who acts, as the service saw it."""
    client = Client(dataset_pb2_grpc.DatasetServiceStub, address, retry=False, token=token)
    try:
        found = await client.GetDataset(dataset_pb2.GetDatasetRequest(name=name), metadata=metadata)
        return found.name, found.digest
    finally:
        await client.close()


async def test_the_service_token_is_the_operator_and_a_key_is_its_project(address: str) -> None:
    assert await get(address) == ("operator", "")
    assert await get(address, SECRET) == (KEY.name, "a")


WRONG = {
    "shorter": SERVICE_TOKEN[:-1],
    "longer": SERVICE_TOKEN + "x",
    "another key": SECRET[:-1] + "x",
    "foreign": "sk-something",
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
async def test_a_wrong_secret_is_refused_and_not_repeated(address: str, wrong: str) -> None:
    with pytest.raises(errors.Unauthenticated) as refused:
        await get(address, metadata=(("authorization", f"Bearer {wrong}"),))
    assert wrong not in refused.value.message


async def test_who_shows_nothing_is_told_what_to_show(address: str) -> None:
    with pytest.raises(errors.Unauthenticated, match=r"service_token .AFINA_SERVICE_TOKEN") as refused:
        await get(address, "")
    assert refused.value.reason == "API_KEY_MISSING"


async def test_what_a_program_does_for_a_key_it_does_in_its_name_and_project(address: str) -> None:
    act_as(KEY)
    try:
        assert await get(address) == (KEY.name, "a")
        with pytest.raises(errors.PermissionDenied, match="is not of a"):
            await get(address, name="projects/b/datasets/ds-1")
    finally:
        act_as(PROGRAM)


async def test_nobody_else_is_believed_who_he_acts_for(address: str) -> None:
    for_another = (("authorization", f"Bearer {SECRET}"), ("afina-acting-for", "projects/b/apiKeys/key-2"))
    assert await get(address, metadata=for_another) == (KEY.name, "a")
    nonsense = (("authorization", f"Bearer {SERVICE_TOKEN}"), ("afina-acting-for", "everybody"))
    with pytest.raises(errors.InvalidInput):
        await get(address, metadata=nonsense)


async def test_an_empty_parent_is_the_keys_own_project(address: str) -> None:
    client = Client(dataset_pb2_grpc.DatasetServiceStub, address, token=SECRET)
    told = await client.ListDatasets(dataset_pb2.ListDatasetsRequest())
    await client.close()
    assert told.next_page_token == "projects/a"


async def test_health_is_open(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_method_that_the_table_does_not_know_is_the_operators() -> None:
    asked = Authentication(SERVICE_TOKEN, verify)
    with pytest.raises(errors.PermissionDenied, match="Only whoever runs this installation"):
        await asked.principal("/afina.v1.DatasetService/Invented", {"authorization": f"Bearer {SECRET}"})
    token = {"authorization": f"Bearer {SERVICE_TOKEN}"}
    assert await asked.principal("/afina.v1.DatasetService/Invented", token) == OPERATOR


async def test_a_key_is_known_to_other_programs_until_it_is_revoked(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        asked = api_key_pb2.CreateApiKeyRequest(parent="projects/a", scopes=["files.read"])
        made = await gateway.api_keys.CreateApiKey(asked)
        keys = GatewayKeys(gateway.grpc_address)
        async with datasets(Authentication(SERVICE_TOKEN, keys)) as address:
            assert await get(address, made.secret) == (made.api_key.name, "a")
            assert await get(address, made.secret) == (made.api_key.name, "a")
            await gateway.api_keys.DeleteApiKey(api_key_pb2.DeleteApiKeyRequest(name=made.api_key.name))

            async def is_refused() -> bool:
                with contextlib.suppress(errors.Unauthenticated):
                    await get(address, made.secret)
                    return False
                return True

            await eventually(is_refused, timeout_s=3)
        await keys.close()


async def test_while_the_gateway_is_away_a_key_is_not_let_in_and_the_service_token_is(tmp_path: Path) -> None:
    keys = GatewayKeys(DEAD_ADDRESS)
    async with datasets(Authentication(SERVICE_TOKEN, keys)) as address:
        with pytest.raises(errors.Unavailable):
            await get(address, SECRET)
        assert await get(address) == ("operator", "")
    await keys.close()


async def test_a_gateway_that_does_not_know_the_program_is_not_blamed_on_the_caller(address: str, tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        keys = GatewayKeys(gateway.grpc_address)
        keys._keys = Client(keys._keys._stub_class, gateway.grpc_address, retry=False, token="t" * 40)
        async with datasets(Authentication(SERVICE_TOKEN, keys)) as address:
            with pytest.raises(errors.Unavailable, match="the same AFINA_SERVICE_TOKEN"):
                await get(address, SECRET)
        await keys.close()


STRUCT = {"note": "projects/b/files/file-1"}


@pytest.mark.parametrize(
    "request_",
    [
        dataset_pb2.GetDatasetRequest(name="projects/b/datasets/ds-1"),
        dataset_pb2.ListDatasetsRequest(parent="projects/b"),
        file_pb2.CreateFileRequest(metadata=file_pb2.FileMetadata(parent="projects/b")),
        upload_pb2.CompleteUploadRequest(name="projects/a/uploads/u", part_ids=["ok", "projects/b/uploads/u/parts/p"]),
        evaluation_pb2.CreateEvaluationRequest(
            parent="projects/a",
            evaluation=evaluation_pb2.Evaluation(subjects=[{"model": "smol"}, {"model": "projects/b/models/m"}]),
        ),
        fine_tuning_job_pb2.CreateFineTuningJobRequest(
            parent="projects/a", fine_tuning_job=fine_tuning_job_pb2.FineTuningJob(metadata=STRUCT)
        ),
        model_pb2.GetModelRequest(name="ft:smol:b:plan:1", parent="projects/a"),
        model_pb2.GetModelRequest(name="ft:smol:b::1:ckpt-step-3"),
        model_pb2.GetModelRequest(name="ft:sm ol:b::1"),
        model_pb2.GetModelRequest(name="ft:smol:b::1\n"),
        dataset_pb2.ListDatasetsRequest(parent="projects/b\n"),
        dataset_pb2.ListDatasetsRequest(parent="projects/b/a b"),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_key_can_not_name_another_project_anywhere_in_a_request(request_: Any) -> None:
    with pytest.raises(errors.PermissionDenied) as refused:
        within_project(KEY, GET, request_)
    assert refused.value.reason == "OTHER_PROJECT"
    within_project(OPERATOR, GET, request_)


@pytest.mark.parametrize(
    "request_",
    [
        dataset_pb2.GetDatasetRequest(name=NAME),
        model_pb2.GetModelRequest(name="ft:smol:a:plan:1"),
        model_pb2.GetModelRequest(name="models/abc"),
        catalogue_pb2.GetCatalogueEntryRequest(name="catalogueEntries/smol"),
        file_pb2.CreateFileRequest(chunk=b"projects/b"),
        file_pb2.CreateFileRequest(
            metadata=file_pb2.FileMetadata(parent="projects/a", display_name="our projects/b notes.jsonl")
        ),
    ],
    ids=lambda request: str(request)[:30],
)
def test_what_is_of_the_project_of_everybody_or_just_a_text_passes(request_: Any) -> None:
    assert within_project(KEY, GET, request_) is request_


def test_a_question_to_a_model_may_speak_of_anything() -> None:
    question = generation_pb2.GenerateRequest(messages=[{"content": [{"text": "projects/b/files/file-1"}]}])
    assert within_project(KEY, "/afina.v1.GenerationService/Generate", question) is question


def test_a_short_service_token_is_refused_by_its_length() -> None:
    with pytest.raises(errors.InvalidInput, match="has 7 characters"):
        Authentication("hunter2")


def test_an_installation_has_one_token_which_only_its_owner_can_read(tmp_path: Path) -> None:
    home = find({"AFINA_HOME": str(tmp_path / "home")})
    makers = [threading.Thread(target=home.make) for _ in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    token = home.credential({})
    assert len(token) >= 43
    assert stat.S_IMODE(home.service_token.stat().st_mode) == 0o600
    home.make()
    assert home.credential({}) == token
    assert [path.name for path in home.path.iterdir() if path.name.startswith(".")] == []
    assert home.credential({"AFINA_API_KEY": SECRET, "AFINA_SERVICE_TOKEN": "x"}) == SECRET


def test_a_program_without_a_service_token_says_what_to_set_and_leaves() -> None:
    given = {key: value for key, value in os.environ.items() if key != "AFINA_SERVICE_TOKEN"}
    command = (sys.executable, "-m", "services.dataset")
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Set AFINA_SERVICE_TOKEN: " in done.stderr


def test_a_workload_does_not_inherit_the_service_token() -> None:
    assert "AFINA_SERVICE_TOKEN" not in process.INHERITED
    assert not "AFINA_SERVICE_TOKEN".startswith(process.INHERITED_PREFIXES)
