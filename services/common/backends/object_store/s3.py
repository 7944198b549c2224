"""Objects in a bucket of any S3-compatible server: `s3://bucket/prefix`.

What makes a key be written once is the server's own condition (`If-None-Match: *`), on a plain PUT and on the end of a
multipart upload. A request whose answer was lost may have been carried out, so it is never guessed at: each commit marks
its object with a token of its own, and reads back whose token is there. Bytes are hashed on their way to a temporary
file, so that memory stays constant and the key is known before the first of them is sent; the server checks them again.

The endpoint is S3_ENDPOINT_URL, or AWS_ENDPOINT_URL as other tools have it; credentials are boto3's own: AWS_*
variables, its files, the role of a pod or a machine. A bucket wants a lifecycle rule that ends incomplete multipart
uploads, for the program that is killed within one.

When changing this: run the contract suite, and ask of every request what happened if its answer never comes.
"""

import base64
import contextlib
import hashlib
import io
import random
import secrets
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, BinaryIO, NoReturn
from urllib.parse import urlsplit

import urllib3.exceptions
from botocore import exceptions as boto

from services.common.backends.object_store import s3_client
from services.common.backends.object_store.s3_client import MARK
from services.common.errors import ArtifactNotFound, InvalidInput, PermissionDenied, Unavailable
from services.common.ports.object_store import CHUNK_BYTES, Artifact, ObjectStore, StoreRequest, StoreVerb, key_parts

MULTIPART_BYTES = 64 << 20
PART_BYTES = 16 << 20
MAX_PARTS = 10_000  # Source: S3 user guide, "Amazon S3 multipart upload limits"
SPOOL_BYTES = 8 << 20  # below, staged bytes stay in memory
SENDERS = 4
ATTEMPTS = 3
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 20.0
MAX_RESUMES = 5  # in a row, without a byte between them
MAX_PAUSE_S = 5.0
DENIED = {
    "InvalidAccessKeyId": "does not know the access key; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "does not accept the signature; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "says that the session has expired; renew AWS_SESSION_TOKEN",
    "InvalidToken": "does not accept the session's token; check AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "says that this machine's clock is wrong; set it",
    "AccessDenied": "does not allow this; grant the key reading, writing, listing and deleting",
}
# The stream's connection broke, whichever layer noticed it first.
BROKEN = (boto.BotoCoreError, urllib3.exceptions.HTTPError, OSError)


