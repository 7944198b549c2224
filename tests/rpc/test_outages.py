"""Real programs whose database or object store goes away, or whose disk is full: what they say, and that they recover."""

import asyncio
import contextlib
import os
import re
import secrets
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from afina.v1 import file_pb2, file_pb2_grpc, fine_tuning_job_pb2, fine_tuning_job_pb2_grpc

from services.common.backends.launcher.process import ProcessLauncher
from services.common.backends.object_store.local import LocalObjectStore
from services.common.errors import Unavailable
from services.common.ports.launcher import Workload, WorkloadState
from services.common.ports.manifest import fetch_folder, put_folder
from services.common.transport.grpc_client import Client
from tests.builders import chat, eventually, jsonl
from tests.programs import Programs, running_programs
from tests.servers import PostgresServer, S3Server

pytestmark = [pytest.mark.timeout(180)]
PARENT = "projects/default"
ROWS = jsonl(chat(f"Is {n} even?", "yes" if n % 2 == 0 else "no") for n in range(40))
DISK_BYTES = 24 << 20


@contextlib.asynccontextmanager
async def client_of(stub: object, address: str) -> AsyncIterator[Client]:
    client = Client(stub, address, retry=False)  # type: ignore[arg-type]
    try:
        yield client
    finally:
        await client.close()


async def upload(files: Client, data: bytes = ROWS) -> str:
    metadata = file_pb2.FileMetadata(parent=PARENT, display_name="rows.jsonl", purpose="fine-tune")

    async def parts() -> AsyncIterator[file_pb2.CreateFileRequest]:
        yield file_pb2.CreateFileRequest(metadata=metadata)
        for at in range(0, len(data), 1 << 20):
            yield file_pb2.CreateFileRequest(chunk=data[at : at + (1 << 20)])

    return str((await files.CreateFile(parts(), timeout_s=100)).name)


async def listed(files: Client) -> int:
    return len((await files.ListFiles(file_pb2.ListFilesRequest(parent=PARENT))).files)


async def answers(files: Client) -> bool:
    with contextlib.suppress(Unavailable):
        return await listed(files) >= 0
    return False


async def is_ready(programs: Programs, name: str) -> bool:
    return (await programs.probe(name, "/readyz"))[0] == 200


async def is_waiting(programs: Programs, name: str) -> bool:
    """Whether a program has noticed that something is away; it looks every few seconds."""
    return not await is_ready(programs, name)


def told(programs: Programs, name: str, text: str) -> int:
    """How often a program has said so."""
    return sum(text in str(line["message"]) for line in programs.lines(name))


def told_by_loops(programs: Programs, name: str, text: str) -> Counter[str]:
    """How often each loop of a program has said so, by the kind that it moves."""
    return Counter(str(line["kind"]) for line in programs.lines(name) if text in str(line["message"]) and "kind" in line)


async def test_a_program_that_starts_while_its_database_is_away_says_so_and_works_when_it_is_back(tmp_path: Path) -> None:
    with PostgresServer() as server:
        server.stop()
        async with running_programs(tmp_path, "dataset", environ={"AFINA_DATABASE": server.url()}) as programs:
            async with client_of(file_pb2_grpc.FileServiceStub, programs.address("dataset")) as files:
                with pytest.raises(Unavailable) as caught:
                    await listed(files)
                assert caught.value.reason == "DATABASE_UNAVAILABLE"
                status, text = await programs.probe("dataset", "/readyz")
                assert status == 503
                assert "database" in text
                assert (await programs.probe("dataset", "/healthz"))[0] == 200
                await asyncio.to_thread(server.start)
                await eventually(lambda: is_ready(programs, "dataset"), timeout_s=30)
                await upload(files)
                assert await listed(files) == 1
                await eventually(lambda: told(programs, "dataset", "the database answers again"))
            assert told(programs, "dataset", "waits for the database") == 1
            assert programs.supervisor.processes()["dataset"]["restarts"] == 0


async def test_a_loop_whose_database_goes_away_says_so_once_and_loses_nothing(tmp_path: Path) -> None:
    with PostgresServer() as server:
        async with running_programs(tmp_path, "dataset", "trainer", environ={"AFINA_DATABASE": server.url()}) as programs:
            stub = fine_tuning_job_pb2_grpc.FineTuningJobServiceStub
            async with client_of(stub, programs.address("trainer")) as jobs:
                request = fine_tuning_job_pb2.ListFineTuningJobsRequest(parent=PARENT)
                await jobs.ListFineTuningJobs(request)
                server.stop(signal.SIGKILL)
                with pytest.raises(Unavailable) as caught:
                    await jobs.ListFineTuningJobs(request)
                assert "database" in caught.value.message
                await eventually(lambda: told(programs, "trainer", "the database is away"), timeout_s=20)
                await eventually(lambda: is_waiting(programs, "trainer"), timeout_s=20)
                await asyncio.to_thread(server.start)
                await eventually(lambda: is_ready(programs, "trainer"), timeout_s=30)
                await jobs.ListFineTuningJobs(request)
                away = told_by_loops(programs, "trainer", "the database is away")
                await eventually(lambda: told_by_loops(programs, "trainer", "the database answers again") == away, timeout_s=20)
            assert told_by_loops(programs, "trainer", "the database is away") == away
            assert set(away.values()) == {1}
            assert told(programs, "trainer", "waits for the database") == 1


