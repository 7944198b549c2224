"""`afina files`: the uploads of the OpenAI API."""

import sys
from pathlib import Path

import click
from afina.v1 import file_pb2, file_pb2_grpc

from services.cli import uploading
from services.cli.call import Call, every, last, verb
from services.cli.output import age, size


@click.group("files")
def group() -> None:
    """Uploads, as the OpenAI API knows them."""


@verb(group, "upload")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
async def upload(call: Call, file: Path) -> None:
    """Upload FILE as it is; `afina datasets create` also validates it and makes a dataset."""
    files = call.client(file_pb2_grpc.FileServiceStub, "dataset")
    show(call, await uploading.upload(files, call.parent, file, call.err))


@verb(group, "list")
async def list_(call: Call) -> None:
    """List uploads, newest first."""
    files = call.client(file_pb2_grpc.FileServiceStub, "dataset")
    found = await every(files.ListFiles, file_pb2.ListFilesRequest(parent=call.parent), "files")
    columns = {
        "id": lambda f: last(f.name),
        "name": lambda f: f.display_name,
        "size": lambda f: size(f.size_bytes),
        "dataset": lambda f: last(f.dataset),
        "uploaded": lambda f: age(f.create_time),
    }
    call.show_list(found, columns, "There are no uploads yet.")


@verb(group, "get")
@click.argument("file")
async def get(call: Call, file: str) -> None:
    """Show one upload."""
    files = call.client(file_pb2_grpc.FileServiceStub, "dataset")
    show(call, await files.GetFile(file_pb2.GetFileRequest(name=call.name("files", file))))


@verb(group, "content")
@click.argument("file")
async def content(call: Call, file: str) -> None:
    """Write an upload's bytes, or a list of mistakes, to standard output, unchanged."""
    files = call.client(file_pb2_grpc.FileServiceStub, "dataset")
    async for part in files.ReadFile(file_pb2.ReadFileRequest(name=call.name("files", file))):
        sys.stdout.buffer.write(part.chunk)
    sys.stdout.buffer.flush()


@verb(group, "delete")
@click.argument("file")
async def delete(call: Call, file: str) -> None:
    """Delete an upload; datasets made from it stay."""
    files = call.client(file_pb2_grpc.FileServiceStub, "dataset")
    name = call.name("files", file)
    await files.DeleteFile(file_pb2.DeleteFileRequest(name=name))
    if not call.as_json:
        call.out.print(f"{last(name)} is deleted; datasets made from it stay.", markup=False)


def show(call: Call, file: file_pb2.File) -> None:
    """Print one upload."""
    call.show(
        file,
        {
            "id": last(file.name),
            "name": file.display_name,
            "purpose": file.purpose,
            "size": size(file.size_bytes),
            "sha256": file.sha256,
            "dataset": last(file.dataset),
            "uploaded": age(file.create_time),
        },
    )
