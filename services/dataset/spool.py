"""Bytes on their way: a temporary file that vanishes with its block, and a stream over bytes that are made as they are read.

Temporary files keep memory constant whatever the size of an upload. Where they lie is TMPDIR's business; when that disk
is full the caller gets Unavailable, as from the object store.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from services.common.errors import Unavailable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Spool:
    """A file without a name: write, then read from the start as often as needed."""

    def __init__(self) -> None:
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 – closed by the block that the spool is for
        except OSError as error:
            raise _full(error) from error
        self.size_bytes = 0

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a full disk fails the close as well; the write has said so already
            self._file.close()

    def write(self, data: bytes) -> None:
        """Append. Raises: Unavailable (the disk is full)."""
        try:
            self._file.write(data)
        except OSError as error:
            raise _full(error) from error
        self.size_bytes += len(data)

    def rewound(self) -> BinaryIO:
        """Return the file itself, ready to be read from the start. Raises: Unavailable (the disk is full)."""
        try:
            self._file.seek(0)
        except OSError as error:
            raise _full(error) from error
        return self._file


def stream_of(parts: Iterable[bytes]) -> BinaryIO:
    """Return a stream that makes its bytes while it is read."""
    return io.BufferedReader(_Parts(iter(parts)), 1 << 20)


class _Parts(io.RawIOBase):
    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        target = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(target):
            if not self._rest:
                self._rest = memoryview(next(self._parts, b""))
                if not self._rest:
                    break
            taken = min(len(target) - filled, len(self._rest))
            target[filled : filled + taken] = self._rest[:taken]
            self._rest = self._rest[taken:]
            filled += taken
        return filled


def _full(error: OSError) -> Unavailable:
    return Unavailable(
        f"The folder for temporary files can't be written ({error.strerror}); make room there, or set TMPDIR to another one.",
        reason="DISK_UNAVAILABLE",
    )
