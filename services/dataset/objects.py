"""JSON objects that do not stand one a line: in an array, or one after the other, each over several lines.

Where one ends is found by Python's C scanner, which says so; the text is then parsed as a line would be. After a broken
one, reading goes on where the next object begins with the same key as the first (at the same indent, where each begins a
line), so that every broken record is told. From then on such a beginning ends the record before it, because a record
that lacks its last bracket would otherwise swallow the rest of the file.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from services.dataset.faults import Fault
from services.dataset.json_text import Text, parse_text

MAX_RECORD_BYTES = 10_000_000
CHUNK_BYTES = 1 << 20
# Within these last bytes what looks broken may only be cut by the end of what has been read.
_TAIL = 64
# What is kept of a broken record when more is read: as much as the beginning of the next may need.
_OVERLAP = 1024
_SCANNER = json.JSONDecoder(parse_int=str, parse_float=str)  # int() refuses more than 4300 digits
_ANY_BEGINNING = re.compile(r'(?<=[\s,\[}])(?P<begin>\{)\s*"')
_SPACE = re.compile(r"[ \t\r\n]*")


class Value(NamedTuple):
    """One record's JSON object and the line where it begins."""

    line: int
    value: dict[str, Any]


def too_long(number: int, size_bytes: int) -> Fault:
    """Return the fault of a record over the limit."""
    advice = "split the chat, or check that lines end with a line feed"
    told = f"The record has {size_bytes:,} bytes, at most {MAX_RECORD_BYTES:,} are read; {advice}."
    return Fault(number, "LINE_TOO_LONG", told)


