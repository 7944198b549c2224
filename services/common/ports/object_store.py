"""The object store: bytes written once under a key that contains their digest.

It is synchronous, because workers read it plainly; services call it through `asyncio.to_thread`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import BinaryIO

from services.common.errors import InvalidInput

CHUNK_BYTES = 1 << 20
STAGING = ".staging"  # where a backend may keep what is not an object yet


@dataclass(frozen=True)
class Artifact:
    """A piece of immutable bytes: where, how long, and which."""

    key: str
    size_bytes: int
    sha256: str


class StoreVerb(StrEnum):
    """What a store is asked to do with a key; PUT and END_UPLOAD write only what is not there yet."""

    GET = "GET"
    HEAD = "HEAD"
    PUT = "PUT"
    LIST = "LIST"
    DELETE = "DELETE"
    BEGIN_UPLOAD = "BEGIN_UPLOAD"
    PUT_PART = "PUT_PART"
    END_UPLOAD = "END_UPLOAD"
    DROP_UPLOAD = "DROP_UPLOAD"


@dataclass(frozen=True)
class StoreRequest:
    """One request, as it is signed for somebody who has no key of his own: the signature covers every field.

    `key` is what the keys begin with for LIST; `sha256` and `crc32` are base64; `mark` tells whose commit an object is.
    """

    verb: StoreVerb
    key: str
    upload_id: str = ""
    part_number: int = 0
    sha256: str = ""
    crc32: str = ""
    mark: str = ""
    after: str = ""


class ObjectStore(ABC):
    """Keeps bytes by key. Keys are relative, with `/`, without `.` or `..` parts; others raise InvalidInput."""

    url: str

    @abstractmethod
    def put(self, prefix: str, stream: BinaryIO) -> Artifact:
        """Stage, hash and place a stream under `{prefix}/{sha256}`; memory stays constant.

        Idempotent: bytes that are there already are not written again, unless a disk has changed them. A reader never sees
        a part of them.
        Raises: Unavailable (full disk, store away) – nothing is left behind.
        """

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Open an object for reading; the stream can be sought. Raises: ArtifactNotFound; Unavailable, also from reads."""

    @abstractmethod
    def head(self, key: str) -> int:
        """Return an object's length in bytes. Raises: ArtifactNotFound."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with `prefix`, those of one folder in order; nothing for a prefix that nobody used."""

    @abstractmethod
    def commit(self, key: str, document: bytes) -> bool:
        """Place a document under a key that nobody has written; of any number of callers exactly one gets True.

        The others get False and the winner's document stays. A reader sees all of it or nothing.
        Raises: Unavailable – then the document is not there as far as can be known, and the caller may repeat.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; the absent is success. For what nobody will ask for again: old checkpoints."""

    @property
    def needs_signature(self) -> bool:
        """Whether a workload can open it only by requests that are signed for it; elsewhere its URL opens it."""
        return False

    def sign(self, request: StoreRequest, lifetime_s: int) -> str:
        """Return a URL that makes this one request possible, for so long. Raises: InvalidInput (no key; nothing is signed)."""
        raise InvalidInput(f"{self.url} is opened by its URL; nothing is signed for it.", reason="STORE_UNSIGNED")

    def read(self, key: str) -> bytes:
        """Return a whole object; for documents, not for weights. Raises: ArtifactNotFound."""
        with self.open(key) as stream:
            return stream.read()

    def read_artifact(self, artifact: Artifact) -> bytes:
        """Return a whole artifact, held to its digest. Raises: ArtifactNotFound; InvalidInput (other bytes)."""
        data = self.read(artifact.key)
        if hashlib.sha256(data).hexdigest() != artifact.sha256:
            raise corrupt(artifact.key)
        return data


def corrupt(key: str) -> InvalidInput:
    """Return the error of an object that is not what was written."""
    text = f"{key} holds other bytes than its digest says; restore it from a copy."
    return InvalidInput(text, reason="ARTIFACT_CORRUPT", metadata={"key": key})


def sha256_of(stream: BinaryIO) -> str:
    """Return the SHA-256 of what is left of a stream, 64 hex digits."""
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def key_parts(key: str) -> tuple[str, ...]:
    """Split a key, refusing whatever could leave the store. Raises: InvalidInput."""
    parts = PurePosixPath(key).parts
    if (
        not parts
        or key.startswith("/")
        or "\\" in key
        or "\0" in key
        or any(p in ("..", ".") or p.startswith(STAGING) for p in parts)
    ):
        raise InvalidInput(f"{key!r} is not a key.", reason="KEY_INVALID")
    return parts
