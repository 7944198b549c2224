"""FileService as a client sees it: uploads, lists and deletions over real gRPC."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from afina.v1 import dataset_pb2, file_pb2
from rich.progress import Progress

from services.cli.uploading import parts_of
from services.dataset.use_cases import VALIDATIONS_AT_ONCE
from tests.rpc.dataset_world import PROJECT, Running, finalize, messages, refused, rows


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A dataset program."""
    program = await Running(tmp_path).start()
    yield program
    await program.stop()


async def test_an_upload_is_given_back_unchanged(running: Running) -> None:
    content = bytes(range(256)) * 5_000
    file = await running.upload(content)
    assert (file.display_name, file.purpose, file.size_bytes) == ("reviews.jsonl", "fine-tune", len(content))
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert file.name.startswith(f"{PROJECT}/files/file-")
    assert file.create_time.seconds > 0
    assert await running.read(file.name) == content
    assert await running.files.GetFile(file_pb2.GetFileRequest(name=file.name)) == file


async def test_deleting_a_file_keeps_its_dataset(running: Running) -> None:
    file = await running.upload(rows(60))
    dataset = await running.files.FinalizeFile(finalize(file.name))
    await running.files.DeleteFile(file_pb2.DeleteFileRequest(name=file.name))
    assert (await refused(running.files.GetFile(file_pb2.GetFileRequest(name=file.name))))[0] == grpc.StatusCode.NOT_FOUND
    assert (await refused(running.files.DeleteFile(file_pb2.DeleteFileRequest(name=file.name))))[0] == grpc.StatusCode.NOT_FOUND
    assert await running.datasets.GetDataset(dataset_pb2.GetDatasetRequest(name=dataset.name)) == dataset
    assert running.store.read(dataset.train.artifact.key)


@pytest.mark.parametrize(
    ("name", "purpose", "parent", "reason", "fields"),
    [
        ("../x", "fine-tune", PROJECT, "FILE_INVALID", ["metadata.display_name"]),
        ("", "batch", PROJECT, "FILE_INVALID", ["metadata.display_name", "metadata.purpose"]),
        ("x", "fine-tune", "projects/../x", "NAME_INVALID", []),
        ("x", "fine-tune", "", "NAME_INVALID", []),
    ],
)
async def test_an_upload_with_wrong_metadata_is_refused_with_every_mistake(
    running: Running, name: str, purpose: str, parent: str, reason: str, fields: list[str]
) -> None:
    code, info, request = await refused(running.files.CreateFile(messages(rows(10), name, purpose, parent)))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert [violation.field for violation in request.field_violations] == fields


async def test_a_service_keeps_results_once_and_they_make_no_dataset(running: Running) -> None:
    async def sent(parent: str = PROJECT) -> AsyncIterator[file_pb2.CreateFileRequest]:
        metadata = file_pb2.FileMetadata(parent=parent, display_name="m.csv", purpose="fine-tune-results", request_id="job/m.csv")
        yield file_pb2.CreateFileRequest(metadata=metadata)
        yield file_pb2.CreateFileRequest(chunk=b"step,train_loss\n")

    first = await running.files.CreateFile(sent())
    assert (await running.files.CreateFile(sent())).name == first.name
    assert (await running.files.CreateFile(sent("projects/other"))).name != first.name
    assert await running.read(first.name) == b"step,train_loss\n"
    code, info, _ = await refused(running.files.FinalizeFile(file_pb2.FinalizeFileRequest(name=first.name)))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PURPOSE_UNSUPPORTED")


async def test_an_upload_without_bytes_is_refused(running: Running) -> None:
    code, info, _ = await refused(running.upload(b""))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FILE_EMPTY")


async def test_an_upload_begins_with_metadata_and_has_it_once(running: Running) -> None:
    chunk = file_pb2.CreateFileRequest(chunk=b"x")
    metadata = file_pb2.CreateFileRequest(metadata=file_pb2.FileMetadata(parent=PROJECT, display_name="x", purpose="fine-tune"))
    cases: list[tuple[list[Any], str]] = [
        ([], "METADATA_MISSING"),
        ([chunk], "METADATA_MISSING"),
        ([metadata, chunk, metadata], "METADATA_REPEATED"),
    ]
    for sent, reason in cases:
        code, info, _ = await refused(running.files.CreateFile(iter(sent)))
        assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


async def test_an_upload_over_the_limit_is_refused_and_leaves_nothing(running: Running) -> None:
    code, info, _ = await refused(running.upload(b"x" * ((4 << 20) + 1)))
    assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "FILE_TOO_LARGE")
    assert info.metadata["max_file_bytes"] == str(4 << 20)
    assert list(running.store.list("files/")) == []
    assert (await running.upload(b"x" * (4 << 20))).size_bytes == 4 << 20


