"""A dataset program that serves on loopback with a real store and a real database, and what its tests send it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from afina.v1 import dataset_pb2, dataset_pb2_grpc, file_pb2, file_pb2_grpc
from google.rpc import error_details_pb2, status_pb2

from services.common.backends.database.sql import SqlDatabase
from services.common.backends.object_store.local import LocalObjectStore
from services.common.transport.grpc_server import GrpcServer, registration
from services.dataset.rpc import DatasetRpc, FileRpc
from services.dataset.use_cases import Library
from tests.builders import channel_to

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
        self.channel = channel_to(self.address)
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


def questions(count: int, first: int = 0) -> list[dict[str, str]]:
    """Free-text rows that all differ."""
    return [{"question": f"What is {i} plus {i}?", "answer": f"It is {2 * i}, I believe."} for i in range(first, first + count)]


def named(name: str, **fields: Any) -> file_pb2.FinalizeFileRequest:
    """Ask for a Dataset with more than a split."""
    return file_pb2.FinalizeFileRequest(name=name, **fields)