async def test_an_object_store_that_goes_away_refuses_uploads_in_words_and_leaves_no_half_of_one(tmp_path: Path) -> None:
    with S3Server() as server:
        environ = {**server.environ, "OBJECT_STORE": f"{server.url}/outage"}
        async with running_programs(tmp_path, "dataset", environ=environ) as programs:
            async with client_of(file_pb2_grpc.FileServiceStub, programs.address("dataset")) as files:
                await upload(files)
                server.stop(signal.SIGKILL)
                with pytest.raises(Unavailable) as caught:
                    await upload(files, jsonl([chat("lost", "on its way")] * 20))
                assert caught.value.reason == "STORE_UNAVAILABLE"
                assert server.url in caught.value.message
                await eventually(lambda: is_waiting(programs, "dataset"), timeout_s=20)
                assert await listed(files) == 1  # what needs no bytes goes on
                await asyncio.to_thread(server.start)
                await eventually(lambda: is_ready(programs, "dataset"), timeout_s=30)
                await upload(files, jsonl([chat("sent", "again")] * 20))
                assert await listed(files) == 2
        assert len(list(server.store("outage").list("files/"))) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", f"afina-{secrets.token_hex(4)}", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to be root and allowed to mount: a full disk is made of a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("place", ["objects", "temporary files", "database"])
async def test_a_full_disk_is_said_with_the_fix_and_leaves_nothing_behind(small_disk: Path, tmp_path: Path, place: str) -> None:
    where = {
        "objects": {"OBJECT_STORE": f"file://{small_disk}/objects"},
        "temporary files": {"TMPDIR": str(small_disk)},
        "database": {"AFINA_HOME": str(small_disk / "home"), "OBJECT_STORE": f"file://{tmp_path}/objects"},
    }[place]
    async with running_programs(tmp_path, "dataset", environ=where) as programs:
        async with client_of(file_pb2_grpc.FileServiceStub, programs.address("dataset")) as files:
            await upload(files)
            if place == "database":
                _fill(small_disk / "others")
            before = _used(small_disk)
            with pytest.raises(Unavailable) as caught:
                await _upload_too_much(files, ROWS if place == "database" else os.urandom(DISK_BYTES + (4 << 20)))
            assert caught.value.reason in ("DISK_FULL", "DISK_UNAVAILABLE")
            assert re.search("free some space|make room", caught.value.message)
            if place == "database":
                (small_disk / "others").unlink()
            else:
                await eventually(lambda: _used(small_disk) <= before)
            count = await listed(files)
            await upload(files, jsonl([chat("small", "enough")] * 20))
            assert await listed(files) == count + 1
    assert not list((small_disk / "objects" / ".staging").glob("*"))


async def test_a_full_disk_keeps_workloads_and_caches_waiting_and_leaves_no_half_of_one(small_disk: Path, tmp_path: Path) -> None:
    launcher, store = ProcessLauncher(small_disk / "processes"), LocalObjectStore(tmp_path / "objects")
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(os.urandom(1 << 20))
    manifest = put_folder(store, "bases", base, "base", {})
    job = launcher.plan(Workload("job-1", "job", ("sh", "-c", "echo done")))
    _fill(small_disk / "others")
    with pytest.raises(Unavailable, match="free some space"):
        await launcher.launch(job)
    with pytest.raises(Unavailable, match="AFINA_CACHE"):
        fetch_folder(store, manifest, small_disk)
    assert (await launcher.observe("job-1")).state == WorkloadState.GONE
    assert not list(small_disk.glob(".fetch-*"))
    (small_disk / "others").unlink()
    await launcher.launch(job)
    await eventually(lambda: _has_ended(launcher, "job-1"))
    assert (fetch_folder(store, manifest, small_disk) / "model.safetensors").stat().st_size == 1 << 20


async def _has_ended(launcher: ProcessLauncher, key: str) -> bool:
    return (await launcher.observe(key)).state == WorkloadState.SUCCEEDED


async def _upload_too_much(files: Client, data: bytes) -> None:
    for _ in range(300):  # a database takes a while to need another page
        await upload(files, data)


def _used(folder: Path) -> int:
    stat = os.statvfs(folder)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as sink:
        while True:
            sink.write(bytes(4096))
