"""Objects as files under one folder: `file:///path`.

Bytes are staged in a hidden folder on the same file system, then linked into place: `link` fails where the name
exists, so of two writers one wins, and a reader never sees half of an object. Both the bytes and the names are synced
before a verb returns, so a manifest that survived a power cut has its files. The operating system's user is the
boundary: whoever may read the folder may read every object.
"""

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from services.common.errors import ArtifactNotFound, Unavailable
from services.common.ports.manifest import sweep_leftovers
from services.common.ports.object_store import CHUNK_BYTES, STAGING, Artifact, ObjectStore, key_parts, sha256_of


class LocalObjectStore(ObjectStore):
    """An object store in a folder of this machine."""

    def __init__(self, root: Path, sync: Callable[[int], None] = os.fsync) -> None:
        """Open the store; `sync` makes a file or folder outlast a power cut, by its descriptor. A test passes its own."""
        self.root, self._sync = root.resolve(), sync
        self.url = f"file://{self.root}"
        (self.root / STAGING).mkdir(parents=True, exist_ok=True)
        sweep_leftovers((self.root / STAGING).iterdir())

    def put(self, prefix: str, stream: BinaryIO) -> Artifact:
        """See the port."""
        digest = hashlib.sha256()
        size_bytes = 0
        with self._staged() as staged:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
                staged.write(chunk)
            key = f"{prefix}/{digest.hexdigest()}"
            if not self._place(staged, key) and not self._holds(key, digest.hexdigest()):
                with _disk_errors():  # a disk has lost a bit of it, or who tries to write it anew would be believed
                    os.replace(staged.path, self._path(key))
                    self._sync_folder(self._path(key).parent)
        return Artifact(key, size_bytes, digest.hexdigest())

    def open(self, key: str) -> BinaryIO:
        """See the port."""
        try:
            return self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ArtifactNotFound(f"The object store has no {key}.", metadata={"key": key}) from error

    def head(self, key: str) -> int:
        """See the port."""
        path = self._path(key)
        if not path.is_file():
            raise ArtifactNotFound(f"The object store has no {key}.", metadata={"key": key})
        return path.stat().st_size

    def list(self, prefix: str) -> Iterator[str]:
        """See the port."""
        if prefix.rstrip("/"):
            key_parts(prefix.rstrip("/"))
        folder = self.root / prefix.rpartition("/")[0]
        if not folder.is_dir():
            return
        keys = (path.relative_to(self.root).as_posix() for path in folder.rglob("*") if path.is_file())
        yield from sorted(key for key in keys if key.startswith(prefix) and not key.startswith(STAGING))

    def commit(self, key: str, document: bytes) -> bool:
        """See the port."""
        with self._staged() as staged:
            staged.write(document)
            return self._place(staged, key)

    def delete(self, key: str) -> None:
        """See the port."""
        with _disk_errors():
            self._path(key).unlink(missing_ok=True)

    def _holds(self, key: str, sha256: str) -> bool:
        try:
            with self.open(key) as stream:
                return sha256_of(stream) == sha256
        except ArtifactNotFound:
            return False

    def _staged(self) -> "_Staged":
        return _Staged(self.root / STAGING, self._sync)

    def _place(self, staged: "_Staged", key: str) -> bool:
        path = self._path(key)
        staged.flush()
        with _disk_errors():
            is_new = self._link(staged.path, path)
            self._sync_folder(path.parent)  # also where it was there: its writer may not have come to this yet
        return is_new

    def _link(self, staged: Path, path: Path) -> bool:
        self._make_folder(path.parent)
        try:
            os.link(staged, path)
        except FileExistsError:
            return False
        return True

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, each new name as safe from a power cut as the file will be."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        self._sync_folder(folder.parent)

    def _sync_folder(self, folder: Path) -> None:
        """Make a new name survive a power cut."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            self._sync(descriptor)
        finally:
            os.close(descriptor)

    def _path(self, key: str) -> Path:
        return self.root.joinpath(*key_parts(key))


class _Staged:
    """A file that vanishes when the block ends; what was linked elsewhere meanwhile stays."""

    def __init__(self, folder: Path, sync: Callable[[int], None]) -> None:
        with _disk_errors():
            descriptor, name = tempfile.mkstemp(dir=folder)
        self.path, self._sync = Path(name), sync
        self._file = os.fdopen(descriptor, "wb")

    def __enter__(self) -> "_Staged":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a full disk can fail the close as well; the write has said so already
            self._file.close()
        self.path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        with _disk_errors():
            self._file.write(data)

    def flush(self) -> None:
        with _disk_errors():
            self._file.flush()
            self._sync(self._file.fileno())
            self.path.chmod(0o644)  # a model server that runs as another user has to read it


class _disk_errors:
    """Turns what a disk can say into Unavailable."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, OSError) or isinstance(error, FileExistsError):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable("The disk of the object store is full; free some space and repeat.", reason="DISK_FULL") from error
        raise Unavailable(f"The object store can't write: {error}.", reason="STORE_UNAVAILABLE") from error
