"""Sending a file to dataset, with a bar for whoever watches at a terminal."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

from afina.v1 import file_pb2
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from services.common.ports.object_store import sha256_of
from services.common.transport.grpc_client import Client

CHUNK_BYTES = 1 << 20
UPLOAD_TIMEOUT_S = 600.0


async def upload(files: Client, parent: str, path: Path, console: Console | None = None) -> file_pb2.File:
    """Send a file's bytes; a console that is a terminal shows how far it is. Raises: InvalidInput, OverLimit, Unavailable."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    is_shown = console is not None and console.is_terminal
    with Progress(*columns, console=console, disable=not is_shown, transient=True) as progress:
        sent = parts_of(parent, path, progress)
        uploaded: file_pb2.File = await files.CreateFile(sent, timeout_s=UPLOAD_TIMEOUT_S)
    return uploaded


async def parts_of(parent: str, path: Path, progress: Progress) -> AsyncIterator[file_pb2.CreateFileRequest]:
    """Yield a file as it travels; its length and digest go first, so that nothing is kept of one that is cut short."""
    with path.open("rb") as stream:
        size_bytes, sha256 = os.fstat(stream.fileno()).st_size, sha256_of(stream)
        stream.seek(0)
        metadata = file_pb2.FileMetadata(
            parent=parent, display_name=path.name, purpose="fine-tune", size_bytes=size_bytes, sha256=sha256
        )
        yield file_pb2.CreateFileRequest(metadata=metadata)
        task = progress.add_task(path.name, total=size_bytes)
        while chunk := stream.read(CHUNK_BYTES):
            yield file_pb2.CreateFileRequest(chunk=chunk)
            progress.advance(task, len(chunk))
