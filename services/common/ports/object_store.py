"""The object store: bytes written once under a key that contains their digest.

It is synchronous, because workers read it plainly; services call it through `asyncio.to_thread`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Artifact:
    """A piece of immutable bytes: where, how long, and which."""

    key: str
    size_bytes: int
    sha256: str


class ObjectStore(ABC):
    """Keeps bytes by key. Keys are relative, with `/`, without `.` or `..` parts; others raise InvalidInput."""

    url: str

    @abstractmethod
    def put(self, prefix: str, stream: BinaryIO) -> Artifact:
        """Stage, hash and place a stream under `{prefix}/{sha256}`; memory stays constant.

        Idempotent: bytes that are there already are not written again. A reader never sees a part of them.
        Raises: Unavailable (full disk, store away) – nothing is left behind.
        """

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Open an object for reading. Raises: ArtifactNotFound."""

    @abstractmethod
    def head(self, key: str) -> int:
        """Return an object's length in bytes. Raises: ArtifactNotFound."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with `prefix`, in order; nothing for a prefix that nobody used."""

    @abstractmethod
    def commit(self, key: str, document: bytes) -> bool:
        """Place a document under a key that nobody has written; of any number of callers exactly one gets True.

        The others get False and the winner's document stays. A reader sees all of it or nothing.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; the absent is success. For what nobody will ask for again: old checkpoints."""

    def read(self, key: str) -> bytes:
        """Return a whole object; for documents, not for weights. Raises: ArtifactNotFound."""
        with self.open(key) as stream:
            return stream.read()


def sha256_of(stream: BinaryIO) -> str:
    """Return the SHA-256 of what is left of a stream, 64 hex digits."""
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
