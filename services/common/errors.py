"""The errors that Afina raises, sorted by what the caller should do about them.

One tree for the five programs: each class maps to one gRPC code and one HTTP status, in `transport`, so a use case
never knows who called it. Backends turn vendor exceptions into these once, with `raise ... from err`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Violation:
    """One mistake in what was given: where, which rule (UPPER_SNAKE), and how to mend it."""

    field: str
    reason: str
    description: str


class AfinaError(Exception):
    """What went wrong, in one sentence: what, which, then what to do."""

    default_reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[Violation] = (),
        violation_count: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})
        self.violations = list(violations)
        self.violation_count = violation_count if violation_count is not None else len(self.violations)

    def to_document(self) -> dict[str, Any]:
        """Return it as it is kept on a resource that failed."""
        return {
            "kind": type(self).__name__,
            "reason": self.reason,
            "message": self.message,
            "metadata": self.metadata,
            "violations": [asdict(violation) for violation in self.violations],
            "violation_count": self.violation_count,
        }


class InvalidInput(AfinaError):
    """Change what you send; every mistake is in `violations`."""

    default_reason = "INVALID_INPUT"


class NotFound(AfinaError):
    """Nothing has that name."""

    default_reason = "NOT_FOUND"


class ArtifactNotFound(NotFound):
    """The object store has no such key."""

    default_reason = "ARTIFACT_NOT_FOUND"


class AlreadyExists(AfinaError):
    """The name is taken by something else."""

    default_reason = "ALREADY_EXISTS"


class WrongState(AfinaError):
    """Not now: the resource is in a state that does not allow it."""

    default_reason = "WRONG_STATE"


class Conflict(AfinaError):
    """Somebody else changed it first; read again and repeat."""

    default_reason = "CONFLICT"


class OverLimit(AfinaError):
    """Less, or later."""

    default_reason = "OVER_LIMIT"


class Unavailable(AfinaError):
    """Try again after a while."""

    default_reason = "UNAVAILABLE"


class Unauthenticated(AfinaError):
    """Say who you are."""

    default_reason = "UNAUTHENTICATED"


class PermissionDenied(AfinaError):
    """You may not."""

    default_reason = "PERMISSION_DENIED"
