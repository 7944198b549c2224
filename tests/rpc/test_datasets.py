"""Finalising a file, and DatasetService, as a client sees them over real gRPC."""

import asyncio
import gzip
import hashlib
import json
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from afina.v1 import dataset_pb2, file_pb2, file_pb2_grpc

from services.common.errors import InvalidInput
from services.common.transport.grpc_client import Client
from tests.rpc.dataset_world import PROJECT, Running, finalize, named, questions, refused, rows


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A dataset program."""
    program = await Running(tmp_path).start()
    yield program
    await program.stop()


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


async def test_while_a_file_is_validated_other_calls_are_answered(tmp_path: Path) -> None:
    program = await Running(tmp_path, max_file_bytes=16 << 20).start()
    file = await program.upload(rows(60_000))
    work = asyncio.ensure_future(program.files.FinalizeFile(finalize(file.name)))
    waits_s = []
    while not work.done():
        begin_s = time.monotonic()
        await program.files.GetFile(file_pb2.GetFileRequest(name=file.name))
        waits_s.append(time.monotonic() - begin_s)
    assert (await work).row_count == 60_000
    await program.stop()
    assert len(waits_s) > 20
    assert statistics.median(waits_s) < 0.1, sorted(waits_s)[-5:]
