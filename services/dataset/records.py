"""The records of an upload: bytes → JSON texts → chats, one small pure step after the other, and every way one can be wrong.

A step yields what it made or a Fault; nothing is raised and nothing stops at the first mistake, because a person who
mends a file wants to mend it once. Memory does not grow with the file: one record is held at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from services.dataset import shapes
from services.dataset.chats import Chat
from services.dataset.containers import MAX_UNPACKED_BYTES, OBJECTS, Container
from services.dataset.faults import Fault
from services.dataset.json_text import decode


class Record(NamedTuple):
    """One good record: the line where it begins and its chat, normalised."""

    line: int
    chat: Chat


@dataclass
class Records:
    """What an upload holds, read once. `format` is the shape: the one that was named, or the one found so far."""

    stream: BinaryIO
    format: str = ""
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES
    goes_over_lines: bool = False

    def __iter__(self) -> Iterator[Record | Fault]:
        """Yield what each record is: a Record, or every Fault of it."""
        container = Container(self.stream, self.max_unpacked_bytes)
        yield from self._texts(container) if self.format == shapes.PLAIN_TEXT else self._chats(container)
        self.goes_over_lines = container.kind == OBJECTS

    def _chats(self, container: Container) -> Iterator[Record | Fault]:
        for found in container.values():
            if isinstance(found, Fault):
                yield found
                continue
            self.format = self.format or shapes.detect(found.value)
            chat = shapes.read_shape(self.format, found.value)
            if isinstance(chat, Chat):
                yield Record(found.line, chat)
                continue
            for flaw in chat:
                told = f"{flaw.path}: {flaw.description}" if flaw.path else flaw.description
                yield Fault(found.line, flaw.reason, told)

    def _texts(self, container: Container) -> Iterator[Record | Fault]:
        for line in container.lines():
            text = line if isinstance(line, Fault) else decode(line)
            if isinstance(text, Fault):
                yield text
            elif not isinstance(line, Fault):
                yield Record(line.number, shapes.chat_of_text(text))


def read_records(stream: BinaryIO, format: str = "") -> Records:
    """Return what an upload holds, of a named shape, or of the one that is found."""
    return Records(stream, format)
