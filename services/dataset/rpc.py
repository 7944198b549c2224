"""FileService and DatasetService: proto ↔ use case."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
from afina.v1 import dataset_pb2, dataset_pb2_grpc, file_pb2, file_pb2_grpc, resources_pb2
from google.protobuf import empty_pb2

from services.common.errors import InvalidInput
from services.common.ports.database import Record
from services.common.ports.object_store import Artifact
from services.common.transport import wire
from services.dataset import use_cases
from services.dataset.comparison import Comparison
from services.dataset.dataset import Dataset, DatasetPart, Split
from services.dataset.file import Expected, File
from services.dataset.use_cases import Library

CUT_ARRIVES_S = 0.02
DRAIN_S = 2.0


class FileRpc(file_pb2_grpc.FileServiceServicer):
    """The files' API."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def CreateFile(
        self, request_iterator: AsyncIterator[file_pb2.CreateFileRequest], context: grpc.aio.ServicerContext
    ) -> file_pb2.File:
        """See the proto."""
        messages = aiter(request_iterator)
        try:
            first = await anext(messages, file_pb2.CreateFileRequest())
            if first.WhichOneof("part") != "metadata":
                raise InvalidInput("The first message has no metadata; send it, then the bytes.", reason="METADATA_MISSING")
            given, chunks = first.metadata, chunks_of(messages)
            expected = Expected(given.size_bytes, given.sha256)
            record = await use_cases.create_file(
                self._library, given.parent, given.display_name, given.purpose, chunks, given.request_id, expected
            )
        finally:
            await drain(messages)
        return file_message(record)

    async def GetFile(self, request: file_pb2.GetFileRequest, context: grpc.aio.ServicerContext) -> file_pb2.File:
        """See the proto."""
        return file_message(await use_cases.get_file(self._library, request.name))

    async def ListFiles(
        self, request: file_pb2.ListFilesRequest, context: grpc.aio.ServicerContext
    ) -> file_pb2.ListFilesResponse:
        """See the proto."""
        after, limit = wire.page_of(request.page_size, request.page_token)
        records = await use_cases.list_files(self._library, request.parent, after, limit)
        files = [file_message(record) for record in records]
        return file_pb2.ListFilesResponse(files=files, next_page_token=wire.next_page_token(records, limit))

    async def DeleteFile(self, request: file_pb2.DeleteFileRequest, context: grpc.aio.ServicerContext) -> empty_pb2.Empty:
        """See the proto."""
        await use_cases.delete_file(self._library, request.name)
        return empty_pb2.Empty()

    async def ReadFile(
        self, request: file_pb2.ReadFileRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[file_pb2.ReadFileResponse]:
        """See the proto."""
        async for chunk in use_cases.read_file(self._library, request.name):
            yield file_pb2.ReadFileResponse(chunk=chunk)

    async def FinalizeFile(self, request: file_pb2.FinalizeFileRequest, context: grpc.aio.ServicerContext) -> dataset_pb2.Dataset:
        """See the proto."""
        usual = Split(0.9, 0.0, 0.1) if request.validation_file else Split()
        split = _split(request.split, usual) if request.HasField("split") else usual
        asked = use_cases.Asked(request.name, split, request.format, request.validation_file)
        return dataset_message(await use_cases.finalize_file(self._library, asked))


class DatasetRpc(dataset_pb2_grpc.DatasetServiceServicer):
    """The datasets' API."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def GetDataset(self, request: dataset_pb2.GetDatasetRequest, context: grpc.aio.ServicerContext) -> dataset_pb2.Dataset:
        """See the proto."""
        return dataset_message(await use_cases.get_dataset(self._library, request.name))

    async def ListDatasets(
        self, request: dataset_pb2.ListDatasetsRequest, context: grpc.aio.ServicerContext
    ) -> dataset_pb2.ListDatasetsResponse:
        """See the proto."""
        after, limit = wire.page_of(request.page_size, request.page_token)
        records = await use_cases.list_datasets(self._library, request.parent, after, limit)
        datasets = [dataset_message(record) for record in records]
        return dataset_pb2.ListDatasetsResponse(datasets=datasets, next_page_token=wire.next_page_token(records, limit))

    async def CompareDatasets(
        self, request: dataset_pb2.CompareDatasetsRequest, context: grpc.aio.ServicerContext
    ) -> dataset_pb2.CompareDatasetsResponse:
        """See the proto."""
        record = await use_cases.compare_datasets(self._library, request.name, request.others)
        return dataset_pb2.CompareDatasetsResponse(**Comparison.from_document(record.document).to_document())


def file_message(record: Record) -> file_pb2.File:
    """Return a file as it travels."""
    upload = File.from_document(record.document)
    return file_pb2.File(
        name=record.name,
        display_name=upload.display_name,
        purpose=upload.purpose,
        size_bytes=upload.artifact.size_bytes,
        sha256=upload.artifact.sha256,
        dataset=upload.dataset,
        create_time=wire.timestamp(record.create_time),
    )


def dataset_message(record: Record) -> dataset_pb2.Dataset:
    """Return a dataset as it travels."""
    made = Dataset.from_document(record.document)
    return dataset_pb2.Dataset(
        name=record.name,
        digest=made.digest,
        split=dataset_pb2.Split(**made.split.to_document()),
        row_count=made.row_count,
        train=_part(made.train),
        validation=_part(made.validation),
        test=_part(made.test),
        format=made.format,
        label_counts=made.label_counts,
        warnings=[resources_pb2.Violation(**vars(warning)) for warning in made.warnings],
        create_time=wire.timestamp(record.create_time),
    )


async def chunks_of(messages: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """Yield the bytes of messages that follow a first one. Raises: InvalidInput (one has none)."""
    async for message in messages:
        if message.WhichOneof("part") != "chunk":
            raise InvalidInput("A message after the first has no bytes; send metadata once.", reason="METADATA_REPEATED")
        yield message.chunk
    # A client that goes away looks like one that has said all, until its cancellation arrives a moment later and ends us.
    await asyncio.sleep(CUT_ARRIVES_S)


async def drain(messages: AsyncIterator[Any]) -> None:
    """Let a client that is still sending end, for a while: one refused in the middle of a write may see INTERNAL instead."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in messages:
                pass


def _split(given: dataset_pb2.Split, usual: Split) -> Split:
    """Return a split as asked for; where no fraction is given, the usual ones with the seed."""
    if not (given.train_fraction or given.validation_fraction or given.test_fraction):
        return replace(usual, seed=given.seed)
    return Split(given.train_fraction, given.validation_fraction, given.test_fraction, given.seed)


def _part(part: DatasetPart) -> dataset_pb2.DatasetPart:
    return dataset_pb2.DatasetPart(row_count=part.row_count, artifact=_artifact(part.artifact) if part.artifact else None)


def _artifact(artifact: Artifact) -> resources_pb2.Artifact:
    return resources_pb2.Artifact(key=artifact.key, size_bytes=artifact.size_bytes, sha256=artifact.sha256)
