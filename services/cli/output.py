"""What commands print: tables for people, JSON for programs, from the same messages."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

STATE_STYLES = {
    "SUCCEEDED": "green",
    "ACTIVE": "green",
    "SERVING": "green",
    "FAILED": "red",
    "QUARANTINED": "red",
    "AWAY": "red",
    "WAITING": "yellow",
    "CANCELLED": "yellow",
    "CANCELLING": "yellow",
    "PAUSED": "yellow",
    "PAUSING": "yellow",
}
PIPE_WIDTH = 120
Columns = Mapping[str, Callable[[Any], object]]


def document(message: Message) -> dict[str, Any]:
    """Return a message as JSON with proto's field names: plain fields always, optional ones and messages where set."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            found[field.name] = {str(key): _json(inner, item) for key, item in value.items()}
        elif field.is_repeated:
            found[field.name] = [_json(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _json(field, value)
    return found


def _json(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        return short(field.enum_type.values_by_number[value].name)
    if field.message_type is not None:
        if field.message_type.full_name.startswith("google."):
            return json_format.MessageToDict(value, preserving_proto_field_name=True)
        return document(value)
    return value.hex() if isinstance(value, bytes) else value


ENUM_PREFIXES = (
    "STATE_", "KIND_", "METHOD_", "SCHEDULE_", "LEVEL_", "SERVING_", "CHOICE_", "PART_", "INTERVAL_", "TEST_", "TOKENIZER_",
    "ANSWER_", "FINDING_",
)  # fmt: skip


def short(enum_name: str) -> str:
    """Return an enum value without its prefix: STATE_RUNNING is RUNNING, METHOD_SCORE_LABELS is SCORE_LABELS."""
    for prefix in ENUM_PREFIXES:
        enum_name = enum_name.removeprefix(prefix)
    return enum_name


def print_json(console: Console, value: object) -> None:
    """Print one document, whatever the terminal's width."""
    console.file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(columns: Columns, rows: Sequence[Any], title: str = "") -> Table:
    """Return a table with a column for each name and a row for each thing; numbers are on the right."""
    built = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold dim")
    cells = [[read(row) for read in columns.values()] for row in rows]
    for i, name in enumerate(columns):
        is_number = bool(cells) and all(isinstance(line[i], int | float) for line in cells)
        built.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=i == 0)
    for line in cells:
        built.add_row(*map(cell, line))
    return built


def cell(value: object) -> Text:
    """Return a value as text, never read as markup; states have their colour."""
    if isinstance(value, Text):
        return value
    if isinstance(value, float):
        return Text(f"{value:.4g}")
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(f"{value:,}".replace(",", "\u202f"))
    text = "" if value is None else str(value)
    return Text(text, style=STATE_STYLES.get(text, ""))


def details(pairs: Mapping[str, object]) -> Table:
    """Return one thing as two columns, name and value; what is empty is left out."""
    built = Table(box=None, show_header=False, pad_edge=False)
    built.add_column(style="bold dim")
    built.add_column(overflow="fold")
    for name, value in pairs.items():
        if value not in ("", None, {}, []):
            built.add_row(name, cell(value))
    return built


def size(size_bytes: float) -> str:
    """Return bytes for people: 269 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit in ("B", "kB", "MB") else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def duration(duration_s: float) -> str:
    """Return seconds for people: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(duration_s)
    if whole < 60:
        return f"{duration_s:.1f} s" if duration_s < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def age(timestamp: Any) -> str:
    """Return how long ago a protobuf time was, in its largest unit: 3 min ago; empty where it has not come."""
    if not timestamp.seconds:
        return ""
    passed_s = max(0, int((datetime.now(UTC) - timestamp.ToDatetime(tzinfo=UTC)).total_seconds()))
    for unit, unit_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed_s >= unit_s:
            return f"{passed_s // unit_s} {unit} ago"
    return f"{passed_s} s ago"


def console(file: IO[str]) -> Console:
    """Return a console; what goes into a file or a pipe is not squeezed into eighty columns."""
    width = None if file.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(file=file, width=width, highlight=False, emoji=False)
