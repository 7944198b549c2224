"""FileService and DatasetService as a client sees them: real gRPC on loopback, with a real store and a real database."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from afina.v1 import dataset_pb2, dataset_pb2_grpc, file_pb2, file_pb2_grpc
from google.rpc import error_details_pb2, status_pb2

from services.common.backends.database.sql import SqlDatabase
from services.common.backends.object_store.local import LocalObjectStore
from services.common.errors import InvalidInput
from services.common.transport.grpc_client import Client
from services.common.transport.grpc_server import GrpcServer, registration
from services.dataset.rpc import DatasetRpc, FileRpc
from services.dataset.use_cases import Library

PROJECT = "projects/default"


class Running:
    """A dataset program that serves, and clients of it."""

    def __init__(self, folder: Path, max_file_bytes: int = 4 << 20) -> None:
        self.store = LocalObjectStore(folder / "store")
        self.library = Library(SqlDatabase(f"sqlite:///{folder}/dataset.db"), self.store, max_file_bytes)
        self.server = GrpcServer(
            "127.0.0.1:0",
            [
                registration(file_pb2_grpc, file_pb2, "FileService", FileRpc(self.library)),
                registration(dataset_pb2_grpc, dataset_pb2, "DatasetService", DatasetRpc(self.library)),
            ],
        )

    async def start(self) -> "Running":
        """Serve."""
        await self.server.start()
        self.address = f"127.0.0.1:{self.server.port}"
        self.channel = grpc.aio.insecure_channel(self.address)
        self.files = file_pb2_grpc.FileServiceStub(self.channel)
        self.datasets = dataset_pb2_grpc.DatasetServiceStub(self.channel)
        return self

    async def stop(self) -> None:
        """Stop serving; what was kept stays."""
        await self.channel.close()
        await self.server.stop(0)
        await self.library.database.close()

    async def upload(self, content: bytes, name: str = "reviews.jsonl", purpose: str = "fine-tune") -> Any:
        """Upload a file in chunks."""
        return await self.files.CreateFile(messages(content, name, purpose))

    async def read(self, name: str) -> bytes:
        """Read a file back."""
        return b"".join([part.chunk async for part in self.files.ReadFile(file_pb2.ReadFileRequest(name=name))])


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A dataset program."""
    program = await Running(tmp_path).start()
    yield program
    await program.stop()


async def messages(
    content: bytes, name: str = "reviews.jsonl", purpose: str = "fine-tune", parent: str = PROJECT
) -> AsyncIterator[file_pb2.CreateFileRequest]:
    """An upload as it travels."""
    metadata = file_pb2.FileMetadata(parent=parent, display_name=name, purpose=purpose)
    yield file_pb2.CreateFileRequest(metadata=metadata)
    for begin in range(0, len(content), 64 << 10):
        yield file_pb2.CreateFileRequest(chunk=content[begin : begin + (64 << 10)])


def rows(count: int, seed: int = 0) -> bytes:
    """Labelled chats as a file."""
    labels = ["positive", "negative"]
    chats = [
        {"messages": [{"role": "user", "content": f"review {seed} {i}"}, {"role": "assistant", "content": labels[i % 2]}]}
        for i in range(count)
    ]
    return "".join(json.dumps(chat) + "\n" for chat in chats).encode()


def finalize(name: str, **split: Any) -> file_pb2.FinalizeFileRequest:
    """Ask for a Dataset."""
    return file_pb2.FinalizeFileRequest(name=name, split=dataset_pb2.Split(**split) if split else None)


