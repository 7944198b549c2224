"""A Fault: one mistake of an upload, told with its line, the column where JSON broke, the rule, and how to mend it."""

from dataclasses import dataclass

import orjson

from services.common.errors import Violation


@dataclass(frozen=True)
class Fault:
    """One mistake: the line (from 1; 0 is the file as a whole), the rule, how to mend it, and the character where JSON broke.

    `source` is empty for the training file and `validation_file` for that one.
    """

    line: int
    reason: str
    description: str
    column: int | None = None
    source: str = ""

    def to_violation(self) -> Violation:
        """Return it as callers see it."""
        where = f"column {self.column}: " if self.column else ""
        line = f"line {self.line}" if self.line else ("" if self.source else "file")
        return Violation(f"{self.source} {line}".strip(), self.reason, where + self.description)

    def to_json(self) -> bytes:
        """Return it as one line of the list that can be downloaded."""
        place = {"line": self.line, "column": self.column}
        source = {"source": self.source} if self.source else {}
        told = {**source, **place, "reason": self.reason, "description": self.description}
        return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)


def cut(text: str) -> str:
    """Return a text short enough to be quoted in a description."""
    return text if len(text) <= 40 else text[:39] + "…"