class Objects:
    """Reads what is left of a file. The buffer is Latin-1, so that a character is a byte; texts leave it as bytes."""

    def __init__(self, head: bytes, stream: BinaryIO, number: int, *, is_array: bool) -> None:
        self._buffer, self._at = head.decode("latin-1"), 0
        self._stream, self._is_at_end = stream, False
        self._line, self._column = number, 0
        self._is_array, self._is_broken = is_array, False
        self._indent: str | None = ""
        self._beginning: re.Pattern[str] | None = None
        self._searched = 0
        self._resumed = False

    def read(self) -> Iterator[Value | Fault]:
        """Yield each object, or what is wrong with it."""
        self._skip_space()
        if self._is_array:
            self._advance(1)
        wants_comma = has_comma = False
        while True:
            self._skip_space()
            if self._at == len(self._buffer):
                if self._is_array:
                    yield self._fault("The array is not closed, the file may be cut off; end it with ]")
                return
            character = self._buffer[self._at]
            if self._is_array and character == "]":
                if has_comma:
                    yield self._fault("A comma stands before the end of the array; remove it")
                yield from self._end()
                return
            if character == ",":
                if not self._is_array or not wants_comma:
                    yield self._fault("A comma stands where an object is expected; remove it")
                self._advance(1)
                wants_comma, has_comma = False, True
                continue
            if self._is_array and wants_comma:
                yield self._fault("Expecting ',' delimiter; write a comma between two objects")
            found = self._value()
            yield found
            wants_comma, has_comma = not (isinstance(found, Fault) and self._resumed), False
            if self._resumed and self._at == len(self._buffer):
                return

    def _value(self) -> Value | Fault:
        """Read one value; a broken one up to where the next record begins."""
        self._resumed = False
        self._learn_beginning()
        end = self._end_of_value()
        if end:
            text = self._text(end)
            self._advance(end - self._at)
            if len(text.content) > MAX_RECORD_BYTES:
                return too_long(text.number, len(text.content))
            value = parse_text(text)
            return value if isinstance(value, Fault) else Value(text.number, value)
        return self._broken()

    def _end_of_value(self) -> int:
        """Return where the value at hand ends; 0 where it is broken."""
        while True:
            limit = len(self._buffer)
            if self._is_broken and (match := self._next_beginning()):
                limit = match
            begin, document = self._at, self._buffer
            if limit != len(self._buffer):
                begin, document = 0, self._buffer[self._at : limit]
            try:
                end = _SCANNER.raw_decode(document, begin)[1] - begin + self._at
            except json.JSONDecodeError as error:
                is_short = error.pos >= len(document) - _TAIL or error.msg.startswith("Unterminated")
                if document is self._buffer and is_short and self._grow():
                    continue
                return 0
            except RecursionError:
                return 0
            if end == len(self._buffer) and self._buffer[end - 1] not in '}]"' and self._grow():
                continue
            return end

    def _broken(self) -> Fault:
        self._is_broken = self._resumed = True
        end = self._next_beginning()
        found = self._text(end or len(self._buffer))
        size_bytes = 0
        while not end:
            passed = max(self._at + 1, len(self._buffer) - _OVERLAP)
            size_bytes += passed - self._at
            self._advance(passed - self._at)
            end = self._next_beginning(0) if self._grow() else len(self._buffer)
        size_bytes += end - self._at
        self._advance(end - self._at)
        if len(found.content) > MAX_RECORD_BYTES:
            return too_long(found.number, size_bytes)
        value = parse_text(found)
        return value if isinstance(value, Fault) else found.fault("JSON_INVALID", "More stands after the object; remove it.")

    def _learn_beginning(self) -> None:
        if self._beginning is None and (match := re.compile(r'\{\s*("[^"\\]*")\s*:').match(self._buffer, self._at)):
            key = re.escape(match.group(1))
            before = r"(?<=[\s,\[}])" if self._indent is None else f"(?<=\\n){re.escape(self._indent)}"
            self._beginning = re.compile(rf"{before}(?P<begin>\{{)\s*{key}\s*:")

    def _next_beginning(self, skip: int = 1) -> int:
        """Return where the next record seems to begin; 0 where none does in what has been read. No byte is searched twice."""
        begin = max(self._at + skip, self._searched)
        match = (self._beginning or _ANY_BEGINNING).search(self._buffer, begin)
        self._searched = match.start("begin") if match else max(begin, len(self._buffer) - _OVERLAP)
        return match.start("begin") if match else 0

    def _end(self) -> Iterator[Fault]:
        self._advance(1)
        self._skip_space()
        if self._at < len(self._buffer):
            yield self._fault("More stands after the end of the array; remove it, or put it inside")

    def _fault(self, told: str) -> Fault:
        return Fault(self._line, "JSON_INVALID", f"{told}.", self._column + 1)

    def _grow(self) -> bool:
        """Read more, unless nothing is left or a record would be too long. Drops what has been taken."""
        kept = len(self._buffer) - self._at
        if self._is_at_end or kept > MAX_RECORD_BYTES:
            return False
        more = self._stream.read(max(CHUNK_BYTES, kept))
        self._is_at_end = not more
        if more:
            self._searched = max(0, self._searched - self._at)
            self._buffer, self._at = self._buffer[self._at :] + more.decode("latin-1"), 0
        return bool(more)

    def _skip_space(self) -> None:
        skipped = ""
        while True:
            match = _SPACE.match(self._buffer, self._at)
            space = match.group() if match else ""
            skipped += space
            self._advance(len(space))
            if self._at < len(self._buffer) or not self._grow():
                break
        if "\n" in skipped:
            self._indent = skipped.rpartition("\n")[2]
        elif skipped or self._column:
            self._indent = None

    def _text(self, end: int) -> Text:
        return Text(self._line, self._buffer[self._at : end].encode("latin-1").rstrip(), self._column)

    def _advance(self, count: int) -> None:
        if not count:
            return
        passed = self._buffer[self._at : self._at + count]
        self._at += count
        lines = passed.count("\n")
        tail = passed[passed.rfind("\n") + 1 :]
        characters = len(tail) if tail.isascii() else len(tail.encode("latin-1").decode("utf-8", "replace"))
        self._line += lines
        self._column = characters if lines else self._column + characters
