"""Bringing whole weights in: from a source into the object store by digest, then into the catalogue or among the models.

Bytes flow from the source straight into the store, whose `put` hashes them on their way; nothing but one buffer is in
memory. The manifest comes last, so half of a model is never there, and the same files are the same model however often.
"""

import asyncio
import hashlib
import io
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from services.cli import hub, sources
from services.cli.call import Call
from services.cli.sources import SourceFile
from services.common.backends import choose
from services.common.errors import InvalidInput, NotFound
from services.common.ports.manifest import Manifest, ManifestFile
from services.common.ports.object_store import ObjectStore

PREFIXES = {"base": "bases", "full": "full"}
NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Source:
    """Files to import: `told` says where they are from, `name` is what they would be called, `scratch` can go afterwards."""

    files: list[SourceFile]
    told: str
    name: str
    scratch: Path | None = None


def open_source(call: Call, given: str) -> Source:
    """Return the files of a directory, of s3://bucket/prefix, or of a hub id, which is fetched first.

    Raises: InvalidInput (unsafe, incomplete, not understood), NotFound, PermissionDenied, Unavailable.
    """
    if given.startswith("s3://"):
        return Source(sources.bucket_files(given, call.environ), given, _named(given.rstrip("/").rpartition("/")[2]))
    folder = Path(given).expanduser()
    if folder.is_dir():
        name = folder.resolve().name
        return Source(sources.folder_files(folder), name, _named(name))
    if not hub.HUB_ID.fullmatch(given):
        raise NotFound(
            f"There is no directory {given}; name one, s3://bucket/prefix, or a hub id such as org/name@revision.",
            reason="SOURCE_NOT_FOUND",
        )
    scratch = call.home.path / "downloads" / hashlib.sha256(given.encode()).hexdigest()[:24]
    is_quiet = call.as_json or not call.err.is_terminal
    snapshot = hub.fetch(given, scratch, call.environ, is_quiet=is_quiet)
    repo = given.partition("@")[0]
    return Source(snapshot.files, f"hub:{repo}@{snapshot.revision}", _named(repo.rpartition("/")[2]), scratch)


async def put_source(call: Call, source: Source, kind: str, data: dict[str, Any]) -> tuple[str, Manifest]:
    """Put a source's files into the object store, with a bar in bytes; return the manifest and its key. Idempotent.

    Raises: InvalidInput (other bytes than the source told), Unavailable.
    """
    store = choose.object_store(call.home.object_store, call.environ)
    with _bar(call) as bar:
        task = bar.add_task("into the object store", total=sum(file.size_bytes for file in source.files))
        put = asyncio.to_thread(_put, store, PREFIXES[kind], source.files, lambda count: bar.advance(task, count))
        manifest = Manifest(kind, await put, {"source": source.told, **data})
    key = f"manifests/{PREFIXES[kind]}/{manifest.digest}.json"
    await asyncio.to_thread(store.commit, key, manifest.to_json())
    if source.scratch is not None:
        await asyncio.to_thread(shutil.rmtree, source.scratch, ignore_errors=True)
    return key, manifest


def _put(
    store: ObjectStore, prefix: str, files: Sequence[SourceFile], on_bytes: Callable[[int], None]
) -> tuple[ManifestFile, ...]:
    done = []
    for file in files:
        with file.open() as stream:
            artifact = store.put(prefix, io.BufferedReader(_Counted(stream, on_bytes)))  # type: ignore[arg-type]
        if file.sha256 and artifact.sha256 != file.sha256:
            raise InvalidInput(
                f"{file.path} has SHA-256 {artifact.sha256}, its source tells {file.sha256}; fetch it again.",
                reason="SOURCE_CORRUPT",
                metadata={"path": file.path},
            )
        done.append(ManifestFile(file.path, artifact))
    return tuple(done)


class _Counted(io.RawIOBase):
    """A stream that tells how many bytes were read of it."""

    def __init__(self, stream: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._stream, self._on_bytes = stream, on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._on_bytes(len(data))
        return len(data)


def _bar(call: Call) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=call.err, transient=True, disable=call.as_json or not call.err.is_terminal)


def _named(name: str) -> str:
    """Return what a catalogue id can be made of a name."""
    return NOT_IN_AN_ID.sub("-", name).lstrip("._-")[:64]
