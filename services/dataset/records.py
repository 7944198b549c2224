"""The records of an upload: bytes → lines → JSON → chats, one small pure step after the other, and every way a line can be wrong.

A step yields what it made or a Fault; nothing is raised and nothing stops at the first mistake, because a person who
mends a file wants to mend it once. Memory does not grow with the file: one line is held at a time, and a line has a limit.
Only what makes every line wrong – another encoding, an archive, objects over several lines – ends the reading with a
single fault.

Part of the speed: orjson parses, and Python's own parser runs only on lines that orjson refuses or that may hold a key
twice, which orjson would not say. It is the one that gives the reasons.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import orjson

from services.common.errors import Violation
from services.dataset.chats import Chat, Flaw, read_chat

MAX_LINE_BYTES = 10_000_000
# Deeper values can't be written again by orjson, and nobody's tool schema is as deep.
MAX_DEPTH = 200

_BOM = b"\xef\xbb\xbf"
_FOREIGN = (
    (b"\xff\xfe", "ENCODING_UNSUPPORTED", "The file is UTF-16 or UTF-32; save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW."),
    (b"\xfe\xff", "ENCODING_UNSUPPORTED", "The file is UTF-16; save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW."),
    (b"\x1f\x8b", "FILE_COMPRESSED", "The file is compressed with gzip; unpack it first: gunzip FILE."),
    (b"PK\x03\x04", "FILE_COMPRESSED", "The file is a zip archive; unpack it and upload the JSONL file in it."),
    (b"\x28\xb5\x2f\xfd", "FILE_COMPRESSED", "The file is compressed with zstd; unpack it first: unzstd FILE."),
    (b"PAR1", "FORMAT_UNSUPPORTED", "The file is Parquet; write it as JSONL, one chat a line."),
)


@dataclass(frozen=True)
class Fault:
    """One mistake: the line (from 1; 0 is the file as a whole), the rule, how to mend it, and the character where JSON broke."""

    line: int
    reason: str
    description: str
    column: int | None = None

    def to_violation(self) -> Violation:
        """Return it as callers see it."""
        where = f"column {self.column}: " if self.column else ""
        return Violation(f"line {self.line}" if self.line else "file", self.reason, where + self.description)

    def to_json(self) -> bytes:
        """Return it as one line of the list that can be downloaded."""
        place = {"line": self.line, "column": self.column}
        return orjson.dumps({**place, "reason": self.reason, "description": self.description}, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(frozen=True)
class Line:
    """One line that is not blank, counted from 1."""

    number: int
    content: bytes


@dataclass(frozen=True)
class Record:
    """One good line: its chat, normalised."""

    line: int
    chat: Chat


def read_records(stream: BinaryIO) -> Iterator[Record | Fault]:
    """Yield what each line holds: a Record, or every Fault of it. Reads the stream once, in constant memory."""
    for line in read_lines(stream):
        if isinstance(line, Fault):
            yield line
            continue
        value = parse_line(line)
        if isinstance(value, Fault):
            yield value
            continue
        chat = read_chat(value)
        if isinstance(chat, Chat):
            yield Record(line.number, chat)
        else:
            yield from (_fault(line.number, flaw) for flaw in chat)


def read_lines(stream: BinaryIO) -> Iterator[Line | Fault]:
    """Yield the lines that are not blank, without a byte order mark; a line that is too long becomes a fault, unread."""
    number = 0
    is_first = True
    while content := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            if fault := _foreign(content):
                yield fault
                return
            content = content.removeprefix(_BOM)
        if len(content) > MAX_LINE_BYTES and not content.endswith(b"\n"):
            size_bytes = len(content) + _skip_line(stream)
            advice = "split the chat, or check that lines end with a line feed"
            yield Fault(
                number, "LINE_TOO_LONG", f"The line has {size_bytes:,} bytes, at most {MAX_LINE_BYTES:,} are read; {advice}."
            )
            is_first = False
            continue
        content = content.rstrip()  # not what stands before: columns count it
        if not content.strip():
            continue
        if is_first and (fault := _not_by_lines(number, content.lstrip())):
            yield fault
            return
        is_first = False
        yield Line(number, content)


def parse_line(line: Line) -> dict[str, Any] | Fault:
    """Return the line's JSON object, or why it is none."""
    try:
        value = orjson.loads(line.content)
    except orjson.JSONDecodeError:
        value = _parse_slowly(line)
    else:
        # A key that stands twice is lost in `value`, and its quotation marks with it. \u0022 is one more way to write one.
        if b"\\u0022" in line.content or not _keeps_quotes(value, line.content):
            value = _parse_slowly(line)
    if isinstance(value, dict | Fault):
        return value
    found = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}.get(type(value), "a number")
    return Fault(line.number, "RECORD_NOT_OBJECT", f'The line is {found}; write one object a line: {{"messages": [...]}}.')


