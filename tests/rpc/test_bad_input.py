"""Whatever is uploaded, the answer is a dataset or a clear error that names the fix: never INTERNAL, never half an artifact."""

import asyncio
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from click.testing import CliRunner
from google.rpc import error_details_pb2

from services.cli.__main__ import afina
from tests.builders import SERVICE_TOKEN, chat
from tests.rpc.dataset_world import Running, finalize, refused, rows

GOOD = rows(12)
ONE = GOOD.splitlines()[0]


def zipped() -> bytes:
    """A zip archive with a good file in it."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("rows.jsonl", GOOD)
    return target.getvalue()


def tarred() -> bytes:
    """A tar archive, packed, with a good file in it."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        member = tarfile.TarInfo("rows.jsonl")
        member.size = len(GOOD)
        archive.addfile(member, io.BytesIO(GOOD))
    return target.getvalue()


def said(*messages: dict[str, Any]) -> bytes:
    """One chat of these messages as a line."""
    return json.dumps({"messages": messages}).encode()


USER, ANSWER = chat("2+2?", "4")["messages"]
# What stands on line 13, after twelve good ones: reason, then what the sentence has to tell.
BAD_LINES: dict[str, tuple[bytes, str, str]] = {
    "broken JSON": (b'{"messages": [}', "JSON_INVALID", "column 15"),
    "a wrong role": (said(USER, {"role": "bot", "content": "4"}), "ROLE_UNKNOWN", "write assistant"),
    "an empty assistant": (said(USER, {"role": "assistant", "content": " "}), "ASSISTANT_EMPTY", "remove the chat"),
    "Latin-1": (said(USER, ANSWER).replace(b"2+2", b"caf\xe9"), "ENCODING_INVALID", "save the file as UTF-8"),
    "NaN": (ONE[:-1] + b', "score": NaN}', "NUMBER_INVALID", "write a finite number or null"),
    "Infinity": (ONE[:-1] + b', "score": -Infinity}', "NUMBER_INVALID", "write a finite number or null"),
    "a huge integer": (ONE[:-1] + b', "n": ' + b"9" * 5_000 + b"}", "NUMBER_INVALID", "write a smaller one"),
    "a key twice": (ONE[:-1] + b', "messages": []}', "KEY_REPEATED", "keep one of them"),
    "half of a surrogate pair": (said(USER, ANSWER).replace(b"2+2", b"\\ud83d"), "TEXT_INVALID", "remove it"),
    "a zero byte": (said(USER, ANSWER).replace(b"2+2", b"2\x002"), "JSON_INVALID", "column"),
    "a hundred thousand brackets": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON_TOO_DEEP", "flatten"),
    "an array": (b"[1, 2]", "RECORD_NOT_OBJECT", "write an object"),
    "a text": (b'"hello"', "RECORD_NOT_OBJECT", "write an object"),
    "a line over 10 MB": (b'{"a": "' + b"x" * 10_000_000 + b'"}', "LINE_TOO_LONG", "split the chat"),
    "a mark of byte order in the middle": (b"\xef\xbb\xbf" + ONE, "JSON_INVALID", "column 1"),
}
BAD_FILES: dict[str, tuple[bytes, str, str]] = {
    "UTF-16": (GOOD.decode().encode("utf-16"), "ENCODING_UNSUPPORTED", "iconv -f UTF-16"),
    "UTF-16 without a mark": (GOOD.decode().encode("utf-16-le"), "ENCODING_UNSUPPORTED", "iconv -f UTF-16LE"),
    "UTF-16, the other way": (GOOD.decode().encode("utf-16-be"), "ENCODING_UNSUPPORTED", "iconv -f UTF-16BE"),
    "UTF-32": (GOOD.decode().encode("utf-32"), "ENCODING_UNSUPPORTED", "iconv -f UTF-32"),
    "UTF-32, the other way": (GOOD.decode().encode("utf-32-be"), "ENCODING_UNSUPPORTED", "iconv -f UTF-32BE"),
    "white space": (b" \n\t\r\n ", "FILE_EMPTY", "no records"),
    "an empty array": (b"[]", "FILE_EMPTY", "no records"),
    "an object around the rows": (json.dumps({"data": [chat("2+2?", "4")] * 12}).encode(), "FORMAT_UNKNOWN", "jq -c '.data[]'"),
    "brackets alone": (b"[" * 100_000, "JSON_TOO_DEEP", "flatten"),
    "nine rows": (rows(9), "TOO_FEW_EXAMPLES", "add 1 more"),
    "a zip archive": (zipped(), "FILE_COMPRESSED", "unpack it"),
    "a tar archive": (tarred(), "FILE_COMPRESSED", "tar -xf"),
    "gzip in gzip": (gzip.compress(gzip.compress(GOOD)), "FILE_COMPRESSED", "gunzip"),
    "half of a gzip": (gzip.compress(rows(500))[:-20], "FILE_DAMAGED", "pack it again"),
    "a giant in gzip": (gzip.compress(b" " * (20 << 20)), "FILE_TOO_LARGE", "send fewer rows"),
    "bzip2": (b"BZh91AY&SY" + bytes(99), "FILE_COMPRESSED", "bunzip2"),
    "xz": (b"\xfd7zXZ\0" + bytes(99), "FILE_COMPRESSED", "unxz"),
    "Parquet": (b"PAR1\x15\0" + bytes(99), "FORMAT_UNSUPPORTED", "JSONL"),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3\n1 0 obj\n" * 9, "FORMAT_UNSUPPORTED", "is a PDF"),
    "a database": (b"SQLite format 3\0" + bytes(99), "FORMAT_UNSUPPORTED", "JSONL"),
    "zero bytes": (bytes(5_000), "FORMAT_UNSUPPORTED", "zero bytes"),
}
GOOD_FILES = {
    "a mark of byte order": b"\xef\xbb\xbf" + GOOD,
    "carriage returns": GOOD.replace(b"\n", b"\r\n"),
    "no end of the last line": GOOD.rstrip(),
    "blank lines": GOOD.replace(b"\n", b"\n\n"),
    "two gzips in a row": gzip.compress(GOOD[: len(ONE) + 1]) + gzip.compress(GOOD[len(ONE) + 1 :]),
    "escapes in place of letters": GOOD.replace(b"review", b"\\u0072eview"),
}


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A dataset program that takes files of 16 MiB."""
    program = await Running(tmp_path, max_file_bytes=16 << 20).start()
    yield program
    await program.stop()


async def mistakes(running: Running, content: bytes) -> error_details_pb2.BadRequest:
    """Upload what makes no dataset, see that nothing but upload and list of mistakes is kept, and return the mistakes."""
    file = await running.upload(content)
    code, info, request = await refused(running.files.FinalizeFile(finalize(file.name)))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RECORDS_INVALID")
    assert request.field_violations
    assert list(running.store.list("datasets/")) == []
    assert (await running.read(info.metadata["mistakes_file"])).count(b"\n") == int(info.metadata["violation_count"])
    return request


def left_in_staging(running: Running) -> list[str]:
    """What the store has begun and not ended."""
    return [path.name for path in (running.store.root / ".staging").iterdir()]


@pytest.mark.parametrize("case", BAD_LINES)
async def test_a_line_that_is_wrong_is_told_by_its_number_with_the_fix(running: Running, case: str) -> None:
    line, reason, advice = BAD_LINES[case]
    request = await mistakes(running, GOOD + line + b"\n" + GOOD)
    told = [(violation.field, violation.reason) for violation in request.field_violations]
    assert told == [("line 13", reason)]
    assert advice in request.field_violations[0].description


@pytest.mark.parametrize("case", BAD_FILES)
async def test_a_file_that_is_something_else_is_told_once_with_the_fix(running: Running, case: str) -> None:
    content, reason, advice = BAD_FILES[case]
    request = await mistakes(running, content)
    told = [violation.reason for violation in request.field_violations]
    assert told in ([reason], [reason, "TOO_FEW_EXAMPLES"])  # one broken record is also one record
    assert advice in request.field_violations[0].description


async def test_what_other_tools_add_to_good_rows_changes_nothing_and_makes_the_same_dataset(running: Running) -> None:
    plain = await running.files.FinalizeFile(finalize((await running.upload(GOOD)).name))
    for case, content in GOOD_FILES.items():
        made = await running.files.FinalizeFile(finalize((await running.upload(content)).name))
        assert made.name == plain.name, case


async def test_two_uploads_of_the_same_bytes_at_once_are_two_files_of_one_artifact_and_one_dataset(running: Running) -> None:
    files = await asyncio.gather(*(running.upload(GOOD) for _ in range(8)))
    made = await asyncio.gather(*(running.files.FinalizeFile(finalize(file.name)) for file in files))
    assert len({file.name for file in files}) == 8
    assert len({dataset.name for dataset in made}) == 1
    assert list(running.store.list("files/")) == [f"files/{files[0].sha256}"]
    assert left_in_staging(running) == []


async def test_after_all_kinds_of_refusals_nothing_is_left_in_staging(running: Running) -> None:
    for content, _, _ in BAD_FILES.values():
        await mistakes(running, content)
    await refused(running.upload(b""))
    await refused(running.upload(bytes((16 << 20) + 1)))
    assert left_in_staging(running) == []


@pytest.mark.parametrize("case", ["broken JSON", "NaN", "a key twice", "Latin-1"])
async def test_the_command_line_tells_line_and_fix_and_ends_with_2(running: Running, tmp_path: Path, case: str) -> None:
    line, _, advice = BAD_LINES[case]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + line + b"\n")
    environ = {"AFINA_HOME": str(tmp_path), "AFINA_SERVICE_TOKEN": SERVICE_TOKEN, "DATASET_ADDRESS": running.address}
    result = await asyncio.to_thread(CliRunner().invoke, afina, ["datasets", "create", str(path)], obj=environ)
    assert result.exit_code == 2
    assert "line 13" in result.stderr
    assert advice in result.stderr
    assert "Traceback" not in result.output
