"""How the records of an upload are strung together: bytes → JSON texts, one at a time, whatever the size of the file.

Four ways: one object a line (JSONL), a JSON array, objects one after the other over several lines, and lines of plain
text; each may be packed with gzip. The first line shows which. Memory does not grow with the file: a record has a limit,
and so have the bytes that a packed file may unpack to. Only what makes everything wrong – another encoding, another
kind of archive – ends the reading with a single fault.
"""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from services.dataset.faults import Fault
from services.dataset.foreign import GZIP, foreign
from services.dataset.json_text import Text, is_cut_short, parse_text
from services.dataset.objects import MAX_RECORD_BYTES, Objects, Value, too_long

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_UNPACKED_BYTES = 1 << 30
LINES, ARRAY, OBJECTS = "jsonl", "json", "objects"

_BOM = b"\xef\xbb\xbf"


class _Unreadable(Exception):
    """A packed file is damaged, or too large when unpacked."""

    def __init__(self, reason: str, description: str) -> None:
        super().__init__(description)
        self.reason, self.description = reason, description


@dataclass
class Container:
    """The records of one upload in their order. `kind` is known once the first has been read."""

    stream: BinaryIO
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES
    kind: str = LINES
    _number: int = 0
    _pushed_back: bytes = b""
    _line_end: bytes = b"\n"

    def lines(self) -> Iterator[Text | Fault]:
        """Yield the lines that are not blank, without a byte order mark, unlooked at; one too long becomes a fault, unread."""
        try:
            self.stream = unpacked(self.stream, self.max_unpacked_bytes)
            yield from self._lines()
        except _Unreadable as error:
            yield Fault(0, error.reason, error.description)

    def values(self) -> Iterator[Value | Fault]:
        """Yield each record's JSON object, or what is wrong with it."""
        try:
            self.stream = unpacked(self.stream, self.max_unpacked_bytes)
            yield from self._values()
        except _Unreadable as error:
            yield Fault(0, error.reason, error.description)

    def _values(self) -> Iterator[Value | Fault]:
        is_first = True
        for text in self._lines(is_json=True):
            if isinstance(text, Fault):
                yield text
                is_first = False
                continue
            if is_first and text.content.lstrip().startswith(b"["):
                yield from self._objects(text, ARRAY)
                return
            value = parse_text(text)
            if isinstance(value, Fault):
                if value.reason == "JSON_INVALID" and self._goes_on(text):
                    yield from self._objects(text, OBJECTS)
                    return
                yield value
            else:
                yield Value(text.number, value)
            is_first = False

    def _objects(self, begun: Text, kind: str) -> Iterator[Value | Fault]:
        self.kind = kind
        rest = Objects(begun.content + self._line_end + self._pushed_back, self.stream, begun.number, is_array=kind == ARRAY)
        yield from rest.read()

    def _goes_on(self, text: Text) -> bool:
        """See whether a record goes over several lines; else it was cut off, and the next line begins another."""
        if not text.content.lstrip().startswith(b"{") or not is_cut_short(text.content):
            return False
        self._pushed_back = self.stream.readline(MAX_RECORD_BYTES + 1)
        key = re.match(rb'\s*\{\s*"[^"\\]*"', text.content)
        beginning = b"".join(key.group().split()) if key else b"{"
        return not b"".join(self._pushed_back[:1000].split()).startswith(beginning)

    def _next_line(self) -> bytes:
        if self._pushed_back:
            line, self._pushed_back = self._pushed_back, b""
            return line
        return self.stream.readline(MAX_RECORD_BYTES + 1)

    def _lines(self, *, is_json: bool = False) -> Iterator[Text | Fault]:
        while content := self._next_line():
            self._number += 1
            if self._number == 1:
                if fault := foreign(content):
                    yield fault
                    return
                content = content.removeprefix(_BOM)
            if len(content) > MAX_RECORD_BYTES and not content.endswith(b"\n"):
                if is_json and self._number == 1 and content.lstrip()[:1] == b"[":  # an array on one long line
                    yield from self._long_array(content)
                    return
                yield too_long(self._number, len(content) + _skip_line(self.stream))
                continue
            content = content.rstrip()  # not what stands before: columns count it
            if content:
                yield Text(self._number, content)

    def _long_array(self, content: bytes) -> Iterator[Text]:
        self.stream = io.BufferedReader(_Joined(content.lstrip()[1:], self.stream), 1 << 20)
        self._line_end = b""
        yield Text(1, b"[")


def unpacked(stream: BinaryIO, max_bytes: int = MAX_UNPACKED_BYTES) -> BinaryIO:
    """Return the stream, or what it unpacks to where it is packed with gzip."""
    head = stream.read(2)
    while len(head) < 2 and (more := stream.read(2 - len(head))):  # a stream may give less than it was asked for
        head += more
    if head != GZIP and stream.seekable():
        stream.seek(-len(head), io.SEEK_CUR)
        return stream
    joined = io.BufferedReader(_Joined(head, stream), 1 << 16)
    return joined if head != GZIP else io.BufferedReader(_Gunzipped(joined, max_bytes), 1 << 18)


def begins_as_json(stream: BinaryIO, max_bytes: int = MAX_UNPACKED_BYTES) -> bool:
    """Say whether a file that is called text is JSON; one that can't be unpacked is read, and refused, as JSON."""
    try:
        head = unpacked(stream, max_bytes).read(1 << 16)
    except _Unreadable:
        return True
    return head.removeprefix(_BOM).lstrip()[:1] in (b"{", b"[")


class _Joined(io.RawIOBase):
    """Bytes, then a stream."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        target = memoryview(buffer).cast("B")
        data, self._head = self._head[: len(target)], self._head[len(target) :]
        data = data or self._rest.read(len(target))
        target[: len(data)] = data
        return len(data)


class _Gunzipped(io.RawIOBase):
    """What a packed stream holds, up to a limit: a small file can unpack to any size."""

    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        self._unpacked = gzip.GzipFile(fileobj=stream, mode="rb")
        self._left_bytes = self._max_bytes = max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        target = memoryview(buffer).cast("B")
        try:
            data: Any = self._unpacked.read(len(target))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            told = f"The file can't be unpacked ({error}); pack it again: gzip FILE."
            raise _Unreadable("FILE_DAMAGED", told) from error
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            told = f"Unpacked, the file is larger than {self._max_bytes:,} bytes; send fewer rows."
            raise _Unreadable("FILE_TOO_LARGE", told)
        target[: len(data)] = data
        return len(data)


def _skip_line(stream: BinaryIO) -> int:
    skipped_bytes = 0
    while part := stream.readline(1 << 20):
        skipped_bytes += len(part)
        if part.endswith(b"\n"):
            break
    return skipped_bytes
