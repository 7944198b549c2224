"""`afina files`: the uploads of the OpenAI API."""

import click
from afina.v1 import file_pb2, file_pb2_grpc

from services.cli.call import Call, every, last, verb
from services.cli.output import age, size


@click.group("files")
def group() -> None:
    """Uploads, as the OpenAI API knows them."""


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
