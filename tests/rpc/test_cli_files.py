"""`afina files` and the mistakes that `afina datasets create` tells, against a real dataset program."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from afina.v1 import file_pb2_grpc
from click.testing import CliRunner, Result
from rich.console import Console

from services.cli.__main__ import afina
from services.cli.uploading import upload
from services.common.transport.grpc_client import Client
from tests.builders import SERVICE_TOKEN
from tests.rpc.dataset_world import PROJECT, Running, rows


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A dataset program."""
    program = await Running(tmp_path).start()
    yield program
    await program.stop()


async def run(running: Running, *arguments: str) -> Result:
    """Run a command in a thread of its own, as it has a loop of its own."""
    environ = {"AFINA_HOME": str(running.store.root), "DATASET_ADDRESS": running.address, "AFINA_SERVICE_TOKEN": SERVICE_TOKEN}
    return await asyncio.to_thread(CliRunner().invoke, afina, arguments, obj=environ)


async def test_a_file_is_uploaded_shown_read_back_and_deleted(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows(60))
    uploaded = json.loads((await run(running, "files", "upload", str(path), "--json")).stdout)
    assert (uploaded["display_name"], uploaded["size_bytes"]) == ("rows.jsonl", len(rows(60)))
    name = uploaded["name"].rpartition("/")[2]
    assert uploaded["sha256"] in (await run(running, "files", "get", name)).stdout
    assert (await run(running, "files", "content", name)).stdout_bytes == rows(60)
    assert (await run(running, "files", "delete", name)).exit_code == 0
    gone = await run(running, "files", "get", name)
    assert (gone.exit_code, "Traceback" in gone.output) == (3, False)


async def test_more_mistakes_than_a_terminal_should_show_are_a_file_that_the_message_names(
    running: Running, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows(20) + b'{"messages": [}\n' * 200)
    refused = await run(running, "datasets", "create", str(path))
    assert refused.exit_code == 2
    assert "line 21: column 15: " in refused.stderr
    command = refused.stderr.partition("200 in all: `afina ")[2].partition("`")[0].split()
    listed = await run(running, *command)
    assert [json.loads(line)["line"] for line in listed.stdout.splitlines()] == list(range(21, 221))


async def test_counts_of_the_split_and_warnings_are_shown(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows(60) + rows(1))
    made = await run(running, "datasets", "create", str(path))
    assert "61: 49 train, 6 validation, 6 test" in made.stdout
    assert "repeat another row" in made.stdout


async def test_a_terminal_sees_how_far_an_upload_is_and_a_pipe_does_not(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows(2_000))
    client = Client(file_pb2_grpc.FileServiceStub, running.address)
    for is_terminal in (True, False):
        shown = io.StringIO()
        await upload(client, PROJECT, path, Console(file=shown, force_terminal=is_terminal, width=80))
        assert ("rows.jsonl" in shown.getvalue()) == is_terminal
    await client.close()
