"""FineTuningJob: dataset + base model + recipe → a Model. Its fields, states and legal moves."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from services.common.errors import AfinaError, WrongState
from services.common.names import last

KIND = "fineTuningJob"
ATTEMPT_KIND = "attempt"
MAX_ATTEMPTS = 3

MOVES: dict[str, tuple[str, ...]] = {
    "VALIDATING": ("PENDING", "FAILED", "CANCELLING"),
    "PENDING": ("RUNNING", "PROVING", "FAILED", "CANCELLING"),
    "RUNNING": ("PENDING", "PROVING", "FAILED", "CANCELLING"),
    "PROVING": ("SUCCEEDED", "FAILED", "CANCELLING"),
    "CANCELLING": ("CANCELLED",),
    "SUCCEEDED": (),
    "FAILED": (),
    "CANCELLED": (),
}


@dataclass(frozen=True)
class Job:
    """A fine-tuning job as it is stored. Times are ISO 8601 UTC, empty while they have not come."""

    name: str
    base_model: str
    state: str = "VALIDATING"
    training_file: str = ""
    validation_file: str = ""
    dataset: str = ""
    split: Mapping[str, Any] = field(default_factory=dict)
    asked_recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)
    dataset_spec: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0
    is_attempt_over: bool = False
    model: str = ""
    fine_tuned_model: str = ""
    error: Mapping[str, Any] = field(default_factory=dict)
    start_time: str = ""
    prove_time: str = ""
    end_time: str = ""
    trace_id: str = ""

    @property
    def id(self) -> str:
        """The last part of the name."""
        return last(self.name)

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return not MOVES[self.state]

    @property
    def manifest_key(self) -> str:
        """Where its result is committed; one for all attempts, so only one can win."""
        return f"jobs/{self.id}/manifest.json"

    def workload_key(self, attempt: int) -> str:
        """The launcher's key of an attempt."""
        return f"{self.id}-{attempt}"

    def move(self, state: str, **changes: Any) -> "Job":
        """Return the job in another state. Raises: WrongState."""
        if state not in MOVES[self.state]:
            raise WrongState(f"{self.name} is {self.state} and can't become {state}.", metadata={"state": self.state})
        if not MOVES[state]:
            changes["end_time"] = now()
        return replace(self, state=state, **changes)

    def fail(self, error: AfinaError) -> "Job":
        """Return the job as failed, for a reason that people and programs can read."""
        return self.move("FAILED", error=error_document(error))

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Job":
        """Read it from JSON."""
        return cls(**document)


def error_document(error: AfinaError) -> dict[str, Any]:
    """Return an error as it is kept on a resource."""
    return {
        "kind": type(error).__name__,
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
        "violations": [asdict(violation) for violation in error.violations],
        "violation_count": error.violation_count,
    }


def now() -> str:
    """The time, ISO 8601 UTC."""
    return datetime.now(UTC).isoformat()
