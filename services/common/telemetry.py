"""Logs and traces: one JSON line an event on standard error, with a trace id that follows a request across programs.

The trace is W3C's: a `traceparent` is taken from whoever calls, sent to whoever is called (HTTP headers, gRPC metadata,
a workload's environment), kept as its id on every resource that lives longer than the call, and stands in every line. No
spans are kept: the id finds all lines of a request, and whoever runs a tracer in front sees its own id in them.
Source: https://www.w3.org/TR/trace-context/
"""

import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

TRACEPARENT = "traceparent"
TRACERESPONSE = "traceresponse"  # the same, on the way back
TRACEPARENT_VARIABLE = "TRACEPARENT"  # the same, for a workload
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_HEADER = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")

trace_id: ContextVar[str] = ContextVar("trace_id", default="")


def follow(header: str) -> str:
    """Go on in the trace of a `traceparent`, or in a new one where there is none that is well formed; return its id."""
    match = _HEADER.fullmatch(header)
    return resume(match[1] if match and (match[2] is None or not header.startswith("00")) else "")


def resume(id: str) -> str:
    """Go on in the trace that a resource keeps, or in a new one where it keeps none; return its id."""
    trace_id.set(id if _ID.fullmatch(id) else secrets.token_hex(16))
    return trace_id.get()


def traceparent() -> str:
    """Return the present trace for whoever is called next, or nothing outside of one."""
    return f"00-{trace_id.get()}-{secrets.token_hex(8)}-01" if trace_id.get() else ""


def carried(name: str = TRACEPARENT) -> dict[str, str]:
    """Return the present trace as a header, a piece of metadata or a variable; empty outside of one."""
    return {name: traceparent()} if trace_id.get() else {}


class _JsonLines(logging.Formatter):
    def __init__(self, program: str, trace: str) -> None:
        super().__init__()
        self.program, self.trace = program, trace

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "program": self.program,
            "message": record.getMessage(),
        }
        if trace := trace_id.get() or self.trace:
            line["trace_id"] = trace
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(program: str, environ: Mapping[str, str] | None = None) -> None:
    """Send the logs of this process to standard error as JSON lines; LOG_LEVEL says from which level on.

    A workload that was started within a trace goes on in it, in all its threads.
    """
    environ = os.environ if environ is None else environ
    trace = follow(environ[TRACEPARENT_VARIABLE]) if TRACEPARENT_VARIABLE in environ else ""
    level = environ.get("LOG_LEVEL", "").upper()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(program, trace))
    logging.basicConfig(level=level if level in LEVELS else "INFO", handlers=[handler], force=True)


def log(logger: logging.Logger, level: int, message: str, **fields: Any) -> None:
    """Write one line with fields."""
    logger.log(level, message, extra={"fields": fields})