def _keeps_quotes(value: Any, content: bytes) -> bool:
    try:
        return orjson.dumps(value).count(b'"') == content.count(b'"')
    except TypeError:  # too deep
        return False


class _Refusal(Exception):
    """What one of the hooks of Python's parser saw."""

    def __init__(self, reason: str, description: str, token: str = "") -> None:
        super().__init__(description)
        self.reason, self.description, self.token = reason, description, token


def _parse_slowly(line: Line) -> Any:
    try:
        text = line.content.decode()
    except UnicodeDecodeError as error:
        column = len(line.content[: error.start].decode()) + 1
        byte = line.content[error.start]
        return Fault(
            line.number,
            "ENCODING_INVALID",
            f"Byte 0x{byte:02x} is not UTF-8; save the file as UTF-8.",
            column,
        )
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        return Fault(line.number, "JSON_INVALID", f"{error.msg}; write one complete JSON object a line.", error.colno)
    except RecursionError:
        return _too_deep(line)
    except _Refusal as refusal:
        place = _column_of(refusal.token, text) if refusal.token else None
        return Fault(line.number, refusal.reason, refusal.description, place)
    if _depth(value) > MAX_DEPTH:
        return _too_deep(line)
    try:
        orjson.dumps(value)
    except TypeError:
        return Fault(
            line.number,
            "TEXT_INVALID",
            "A string holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; remove it.",
        )
    return value


def _too_deep(line: Line) -> Fault:
    return Fault(line.number, "JSON_TOO_DEEP", f"Arrays and objects are nested deeper than {MAX_DEPTH}; flatten them.")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [child for child in level if isinstance(child, dict | list)]:
        depth += 1
        level = [grandchild for child in level for grandchild in (child.values() if isinstance(child, dict) else child)]
    return depth


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Refusal("KEY_REPEATED", f"The key {_quoted(twice)} stands twice in one object; keep one of them.")
    return value


def _no_constant(token: str) -> NoReturn:
    raise _Refusal("NUMBER_INVALID", f"{token} is no JSON number; write a finite number or null.", token)


def _finite(token: str) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise _Refusal("NUMBER_INVALID", f"{_cut(token)} is larger than a number can be; write a smaller one.", token)
    return value


def _int64(token: str) -> int | float:
    """Beyond 64 bits an integer becomes the nearest float, as with orjson (and JavaScript, long before)."""
    value = int(token) if len(token) <= 20 else 1 << 64
    return value if -(1 << 63) <= value < 1 << 64 else _finite(token)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite, parse_int=_int64)
_STRING = r'"(?:[^"\\]|\\.)*"'


def _column_of(token: str, text: str) -> int | None:
    found = re.finditer(f"{_STRING}|(?<![\\w.+-]){re.escape(token)}", text)
    return next((match.start() + 1 for match in found if match.group() == token), None)


def _foreign(head: bytes) -> Fault | None:
    for magic, reason, description in _FOREIGN:
        if head.startswith(magic):
            return Fault(0, reason, description)
    if b"\0" in head[:4]:
        return Fault(0, "ENCODING_UNSUPPORTED", "The file is not UTF-8 text (it looks like UTF-16); save it as UTF-8.")
    return None


def _not_by_lines(number: int, content: bytes) -> Fault | None:
    """See whether the first line shows that the whole file is one array, or objects over several lines."""
    if content.startswith(b"["):
        advice = "write one object a line: jq -c '.[]' FILE > NEW"
        return Fault(number, "FORMAT_UNSUPPORTED", f"The file is a JSON array, not JSONL; {advice}.")
    if content == b"{" or re.fullmatch(rb'\{\s*"[^"]*"\s*:\s*[\[{]?', content):
        advice = "write each on one line: jq -c . FILE > NEW"
        return Fault(number, "FORMAT_UNSUPPORTED", f"Objects go over several lines, this is not JSONL; {advice}.")
    return None


def _skip_line(stream: BinaryIO) -> int:
    skipped_bytes = 0
    while part := stream.readline(1 << 20):
        skipped_bytes += len(part)
        if part.endswith(b"\n"):
            break
    return skipped_bytes


def _fault(line: int, flaw: Flaw) -> Fault:
    return Fault(line, flaw.reason, f"{flaw.path}: {flaw.description}" if flaw.path else flaw.description)


def _quoted(text: str) -> str:
    return json.dumps(_cut(text), ensure_ascii=True)


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
