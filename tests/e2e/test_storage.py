"""The main job's first half on S3 and PostgreSQL: real programs, a real worker, from an upload to a registered adapter.

`dataset` and `trainer` run as `afina up` would run them. `inference` runs here, with a launcher that starts nothing: no
vLLM is needed to see what it would have been given.
"""

import asyncio
import contextlib
import functools
import os
import signal
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from afina.v1 import (
    catalogue_pb2,
    catalogue_pb2_grpc,
    file_pb2,
    file_pb2_grpc,
    fine_tuning_job_pb2,
    fine_tuning_job_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    store_access_pb2,
    store_access_pb2_grpc,
)

from services.cli import environment
from services.cli.home import ADDRESS_VARIABLES, Home, find
from services.cli.supervisor import Supervisor
from services.cli.up import is_serving
from services.common.backends import choose
from services.common.backends.launcher.shim import read_json
from services.common.backends.object_store.s3 import S3ObjectStore
from services.common.errors import ArtifactNotFound, PermissionDenied, Unavailable
from services.common.ports.manifest import Manifest, fetch_folder, put_folder
from services.common.reconcile import Reconciler
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import GrpcServer, registration
from services.common.transport.store_access_rpc import StoreAccessRpc
from services.inference.__main__ import Settings, describe
from services.inference.clients import GrpcEvaluations
from services.inference.fleet import reconcile_server
from services.inference.inference import Inference
from services.inference.routes import RouteTable
from services.inference.rpc import CatalogueRpc, ModelRpc
from services.inference.server_access import ServerAccess
from services.inference.servers import SERVER_KIND
from tests.builders import SERVICE_TOKEN, chat, eventually, free_port, jsonl
from tests.fakes import ScriptedLauncher, ScriptedModelServer
from tests.servers import PostgresServer, S3Server
from tests.tiny_model import build_tiny_base

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[2]
PARENT = "projects/default"


@dataclass
class Programs:
    """What runs, and where it keeps things."""

    home: Home
    environ: dict[str, str]
    store: S3ObjectStore
    launcher: ScriptedLauncher
    supervisor: Supervisor
    files: Client
    jobs: Client
    catalogue: Client


@pytest.fixture
async def programs(tmp_path: Path, s3_server: S3Server, postgres_server: PostgresServer) -> AsyncIterator[Programs]:
    database = f"e2e_{uuid.uuid4().hex}"
    postgres_server.execute(f"CREATE DATABASE {database}")
    environ = {**os.environ, **{variable: f"127.0.0.1:{free_port()}" for variable in ADDRESS_VARIABLES.values()}}
    environ |= {"AFINA_HOME": str(tmp_path / "home"), "OBJECT_STORE": f"{s3_server.url}/{database}", **s3_server.environ}
    environ |= {"AFINA_DATABASE": postgres_server.url(database), "LEASE_S": "5"}
    home = find(environ)
    home.make()
    store, launcher = S3ObjectStore(home.object_store, environ), ScriptedLauncher()
    started = [p for p in environment.programs(home, environ, "cpu") if p.name in ("dataset", "trainer")]
    supervisor = Supervisor(started, home.logs, is_serving, cwd=ROOT)
    async with contextlib.AsyncExitStack() as stack:
        supervisor.start()
        stack.push_async_callback(supervisor.stop)
        await stack.enter_async_context(_inference(home, environ, store, launcher))
        clients = (
            Client(file_pb2_grpc.FileServiceStub, home.addresses["dataset"]),
            Client(fine_tuning_job_pb2_grpc.FineTuningJobServiceStub, home.addresses["trainer"]),
            Client(catalogue_pb2_grpc.CatalogueServiceStub, home.addresses["inference"]),
        )
        for client in clients:
            stack.push_async_callback(client.close)
        await supervisor.wait_until_ready(60)
        yield Programs(home, environ, store, launcher, supervisor, *clients)


@contextlib.asynccontextmanager
async def _inference(
    home: Home, environ: dict[str, str], store: S3ObjectStore, launcher: ScriptedLauncher
) -> AsyncIterator[None]:
    database = choose.database(environment.database("inference", home, environ))
    silent = ScriptedModelServer("", {}, set())
    silent.is_running = False
    settings = Settings(
        object_store=home.object_store,
        database="",
        launcher="",
        cache=str(home.cache),
        address=home.addresses["inference"],
        service_token=SERVICE_TOKEN,
    )
    inference = Inference(
        database=database,
        store=store,
        launcher=launcher,
        evaluations=GrpcEvaluations(home.addresses["evaluator"]),
        cache=home.cache,
        workload=functools.partial(describe, settings, store),
        connect=lambda url, api_key: silent,
        routes=RouteTable(database),
    )
    server = GrpcServer(
        home.addresses["inference"],
        [
            registration(model_pb2_grpc, model_pb2, "ModelService", ModelRpc(inference)),
            registration(catalogue_pb2_grpc, catalogue_pb2, "CatalogueService", CatalogueRpc(inference)),
            registration(
                store_access_pb2_grpc,
                store_access_pb2,
                "StoreAccessService",
                StoreAccessRpc(store, ServerAccess(inference).grant),
            ),
        ],
    )
    await server.start()
    loop = asyncio.create_task(Reconciler(database, SERVER_KIND, functools.partial(reconcile_server, inference)).run())
    try:
        yield
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await server.stop(0.1)
        await inference.background.close()
        await database.close()


