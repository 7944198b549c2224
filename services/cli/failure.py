"""Errors as a person at a terminal reads them, and the exit codes that programs read (listed in the package's page)."""

import json
import sys
from typing import IO, Any

import click

from services.common import errors

EXIT_CODES: dict[type[errors.AfinaError], int] = {
    errors.InvalidInput: 2,
    errors.NotFound: 3,
    errors.Unavailable: 4,
    errors.OverLimit: 4,
    errors.WrongState: 5,
    errors.AlreadyExists: 5,
    errors.Conflict: 5,
    errors.Unauthenticated: 6,
    errors.PermissionDenied: 6,
}


class Failure(click.ClickException):
    """One of Afina's errors on its way out of a command."""

    def __init__(self, error: errors.AfinaError, as_json: bool = False) -> None:
        super().__init__(error.message)
        self.error, self.as_json = error, as_json
        self.exit_code = next(  # type: ignore[misc]
            (EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), 1
        )

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it on standard error."""
        print(as_document(self.error) if self.as_json else as_text(self.error), file=file or sys.stderr)


def is_away(error: errors.AfinaError) -> bool:
    """Whether no program answered at all; otherwise the program itself said "not yet"."""
    return error.reason == "UNREACHABLE"


def as_text(error: errors.AfinaError) -> str:
    """Return one line, and one for each violation."""
    lines = [f"afina: {error.message}"]
    if is_away(error):  # without what the network library has to say about it
        what = error.message.partition(" (")[0]
        lines = [f"afina: {what}. Start the programs with `afina up`; `afina status` says what runs."]
    untold = [violation for violation in error.violations if violation.description not in error.message]
    lines += [f"  {violation.field}: {violation.description}" for violation in untold]
    if error.violation_count > len(error.violations):
        listed = error.metadata.get("mistakes_file", "").rpartition("/")[2]
        advice = f": `afina files content {listed}` lists them" if listed else ""
        lines.append(f"  … {error.violation_count} in all{advice}.")
    return "\n".join(lines)


def as_document(error: errors.AfinaError) -> str:
    """Return the same as JSON, for programs."""
    violations = [{"field": v.field, "reason": v.reason, "description": v.description} for v in error.violations]
    document = {
        "kind": type(error).__name__,
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
        "violations": violations,
        "violation_count": error.violation_count,
    }
    return json.dumps({"error": document})


def from_document(line: str) -> errors.AfinaError | None:
    """Return the error that a line of `as_document` holds; None for any other line."""
    try:
        told = json.loads(line)["error"]
        kind = next((k for k in EXIT_CODES if k.__name__ == told["kind"]), errors.AfinaError)
        violations = [errors.Violation(**violation) for violation in told["violations"]]
        return kind(
            told["message"],
            reason=told["reason"],
            metadata=told["metadata"],
            violations=violations,
            violation_count=told["violation_count"],
        )
    except (ValueError, KeyError, TypeError):
        return None
