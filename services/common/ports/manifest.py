"""Artifacts of many files: a folder in the object store, which exists when its manifest does.

A worker puts the files first and commits the manifest last, so a half-written model can't be seen. The digest over
paths and file digests is the model's identity: two folders with the same files are the same model.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from services.common.errors import InvalidInput, Unavailable
from services.common.ports.object_store import CHUNK_BYTES, Artifact, ObjectStore

FETCHING = ".fetch-"  # begins the name of a folder that is on its way
LEFTOVER_S = 86_400.0


@dataclass(frozen=True)
class ManifestFile:
    """One file of the folder: its relative POSIX path and its bytes."""

    path: str
    artifact: Artifact


@dataclass(frozen=True)
class Manifest:
    """What a folder holds (`files`), what it is (`kind`), and what is known about it (`data`, JSON)."""

    kind: str
    files: tuple[ManifestFile, ...]
    data: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 over the sorted paths and file digests, 64 hex digits; `data` does not count."""
        lines = sorted(f"{file.path}\0{file.artifact.sha256}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.artifact.size_bytes for file in self.files)

    def file(self, path: str) -> Artifact:
        """Return one file's artifact. Raises: InvalidInput."""
        for file in self.files:
            if file.path == path:
                return file.artifact
        raise InvalidInput(f"The manifest of kind {self.kind} lists no file {path}.", reason="MANIFEST_INCOMPLETE")

    def to_json(self) -> bytes:
        """Serialise, with the digest for people to read."""
        files = [
            {"path": f.path, "key": f.artifact.key, "size_bytes": f.artifact.size_bytes, "sha256": f.artifact.sha256}
            for f in self.files
        ]
        document = {"kind": self.kind, "digest": self.digest, "files": files, "data": self.data}
        return json.dumps(document, sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, document: bytes) -> "Manifest":
        """Parse. Raises: InvalidInput (not a manifest, a path that leaves the folder, a digest that does not match)."""
        try:
            raw = json.loads(document)
            files = tuple(
                ManifestFile(_inside(f["path"]), Artifact(f["key"], int(f["size_bytes"]), f["sha256"])) for f in raw["files"]
            )
            manifest = cls(raw["kind"], files, raw["data"])
            told = raw["digest"]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"This is not a manifest: {error!r}.", reason="MANIFEST_INVALID") from error
        if manifest.digest != told:
            raise InvalidInput(
                f"The manifest says digest {told}, its files give {manifest.digest}.", reason="MANIFEST_DIGEST_MISMATCH"
            )
        return manifest


def put_folder(store: ObjectStore, prefix: str, folder: Path, kind: str, data: dict[str, Any]) -> Manifest:
    """Put every file of a folder under `prefix` and return the manifest, which the caller commits when all is done."""
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as stream:
            files.append(ManifestFile(path.relative_to(folder).as_posix(), store.put(prefix, stream)))
    return Manifest(kind, tuple(files), data)


def fetch_folder(store: ObjectStore, manifest: Manifest, cache: Path, *, is_read_again: bool = False) -> Path:
    """Bring a folder to this machine, each file checked against its digest, and return `cache/{digest}`.

    Idempotent and safe concurrently: the folder appears by one rename, and what is there already is used as it is; or, where
    it `is_read_again`, held against its digests, and a file that has changed on this disk is replaced by one rename.
    Raises: ArtifactNotFound; InvalidInput (bytes that do not match their digest); Unavailable (store away, full disk).
    """
    target = cache / manifest.digest
    try:
        if not target.is_dir():
            _fetch(store, manifest, cache, target)
        elif is_read_again:
            _mend(store, manifest, cache, target)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        need = f"{manifest.size_bytes:,} bytes are needed there"
        raise Unavailable(f"{cache} is full and {need}; free some space, or set AFINA_CACHE.", reason="DISK_FULL") from error
    return target


def _fetch(store: ObjectStore, manifest: Manifest, cache: Path, target: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(cache.glob(f"{FETCHING}*"))
    staging = Path(tempfile.mkdtemp(prefix=FETCHING, dir=cache))
    try:
        for file in manifest.files:
            _fetch_file(store, file, staging / _inside(file.path))
        staging.chmod(0o755)
        try:
            os.rename(staging, target)
        except OSError:
            if not target.is_dir():  # otherwise somebody else was first, with the same bytes
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _mend(store: ObjectStore, manifest: Manifest, cache: Path, target: Path) -> None:
    """Replace the files of a folder that are not what their digests say. Somebody may be reading them: they stay in place."""
    for file in manifest.files:
        path = target / _inside(file.path)
        if _digest_of(path) == file.artifact.sha256:
            continue
        staging = Path(tempfile.mkdtemp(prefix=FETCHING, dir=cache))
        try:
            _fetch_file(store, file, staging / "file")
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / "file", path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _digest_of(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def sweep_leftovers(paths: Iterable[Path]) -> None:
    """Remove those that nobody has written to for a day: their process was killed. Safe concurrently."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # somebody else was first
            if time.time() - path.stat().st_mtime > LEFTOVER_S:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _fetch_file(store: ObjectStore, file: ManifestFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with store.open(file.artifact.key) as source, path.open("wb") as sink:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            sink.write(chunk)
    if digest.hexdigest() != file.artifact.sha256:
        raise InvalidInput(
            f"{file.artifact.key} holds other bytes than its digest says; restore it from a copy.",
            reason="ARTIFACT_CORRUPT",
            metadata={"key": file.artifact.key},
        )


def _inside(path: str) -> str:
    """Return a relative path that stays inside its folder, or refuse."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or not pure.parts or any(part in ("..", ".") for part in pure.parts) or "\\" in path or "\0" in path:
        raise InvalidInput(f"The path {path!r} leaves its folder.", reason="PATH_ESCAPES")
    return path