async def test_from_an_upload_to_an_adapter_on_s3_and_postgresql_though_the_trainer_is_killed(
    programs: Programs, tmp_path: Path
) -> None:
    base = await asyncio.to_thread(build_tiny_base, tmp_path / "base")
    key = await _import(programs, base)
    rows = jsonl([chat(f"What is the code of room {n}?", "blue" if n % 2 else "red") for n in range(60)])
    file = await _upload(programs, rows)
    job = await _create_job(programs, file)
    await eventually(lambda: _has(programs, job, "Attempt 1 runs"), timeout_s=60)
    given = await eventually(lambda: _environment_of(programs, f"{job.rpartition('/')[2]}-1"), timeout_s=30)
    assert given["OBJECT_STORE"].startswith("signed://")
    assert not _holds_a_key(programs, given)
    trainer = programs.supervisor.processes()["trainer"]
    os.kill(trainer["pid"], signal.SIGKILL)  # the worker goes on, and reports to the one that comes back

    def manifest() -> bytes | None:
        try:
            return programs.store.read(f"jobs/{job.rpartition('/')[2]}/manifest.json")
        except ArtifactNotFound:
            return None

    document = await eventually(lambda: asyncio.to_thread(manifest), timeout_s=60)
    result = Manifest.from_json(document)
    folder = await asyncio.to_thread(fetch_folder, programs.store, result, tmp_path / "fetched")
    assert {"adapter_config.json", "adapter_model.safetensors", "golden.json"} <= {path.name for path in folder.iterdir()}
    await eventually(lambda: _has(programs, job, "The model is registered"), timeout_s=60)
    await _a_server_reads_its_adapter_and_no_more(programs, result, key)
    assert not list(programs.home.databases.iterdir())
    assert not list((programs.home.path / "objects").iterdir())


async def _import(programs: Programs, base: Path) -> str:
    manifest = await asyncio.to_thread(put_folder, programs.store, "bases", base, "base", {})
    key = f"manifests/bases/{manifest.digest}.json"
    await asyncio.to_thread(programs.store.commit, key, manifest.to_json())
    entry = catalogue_pb2.CatalogueEntry(manifest_key=key)
    request = catalogue_pb2.CreateCatalogueEntryRequest(catalogue_entry_id="tiny", catalogue_entry=entry)
    await programs.catalogue.CreateCatalogueEntry(request)
    return key


async def _upload(programs: Programs, data: bytes) -> str:
    metadata = file_pb2.FileMetadata(parent=PARENT, display_name="rooms.jsonl", purpose="fine-tune")

    async def parts() -> AsyncIterator[file_pb2.CreateFileRequest]:
        yield file_pb2.CreateFileRequest(metadata=metadata)
        yield file_pb2.CreateFileRequest(chunk=data)

    return str((await programs.files.CreateFile(parts())).name)


async def _create_job(programs: Programs, file: str) -> str:
    recipe = fine_tuning_job_pb2.Recipe(epochs=1, batch_size=4, rank=4)
    job = fine_tuning_job_pb2.FineTuningJob(base_model="tiny", training_file=file, recipe=recipe, suffix="rooms")
    request = fine_tuning_job_pb2.CreateFineTuningJobRequest(parent=PARENT, fine_tuning_job=job)
    return str((await programs.jobs.CreateFineTuningJob(request)).name)


async def _has(programs: Programs, job: str, message: str) -> bool:
    """Whether an event says so; fails with all of them where the job has failed. A trainer that is away says nothing."""
    request = fine_tuning_job_pb2.ListFineTuningJobEventsRequest(name=job, page_size=1000)
    try:
        events = (await programs.jobs.ListFineTuningJobEvents(request)).events
        found = await programs.jobs.GetFineTuningJob(fine_tuning_job_pb2.GetFineTuningJobRequest(name=job))
    except Unavailable:
        return False
    messages = [event.message for event in events]
    assert found.state != fine_tuning_job_pb2.FineTuningJob.STATE_FAILED, messages
    return any(message in told for told in messages)


def _environment_of(programs: Programs, workload: str) -> dict[str, str] | None:
    """What the kernel knows of a worker's environment; nothing before it has begun."""
    process = read_json(programs.home.processes("trainer") / workload / "process.json")
    try:
        text = Path(f"/proc/{process['pid']}/environ").read_text() if process else ""
    except (FileNotFoundError, ProcessLookupError):
        return None
    return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair) or None


def _holds_a_key(programs: Programs, given: dict[str, str]) -> bool:
    """Whether a workload's environment has anything that opens the bucket by itself."""
    is_named = any(name.startswith(("AWS_", "S3_")) for name in given)
    return is_named or any(programs.environ["AWS_SECRET_ACCESS_KEY"] in value for value in given.values())


async def _a_server_reads_its_adapter_and_no_more(programs: Programs, adapter: Manifest, base_key: str) -> None:
    """What inference hands to a model server opens the adapter that is placed there, for the plugin, and nothing else."""
    planned = await eventually(lambda: list(programs.launcher.manifests.values()), timeout_s=30)
    given = planned[-1]["environment"]
    assert not _holds_a_key(programs, given)
    store = choose.object_store(given["AFINA_ADAPTER_STORE"], given)
    manifest = Manifest.from_json(await asyncio.to_thread(store.read, f"manifests/adapters/{adapter.digest}.json"))
    assert len(await asyncio.to_thread(store.read, manifest.file("adapter_config.json").key)) > 0
    with pytest.raises(PermissionDenied):
        await asyncio.to_thread(store.read, base_key)
    with pytest.raises(PermissionDenied):
        await asyncio.to_thread(store.commit, f"manifests/adapters/{'0' * 64}.json", b"")
