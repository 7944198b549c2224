"""Logs: one line an event on standard error, with fields, and a trace id that follows a request across programs."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

trace_id: ContextVar[str] = ContextVar("trace_id", default="")
TRACE_KEY = "afina-trace-id"


class _JsonLines(logging.Formatter):
    def __init__(self, program: str) -> None:
        super().__init__()
        self.program = program

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "program": self.program,
            "message": record.getMessage(),
        }
        if trace_id.get():
            line["trace_id"] = trace_id.get()
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(program: str, level: str = "INFO") -> None:
    """Send the logs of this process to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(program))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def log(logger: logging.Logger, level: int, message: str, **fields: Any) -> None:
    """Write one line with fields."""
    logger.log(level, message, extra={"fields": fields})
