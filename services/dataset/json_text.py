"""One JSON text of an upload → its value, or why it is none, with the line and the column where JSON broke.

Part of the speed: orjson parses, and Python's own parser runs only on texts that orjson refuses or that may hold a key
twice, which orjson would not say. It is the one that gives the reasons.
"""

import json
import math
import re
from typing import Any, NamedTuple, NoReturn

import orjson

from services.dataset.faults import Fault, cut

# Deeper values can't be written again by orjson, and nobody's tool schema is as deep.
MAX_DEPTH = 200


class Text(NamedTuple):
    """One record as it is written: its first line (from 1), its bytes, and the characters that stand before it on that line."""

    number: int
    content: bytes
    column: int = 0

    def fault(self, reason: str, description: str, before: str | None = None) -> Fault:
        """Return a fault of this text; `before` is what stands before the place where it broke."""
        if before is None:
            return Fault(self.number, reason, description)
        lines = before.count("\n")
        column = len(before) - before.rfind("\n") - 1 + (0 if lines else self.column)
        return Fault(self.number + lines, reason, description, column + 1)


def parse_text(text: Text) -> dict[str, Any] | Fault:
    """Return the text's JSON object, or why it is none."""
    try:
        value = orjson.loads(text.content)
    except orjson.JSONDecodeError:
        value = _parse_slowly(text)
    else:
        # A key that stands twice is lost in `value`, and its quotation marks with it. \u0022 is one more way to write one.
        if b"\\u0022" in text.content or not _keeps_quotes(value, text.content):
            value = _parse_slowly(text)
    if isinstance(value, dict | Fault):
        return value
    found = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}.get(type(value), "a number")
    return text.fault("RECORD_NOT_OBJECT", f'The record is {found}; write an object: {{"messages": [...]}}.')


def decode(text: Text) -> str | Fault:
    """Return the text's characters, or the byte that is none."""
    try:
        return text.content.decode()
    except UnicodeDecodeError as error:
        byte, before = text.content[error.start], text.content[: error.start].decode()
        return text.fault("ENCODING_INVALID", f"Byte 0x{byte:02x} is not UTF-8; save the file as UTF-8.", before)


def is_cut_short(content: bytes) -> bool:
    """Say whether a line is JSON as far as it goes, and goes on: what a record over several lines begins with."""
    try:
        _DECODER.decode(content.decode())
    except json.JSONDecodeError as error:
        return error.pos >= len(error.doc.rstrip())
    except (UnicodeDecodeError, RecursionError, _Refusal):
        return False
    return False


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


def _parse_slowly(text: Text) -> Any:
    characters = decode(text)
    if isinstance(characters, Fault):
        return characters
    try:
        value = _DECODER.decode(characters)
    except json.JSONDecodeError as error:
        return text.fault("JSON_INVALID", f"{error.msg}; write complete JSON, one object a record.", characters[: error.pos])
    except RecursionError:
        return _too_deep(text)
    except _Refusal as refusal:
        before = _before(refusal.token, characters) if refusal.token else None
        return text.fault(refusal.reason, refusal.description, before)
    if _depth(value) > MAX_DEPTH:
        return _too_deep(text)
    try:
        orjson.dumps(value)
    except TypeError:
        told = "A string holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; remove it."
        return text.fault("TEXT_INVALID", told)
    return value


def _too_deep(text: Text) -> Fault:
    return text.fault("JSON_TOO_DEEP", f"Arrays and objects are nested deeper than {MAX_DEPTH}; flatten them.")


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
        raise _Refusal("KEY_REPEATED", f"The key {json.dumps(cut(twice))} stands twice in one object; keep one of them.")
    return value


def _no_constant(token: str) -> NoReturn:
    raise _Refusal("NUMBER_INVALID", f"{token} is no JSON number; write a finite number or null.", token)


def _finite(token: str) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise _Refusal("NUMBER_INVALID", f"{cut(token)} is larger than a number can be; write a smaller one.", token)
    return value


def _int64(token: str) -> int | float:
    """Beyond 64 bits an integer becomes the nearest float, as with orjson (and JavaScript, long before)."""
    value = int(token) if len(token) <= 20 else 1 << 64
    return value if -(1 << 63) <= value < 1 << 64 else _finite(token)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite, parse_int=_int64)
_STRING = r'"(?:[^"\\]|\\.)*"'


def _before(token: str, characters: str) -> str | None:
    found = re.finditer(f"{_STRING}|(?<![\\w.+-]){re.escape(token)}", characters)
    return next((characters[: match.start()] for match in found if match.group() == token), None)