class S3ObjectStore(ObjectStore):
    """An object store in a bucket. It opens no connection before the first verb; threads may share it."""

    def __init__(
        self,
        url: str,
        environ: Mapping[str, str],
        *,
        multipart_bytes: int = MULTIPART_BYTES,
        part_bytes: int = PART_BYTES,
        attempts: int = ATTEMPTS,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        signer: Callable[[StoreRequest], str] | None = None,
    ) -> None:
        """Open it with the credentials of `environ`, or have every request signed by `signer`, which returns its URL."""
        parts = urlsplit(url)
        prefix = parts.path.strip("/")
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
            raise InvalidInput(f"{url} is not understood; use s3://bucket/prefix.", reason="URL_INVALID")
        self._bucket = parts.netloc
        self._prefix = "/".join(key_parts(prefix)) + "/" if prefix else ""
        self.url = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        self._multipart_bytes, self._part_bytes = multipart_bytes, part_bytes
        given = {name: value for name, value in environ.items() if value}
        self._client = s3_client.connect(given, attempts, connect_timeout_s, read_timeout_s, is_signing=signer is None)
        if signer is not None:
            s3_client.sign_elsewhere(self._client, self._prefix, signer)
        self._knows_bucket = signer is not None  # whoever signs has it

    def put(self, prefix: str, stream: BinaryIO) -> Artifact:
        """See the port."""
        key_parts(prefix)
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as staged:
            size_bytes, digest = _stage(stream, staged)
            artifact = Artifact(f"{prefix}/{digest.hex()}", size_bytes, digest.hex())
            with self._told(artifact.key):
                if size_bytes > CHUNK_BYTES and self._holds(artifact):
                    return artifact
                if size_bytes > self._multipart_bytes:
                    self._put_in_parts(artifact, staged)
                else:
                    self._put_whole(artifact, staged, digest)
        return artifact

    def open(self, key: str) -> BinaryIO:
        """See the port. The stream outlives broken connections: it goes on from the byte at which it broke."""
        return io.BufferedReader(_Download(self, key), CHUNK_BYTES)  # type: ignore[return-value]

    def head(self, key: str) -> int:
        """See the port."""
        with self._told(key):
            return int(self._head(key)["ContentLength"])

    def list(self, prefix: str) -> Iterator[str]:
        """See the port."""
        wanted = self._prefix + self._prefix_of(prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=wanted)
        with self._told(prefix):
            for page in pages:
                for found in page.get("Contents", ()):
                    yield found["Key"].removeprefix(self._prefix)

    def commit(self, key: str, document: bytes) -> bool:
        """See the port."""
        token = secrets.token_hex(16)
        with self._told(key):
            try:
                is_placed = self._place(
                    key, Body=document, ChecksumSHA256=_base64(hashlib.sha256(document).digest()), Metadata={MARK: token}
                )
            except (boto.BotoCoreError, boto.ClientError):
                # It may have been carried out all the same: what is there says so; nothing there says try again.
                with contextlib.suppress(boto.BotoCoreError, boto.ClientError):
                    if (there := self._token_at(key)) is not None:
                        return there == token
                raise
            # A condition that failed may have failed on our own first attempt, whose answer was lost.
            return is_placed or self._token_at(key) == token

    def delete(self, key: str) -> None:
        """See the port."""
        with self._told(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._path(key))

    @property
    def needs_signature(self) -> bool:
        """See the port."""
        return True

    def sign(self, request: StoreRequest, lifetime_s: int) -> str:
        """See the port: a presigned URL. What it writes can't be there yet, and has the checksum that was told."""
        is_list = request.verb is StoreVerb.LIST
        path = self._prefix + self._prefix_of(request.key) if is_list else self._path(request.key)
        with self._told(request.key):
            return s3_client.presign(self._client, self._bucket, path, request, lifetime_s)

    def make_bucket(self) -> None:
        """Make the bucket where it is not there. Idempotent. For tests and first steps; people make theirs themselves."""
        with self._told(""):
            try:
                self._client.create_bucket(Bucket=self._bucket)
            except self._client.exceptions.ClientError as error:
                if _code(error) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise

    def get(self, key: str, start: int, etag: str) -> Any:
        """Ask for an object from a byte on; only the version of `etag`, where one is given. Raises: as `open`."""
        wanted = {"Range": f"bytes={start}-"} if start else {}
        wanted |= {"IfMatch": etag} if etag else {}
        with self._told(key):
            return self._client.get_object(Bucket=self._bucket, Key=self._path(key), **wanted)

    def _token_at(self, key: str) -> str | None:
        """Whose commit is there: "" for what was not committed, None for nothing."""
        try:
            return str(self._head(key)["Metadata"].get(MARK, ""))
        except boto.ClientError as error:
            if _status(error) == 404:
                return None
            raise

    def _holds(self, artifact: Artifact) -> bool:
        try:
            return bool(self._head(artifact.key)["ContentLength"] == artifact.size_bytes)
        except boto.ClientError as error:
            if _status(error) == 404:
                return False
            raise

    def _head(self, key: str) -> Any:
        return self._client.head_object(Bucket=self._bucket, Key=self._path(key))

    def _place(self, key: str, **fields: Any) -> bool:
        """Write an object that is not there; False where it is. A writer at the same moment is waited out."""
        for attempt in range(MAX_RESUMES):
            try:
                self._client.put_object(Bucket=self._bucket, Key=self._path(key), IfNoneMatch="*", **fields)
                return True
            except boto.ClientError as error:
                if _status(error) == 412:  # somebody has written it
                    return False
                if _code(error) != "ConditionalRequestConflict" or attempt == MAX_RESUMES - 1:
                    raise
                _pause(attempt)
        raise AssertionError("unreachable")

    def _put_whole(self, artifact: Artifact, staged: IO[bytes], digest: bytes) -> None:
        staged.seek(0)
        self._place(artifact.key, Body=staged, ContentLength=artifact.size_bytes, ChecksumSHA256=_base64(digest))

    def _put_in_parts(self, artifact: Artifact, staged: IO[bytes]) -> None:
        """Send parts a few at a time; the object is there when the server has joined them, all or nothing."""
        where = {"Bucket": self._bucket, "Key": self._path(artifact.key)}
        upload = {**where, "UploadId": self._client.create_multipart_upload(**where, ChecksumAlgorithm="CRC32")["UploadId"]}
        with contextlib.ExitStack() as otherwise:
            otherwise.callback(self._abort, upload)
            parts = self._send_parts(upload, staged, artifact.size_bytes)
            try:
                self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
                otherwise.pop_all()
            except (boto.BotoCoreError, boto.ClientError):
                if not self._holds(artifact):  # otherwise somebody else was first, or our own answer was lost
                    raise

    def _send_parts(self, upload: Mapping[str, str], staged: IO[bytes], size_bytes: int) -> Sequence[dict[str, Any]]:
        part_bytes = max(self._part_bytes, -(-size_bytes // MAX_PARTS))
        lock = threading.Lock()

        def send(number: int) -> dict[str, Any]:
            with lock:  # so that at most one part a sender is in memory
                staged.seek((number - 1) * part_bytes)
                data = staged.read(part_bytes)
            checksum = {"ChecksumCRC32": _base64(zlib.crc32(data).to_bytes(4, "big"))}
            answer = self._client.upload_part(**upload, PartNumber=number, Body=data, **checksum)
            return {"PartNumber": number, "ETag": answer["ETag"], **checksum}

        senders = ThreadPoolExecutor(max_workers=SENDERS, thread_name_prefix="s3")
        try:
            return list(senders.map(send, range(1, -(-size_bytes // part_bytes) + 1)))
        finally:
            senders.shutdown(cancel_futures=True)

    def _abort(self, upload: Mapping[str, str]) -> None:
        with contextlib.suppress(boto.ClientError, boto.BotoCoreError):
            self._client.abort_multipart_upload(**upload)

    @staticmethod
    def _prefix_of(prefix: str) -> str:
        if prefix.rstrip("/"):
            key_parts(prefix.rstrip("/"))
        return prefix

    def _path(self, key: str) -> str:
        return self._prefix + "/".join(key_parts(key))

    @contextlib.contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Turn what boto3 raises into our errors, once."""
        try:
            yield
        except boto.ClientError as error:
            self._refuse(key, error)
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError) as error:
            text = f"There are no credentials for {self.url} ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            raise PermissionDenied(text, reason="STORE_CREDENTIALS_MISSING") from error
        except boto.ParamValidationError as error:
            raise InvalidInput(f"{key!r} is not a key: {error}", reason="KEY_INVALID") from error
        except (boto.BotoCoreError, urllib3.exceptions.HTTPError) as error:
            raise Unavailable(f"The object store {self.url} does not answer: {error}", reason="STORE_UNAVAILABLE") from error
        else:
            self._knows_bucket = True

    def _refuse(self, key: str, error: boto.ClientError) -> NoReturn:
        code, status = _code(error), _status(error)
        if code == "NoSuchBucket" or (status == 404 and not self._has_bucket()):
            text = f"There is no bucket {self._bucket}; create it, or name another in OBJECT_STORE."
            raise Unavailable(text, reason="BUCKET_NOT_FOUND", metadata={"bucket": self._bucket}) from error
        if status == 404:
            raise ArtifactNotFound(f"The object store has no {key}.", metadata={"key": key}) from error
        if status in (401, 403):
            why = DENIED.get(code, DENIED["AccessDenied"] + ", and check both keys")
            raise PermissionDenied(f"The object store {self.url} {why} ({code}).", reason="STORE_DENIED") from error
        if code in ("KeyTooLongError", "InvalidURI"):
            raise InvalidInput(f"{key!r} is not a key: {error}", reason="KEY_INVALID") from error
        raise Unavailable(f"The object store {self.url} answered {status}: {error}", reason="STORE_UNAVAILABLE") from error

    def _has_bucket(self) -> bool:
        """Whether the bucket is there; a HEAD says 404 for a missing key and a missing bucket alike, so it is asked once."""
        if not self._knows_bucket:
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except boto.ClientError as error:
                return _status(error) != 404
            except boto.BotoCoreError:
                return True
            self._knows_bucket = True
        return True


class _Download(io.RawIOBase):
    """One object as a stream that can be read and sought; a broken connection is opened again where it broke."""

    def __init__(self, store: S3ObjectStore, key: str) -> None:
        self._store, self._key = store, key
        self._position = 0
        answer = store.get(key, 0, "")
        self._etag, self._size, self._body = answer["ETag"], int(answer["ContentLength"]), answer["Body"]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if position < 0:
            raise ValueError(f"There is no byte {position}.")
        if position != self._position:
            self._drop()
            self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; 0 at the end, and only there. Raises: Unavailable (it broke again and again)."""
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        for attempt in range(MAX_RESUMES):
            try:
                if self._body is None:
                    self._body = self._store.get(self._key, self._position, self._etag)["Body"]
                data: bytes = self._body.read(wanted)
                if data:
                    buffer[: len(data)] = data
                    self._position += len(data)
                    return len(data)
                failure: Exception = EOFError("the connection ended early")
            except Unavailable as error:  # the store retried already
                failure = error
                if error.__cause__ is not None and getattr(error.__cause__, "response", None):
                    raise  # it answered, and will not answer otherwise
            except BROKEN as error:
                failure = error
            self._drop()
            if attempt < MAX_RESUMES - 1:
                _pause(attempt)
        text = f"{self._key} broke off at byte {self._position} of {self._size}, {MAX_RESUMES} times: {failure}"
        raise Unavailable(text, reason="STORE_UNAVAILABLE", metadata={"key": self._key}) from failure

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        if getattr(self, "_body", None) is not None:
            with contextlib.suppress(*BROKEN):
                self._body.close()
        self._body = None


def _stage(stream: BinaryIO, staged: IO[bytes]) -> tuple[int, bytes]:
    """Copy a stream into a temporary file. Returns: its length and SHA-256."""
    digest, size_bytes = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
        size_bytes += len(chunk)
        _write(staged, chunk)
    _write(staged, b"")
    return size_bytes, digest.digest()


def _write(staged: IO[bytes], chunk: bytes) -> None:
    """Write a chunk; an empty one writes out what is buffered. Raises: Unavailable (the disk is full)."""
    try:
        staged.write(chunk) if chunk else staged.flush()
    except OSError as error:
        text = f"{tempfile.gettempdir()} can't take what is to be uploaded: {error}. Free some space, or set TMPDIR."
        raise Unavailable(text, reason="DISK_FULL") from error


def _code(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _pause(attempt: int) -> None:
    """Wait a random while; the state of Python's own generator stays a worker's to reproduce."""
    time.sleep(random.SystemRandom().uniform(0, min(MAX_PAUSE_S, 0.1 * 4**attempt)))