async def refused(call: Any) -> tuple[grpc.StatusCode, Any, Any]:
    """Await a call that is refused, and return its code, ErrorInfo and BadRequest."""
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    trailers = dict(refusal.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.message == refusal.value.details()
    for detail in status.details:
        detail.Unpack(info) or detail.Unpack(request)
    return refusal.value.code(), info, request


async def test_an_upload_is_given_back_unchanged(running: Running) -> None:
    content = bytes(range(256)) * 5_000
    file = await running.upload(content)
    assert (file.display_name, file.purpose, file.size_bytes) == ("reviews.jsonl", "fine-tune", len(content))
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert file.name.startswith(f"{PROJECT}/files/file-")
    assert file.create_time.seconds > 0
    assert await running.read(file.name) == content
    assert await running.files.GetFile(file_pb2.GetFileRequest(name=file.name)) == file


async def test_a_file_becomes_a_dataset_with_its_split(running: Running) -> None:
    file = await running.upload(rows(100))
    dataset = await running.files.FinalizeFile(finalize(file.name))
    assert (dataset.row_count, dataset.format, dict(dataset.label_counts)) == (
        100,
        "openai_chat",
        {"positive": 50, "negative": 50},
    )
    assert [part.row_count for part in (dataset.train, dataset.validation, dataset.test)] == [80, 10, 10]
    assert (dataset.split.train_fraction, dataset.split.seed) == (0.8, 0)
    stored = running.store.read(dataset.train.artifact.key)
    assert hashlib.sha256(stored).hexdigest() == dataset.train.artifact.sha256
    assert len(stored) == dataset.train.artifact.size_bytes
    assert (await running.files.GetFile(file_pb2.GetFileRequest(name=file.name))).dataset == dataset.name
    assert await running.datasets.GetDataset(dataset_pb2.GetDatasetRequest(name=dataset.name)) == dataset


async def test_finalising_twice_and_the_same_bytes_again_find_the_same_dataset(running: Running) -> None:
    first, second = await running.upload(rows(60)), await running.upload(rows(60), name="again.jsonl")
    made = [await running.files.FinalizeFile(finalize(name)) for name in (first.name, first.name, second.name)]
    assert made[0] == made[1] == made[2]
    listed = await running.datasets.ListDatasets(dataset_pb2.ListDatasetsRequest(parent=PROJECT))
    assert list(listed.datasets) == [made[0]]


async def test_many_callers_at_once_get_one_dataset(running: Running) -> None:
    file = await running.upload(rows(60))
    made = await asyncio.gather(*(running.files.FinalizeFile(finalize(file.name)) for _ in range(8)))
    assert len({dataset.name for dataset in made}) == 1


async def test_a_caller_that_stops_waiting_does_not_stop_the_work(running: Running) -> None:
    file = await running.upload(rows(2_000))
    with pytest.raises(grpc.aio.AioRpcError):
        await running.files.FinalizeFile(finalize(file.name), timeout=0.002)
    dataset = await running.files.FinalizeFile(finalize(file.name))
    assert dataset.row_count == 2_000


async def test_another_split_is_another_dataset(running: Running) -> None:
    file = await running.upload(rows(60))
    usual = await running.files.FinalizeFile(finalize(file.name))
    seeded = await running.files.FinalizeFile(finalize(file.name, seed=5))
    halved = await running.files.FinalizeFile(finalize(file.name, train_fraction=0.5, test_fraction=0.5))
    assert len({usual.name, seeded.name, halved.name}) == 3
    assert (seeded.split.train_fraction, seeded.split.seed) == (0.8, 5)
    assert [part.row_count for part in (halved.train, halved.validation, halved.test)] == [30, 0, 30]
    assert not halved.validation.HasField("artifact")


def questions(count: int, first: int = 0) -> list[dict[str, str]]:
    """Free-text rows that all differ."""
    return [{"question": f"What is {i} plus {i}?", "answer": f"It is {2 * i}, I believe."} for i in range(first, first + count)]


def named(name: str, **fields: Any) -> file_pb2.FinalizeFileRequest:
    """Ask for a Dataset with more than a split."""
    return file_pb2.FinalizeFileRequest(name=name, **fields)


async def test_the_same_rows_in_any_container_are_the_same_dataset(running: Running) -> None:
    values = questions(120)
    contents = [
        "".join(json.dumps(value) + "\n" for value in values).encode(),
        json.dumps(values, indent=2).encode(),
        gzip.compress(json.dumps(values).encode()),
        "\n".join(json.dumps(value, indent=1) for value in values).encode(),
    ]
    made = [await running.files.FinalizeFile(finalize((await running.upload(content)).name)) for content in contents]
    assert {dataset.name for dataset in made} == {made[0].name}
    assert (made[0].format, made[0].row_count) == ("question_answer", 120)
    line = json.loads(running.store.read(made[0].train.artifact.key).splitlines()[0])
    assert [message["role"] for message in line["messages"]] == ["user", "assistant"]


async def test_objects_over_several_lines_are_accepted_with_a_warning(running: Running) -> None:
    content = "\n".join(json.dumps(value, indent=1) for value in questions(120)).encode()
    dataset = await running.files.FinalizeFile(finalize((await running.upload(content)).name))
    assert [warning.reason for warning in dataset.warnings] == ["OBJECTS_OVER_LINES"]


async def test_a_format_can_be_named_and_another_name_makes_another_dataset(running: Running) -> None:
    content = "".join(json.dumps(value) + "\n" for value in questions(120)).encode()
    file = await running.upload(content)
    found = await running.files.FinalizeFile(named(file.name))
    as_text = await running.files.FinalizeFile(named(file.name, format="plain_text"))
    assert (found.format, as_text.format) == ("question_answer", "plain_text")
    assert found.digest != as_text.digest
    assert await running.files.FinalizeFile(named(file.name, format="question_answer")) == found
    code, info, _ = await refused(running.files.FinalizeFile(named(file.name, format="instruction")))
    assert (code, info.reason, info.metadata["violation_count"]) == (grpc.StatusCode.INVALID_ARGUMENT, "RECORDS_INVALID", "240")
    code, info, request = await refused(running.files.FinalizeFile(named(file.name, format="csv")))
    assert (code, info.reason, request.field_violations[0].field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "FORMAT_UNKNOWN",
        "format",
    )


async def test_a_text_file_is_known_by_its_name_and_nothing_else_is_taken_for_text(running: Running) -> None:
    content = "".join(f"This is line {i} of a story.\n" for i in range(30)).encode()
    story = await running.upload(content, name="story.txt")
    assert (await running.files.FinalizeFile(finalize(story.name))).format == "plain_text"
    told = await running.upload(json.dumps(questions(60)).encode(), name="rows.txt")
    assert (await running.files.FinalizeFile(finalize(told.name))).format == "question_answer"
    table = await running.upload(content, name="story.csv")
    _, info, request = await refused(running.files.FinalizeFile(finalize(table.name)))
    assert info.reason == "RECORDS_INVALID"
    assert request.field_violations[0].reason == "JSON_INVALID"


async def test_rows_of_a_validation_file_validate_and_training_loses_test_rows_only(running: Running) -> None:
    training = await running.upload(json.dumps(questions(100)).encode())
    validating = await running.upload(json.dumps(questions(7, first=1000)).encode())
    dataset = await running.files.FinalizeFile(named(training.name, validation_file=validating.name))
    assert [part.row_count for part in (dataset.train, dataset.validation, dataset.test)] == [90, 7, 10]
    assert (dataset.split.validation_fraction, dataset.row_count) == (0.0, 107)
    plain = await running.files.FinalizeFile(finalize(training.name))
    assert [part.row_count for part in (plain.train, plain.validation, plain.test)] == [80, 10, 10]
    assert await running.files.FinalizeFile(named(training.name, validation_file=validating.name)) == dataset


async def test_mistakes_of_a_validation_file_are_told_with_its_name(running: Running) -> None:
    training = await running.upload(json.dumps(questions(100)).encode())
    validating = await running.upload(json.dumps(questions(3)).encode() + b" x")
    code, info, request = await refused(running.files.FinalizeFile(named(training.name, validation_file=validating.name)))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RECORDS_INVALID")
    assert request.field_violations[0].field == "validation_file line 1"
    listed = json.loads(await running.read(info.metadata["mistakes_file"]))
    assert (listed["source"], listed["reason"]) == ("validation_file", "JSON_INVALID")


async def test_a_validation_file_that_makes_no_sense_is_refused(running: Running) -> None:
    file, other = await running.upload(rows(60)), await running.upload(rows(20, seed=9))
    split = dataset_pb2.Split(train_fraction=0.8, validation_fraction=0.1, test_fraction=0.1)
    cases = [
        (named(file.name, validation_file=file.name), grpc.StatusCode.INVALID_ARGUMENT),
        (named(file.name, validation_file=other.name, split=split), grpc.StatusCode.INVALID_ARGUMENT),
        (named(file.name, validation_file="../x"), grpc.StatusCode.INVALID_ARGUMENT),
        (named(file.name, validation_file=f"{PROJECT}/files/file-none"), grpc.StatusCode.NOT_FOUND),
        (named(file.name, validation_file=other.name.replace("default", "other")), grpc.StatusCode.NOT_FOUND),
    ]
    for request, expected in cases:
        assert (await refused(running.files.FinalizeFile(request)))[0] == expected


async def test_a_packed_file_may_not_unpack_beyond_the_limit_of_uploads(running: Running) -> None:
    file = await running.upload(gzip.compress(b" " * (5 << 20)))
    code, _, request = await refused(running.files.FinalizeFile(finalize(file.name)))
    assert (code, request.field_violations[0].reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FILE_TOO_LARGE")


async def test_a_file_with_mistakes_is_refused_with_each_line_and_the_whole_list_is_a_file(running: Running) -> None:
    file = await running.upload(rows(20) + b'{"messages": [}\n' * 60 + b"\xff\n", name="bad.jsonl")
    code, info, request = await refused(running.files.FinalizeFile(finalize(file.name)))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RECORDS_INVALID")
    assert info.metadata["violation_count"] == info.metadata["line_count"] == "61"
    assert 20 <= len(request.field_violations) <= 50
    first = request.field_violations[0]
    assert (first.field, first.reason) == ("line 21", "JSON_INVALID")
    assert first.description.startswith("column 15: ")
    listed = [json.loads(line) for line in (await running.read(info.metadata["mistakes_file"])).splitlines()]
    assert [fault["line"] for fault in listed] == list(range(21, 82))
    assert listed[-1]["reason"] == "ENCODING_INVALID"
    again = await refused(running.files.FinalizeFile(finalize(file.name)))
    assert again[1].metadata["mistakes_file"] == info.metadata["mistakes_file"]
    files = await running.files.ListFiles(file_pb2.ListFilesRequest(parent=PROJECT))
    assert [one.display_name for one in files.files] == ["mistakes-in-bad.jsonl", "bad.jsonl"]
    datasets = await running.datasets.ListDatasets(dataset_pb2.ListDatasetsRequest(parent=PROJECT))
    assert not datasets.datasets


async def test_a_list_of_mistakes_is_no_training_file(running: Running) -> None:
    file = await running.upload(b"{\n")
    _, info, _ = await refused(running.files.FinalizeFile(finalize(file.name)))
    code, info, _ = await refused(running.files.FinalizeFile(finalize(info.metadata["mistakes_file"])))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PURPOSE_UNSUPPORTED")


async def test_our_client_raises_our_error_with_the_violations(running: Running) -> None:
    file = await running.upload(rows(9))
    client = Client(file_pb2_grpc.FileServiceStub, running.address)
    with pytest.raises(InvalidInput) as refusal:
        await client.FinalizeFile(finalize(file.name))
    await client.close()
    assert [violation.reason for violation in refusal.value.violations] == ["TOO_FEW_EXAMPLES"]
    assert "9 examples" in refusal.value.message


async def test_a_split_that_is_no_division_is_refused(running: Running) -> None:
    file = await running.upload(rows(60))
    code, info, request = await refused(running.files.FinalizeFile(finalize(file.name, train_fraction=0.5, test_fraction=0.6)))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SPLIT_INVALID")
    assert request.field_violations[0].field == "split"


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