@pytest.mark.parametrize("attempt", range(5))  # how a cut shows is a race inside gRPC
async def test_an_upload_that_breaks_off_leaves_nothing(running: Running, attempt: int) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[file_pb2.CreateFileRequest]:
        async for message in messages(rows(100)):
            yield message
        begun.set()
        await asyncio.Event().wait()

    call = running.files.CreateFile(endless())
    await begun.wait()
    call.cancel()
    assert await call.code() == grpc.StatusCode.CANCELLED
    await running.upload(rows(10), name="whole.jsonl")
    files = await running.files.ListFiles(file_pb2.ListFilesRequest(parent=PROJECT))
    assert [file.display_name for file in files.files] == ["whole.jsonl"]
    assert len(list(running.store.list("files/"))) == 1
    assert list((running.store.root / ".staging").iterdir()) == []


async def test_lists_go_page_by_page_newest_first_and_stay_inside_the_project(running: Running) -> None:
    for i in range(5):
        await running.upload(rows(10, seed=i), name=f"{i}.jsonl")
    await running.files.CreateFile(messages(rows(10), parent="projects/other"))
    names, token = [], ""
    for _ in range(3):
        request = file_pb2.ListFilesRequest(parent=PROJECT, page_size=2, page_token=token)
        page = await running.files.ListFiles(request)
        names += [file.display_name for file in page.files]
        token = page.next_page_token
    assert names == ["4.jsonl", "3.jsonl", "2.jsonl", "1.jsonl", "0.jsonl"]
    assert token == ""


@pytest.mark.parametrize("name", ["projects/default/files/../x", "files/x", "", "projects/default/datasets/x"])
async def test_a_name_of_another_form_is_refused(running: Running, name: str) -> None:
    code, info, _ = await refused(running.files.GetFile(file_pb2.GetFileRequest(name=name)))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "NAME_INVALID")


async def test_what_is_not_there_is_not_found(running: Running) -> None:
    name = f"{PROJECT}/files/file-000000000000000000000000"
    request = dataset_pb2.GetDatasetRequest(name=f"{PROJECT}/datasets/ds-000000000000000000000000")
    for call in (
        running.files.GetFile(file_pb2.GetFileRequest(name=name)),
        running.files.FinalizeFile(finalize(name)),
        running.datasets.GetDataset(request),
    ):
        assert (await refused(call))[0] == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await running.read(name)
    assert refusal.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_program_that_starts_again_has_lost_nothing(tmp_path: Path) -> None:
    first = await Running(tmp_path).start()
    file = await first.upload(rows(60))
    dataset = await first.files.FinalizeFile(finalize(file.name))
    await first.stop()
    second = await Running(tmp_path).start()
    assert await second.datasets.GetDataset(dataset_pb2.GetDatasetRequest(name=dataset.name)) == dataset
    assert await second.read(file.name) == rows(60)
    await second.stop()


async def test_uploads_and_downloads_go_on_while_as_many_files_are_validated_as_may_be(running: Running) -> None:
    may_validate = threading.Event()
    for _ in range(VALIDATIONS_AT_ONCE):
        running.library.validators.submit(may_validate.wait)
    try:
        file = await running.upload(rows(60))
        finalizing = asyncio.ensure_future(running.files.FinalizeFile(finalize(file.name)))
        for number in range(20):
            assert await running.read((await running.upload(rows(10, seed=number + 1))).name) == rows(10, seed=number + 1)
        assert not finalizing.done()
    finally:
        may_validate.set()
    assert (await finalizing).train.row_count == 48


async def _sent(content: bytes, **told: Any) -> AsyncIterator[file_pb2.CreateFileRequest]:
    metadata = file_pb2.FileMetadata(parent=PROJECT, display_name="reviews.jsonl", purpose="fine-tune", **told)
    yield file_pb2.CreateFileRequest(metadata=metadata)
    yield file_pb2.CreateFileRequest(chunk=content)


@pytest.mark.parametrize(
    ("told", "fields"),
    [
        ({"size_bytes": 100_000}, ["metadata.size_bytes"]),
        ({"sha256": "0" * 64}, ["metadata.sha256"]),
        ({"size_bytes": 1, "sha256": "f" * 64}, ["metadata.size_bytes", "metadata.sha256"]),
        ({"size_bytes": -1, "sha256": "x"}, ["metadata.size_bytes", "metadata.sha256"]),
    ],
)
async def test_an_upload_that_is_not_what_was_said_is_refused_and_leaves_nothing(
    running: Running, told: dict[str, Any], fields: list[str]
) -> None:
    code, _, request = await refused(running.files.CreateFile(_sent(rows(10), **told)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in request.field_violations] == fields
    assert list(running.store.list("files/")) == []


async def test_an_upload_that_is_what_was_said_is_kept(running: Running) -> None:
    digest = hashlib.sha256(rows(10)).hexdigest()
    file = await running.files.CreateFile(_sent(rows(10), size_bytes=len(rows(10)), sha256=digest.upper()))
    assert file.sha256 == digest


async def test_the_command_line_says_what_it_sends(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_bytes(rows(10))
    sent = [message async for message in parts_of(PROJECT, path, Progress(disable=True))]
    assert sent[0].metadata.size_bytes == len(rows(10))
    assert sent[0].metadata.sha256 == hashlib.sha256(rows(10)).hexdigest()
    assert b"".join(message.chunk for message in sent[1:]) == rows(10)
