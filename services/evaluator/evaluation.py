"""Evaluation: one suite run on one or more models. Its fields, states and legal moves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from services.common.errors import AfinaError, Violation, WrongState
from services.common.names import last

KIND = "evaluation"
NAME = "projects/{project}/evaluations/{evaluation}"
MAX_CRASHES = 3  # attempts that ended without a result and were not asked to; those that were are not counted
MAX_SUBJECTS = 16

MOVES: dict[str, tuple[str, ...]] = {
    "PENDING": ("RUNNING", "SUCCEEDED", "FAILED", "CANCELLING"),
    "RUNNING": ("PENDING", "SUCCEEDED", "FAILED", "CANCELLING"),
    "CANCELLING": ("CANCELLED",),
    "SUCCEEDED": (),
    "FAILED": (),
    "CANCELLED": (),
}


@dataclass(frozen=True)
class Subject:
    """A model as it was when the evaluation was created, and the prompts that it is asked with.

    `base` is the manifest_key and digest of the base whose tokenizer and template it uses: its own, for a base; with the
    chat_template that the catalogue declares for it, empty where its own files have one.
    """

    model: str
    prompts: tuple[str, ...]
    digest: str = ""
    public_id: str = ""
    base: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Subject":
        """Read it from JSON."""
        return cls(**{**document, "prompts": tuple(document["prompts"])})


@dataclass(frozen=True)
class Evaluation:
    """An evaluation as it is stored. Times are ISO 8601 UTC, empty while they have not come.

    `attempt` is the newest one that was launched, `given_up` the newest one that ended without a result.
    """

    name: str
    suite: str
    suite_digest: str
    subjects: tuple[Subject, ...]
    labels: tuple[str, ...] = ()
    question_count: int = 0
    state: str = "PENDING"
    attempt: int = 0
    given_up: int = 0
    crash_count: int = 0
    scores: Sequence[Mapping[str, Any]] = ()
    comparisons: Sequence[Mapping[str, Any]] = ()
    answers: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=dict)
    start_time: str = ""
    end_time: str = ""
    trace_id: str = ""
    deciding_metric: str = ""
    choice: str = "UNSPECIFIED"
    held_out: Sequence[Mapping[str, Any]] = ()  # one for each subject, once it runs; see held_out.HeldOut

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
        return f"evaluations/{self.id}/manifest.json"

    @property
    def kept_prefix(self) -> str:
        """Under which its attempts keep what was answered, until it ends."""
        return f"evaluations/{self.id}/kept/"

    def spec_key(self, attempt: int) -> str:
        """Where an attempt's spec is."""
        return f"evaluations/{self.id}/spec-{attempt}.json"

    def error_key(self, attempt: int) -> str:
        """Where an attempt says why it gave up."""
        return f"evaluations/{self.id}/error-{attempt}.json"

    def workload_key(self, attempt: int) -> str:
        """The launcher's key of an attempt."""
        return f"{self.id}-{attempt}"

    def move(self, state: str, **changes: Any) -> "Evaluation":
        """Return the evaluation in another state. Raises: WrongState."""
        if state not in MOVES[self.state]:
            raise WrongState(f"{self.name} is {self.state} and can't become {state}.", metadata={"state": self.state})
        return replace(self, state=state, **changes)

    def fail(self, error: AfinaError) -> "Evaluation":
        """Return the evaluation as failed, for a reason that people and programs can read."""
        return self.move("FAILED", error=error.to_document())

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Evaluation":
        """Read it from JSON."""
        subjects = tuple(Subject.from_document(subject) for subject in document["subjects"])
        return cls(**{**document, "subjects": subjects, "labels": tuple(document["labels"])})


def check_subjects(subjects: Sequence[Subject], prompts: Sequence[str]) -> list[Violation]:
    """Return every mistake in who is asked, and with which of a suite's prompts."""
    violations = []
    if not 1 <= len(subjects) <= MAX_SUBJECTS:
        violations.append(Violation("evaluation.subjects", "OUT_OF_RANGE", f"Give 1 to {MAX_SUBJECTS} subjects."))
    models = [subject.model for subject in subjects]
    for index, subject in enumerate(subjects):
        path = f"evaluation.subjects[{index}]"
        if not subject.model:
            violations.append(Violation(f"{path}.model", "REQUIRED", "Name a model: models/… or projects/…/models/…."))
        elif models.index(subject.model) < index:
            violations.append(Violation(f"{path}.model", "REPEATED", f"{subject.model} is a subject already; drop one."))
        if unknown := [prompt for prompt in subject.prompts if prompt not in prompts]:
            text = f"The suite has no prompt {', '.join(unknown)}; it has {', '.join(prompts)}."
            violations.append(Violation(f"{path}.prompts", "UNKNOWN_PROMPT", text))
        if len(set(subject.prompts)) < len(subject.prompts):
            violations.append(Violation(f"{path}.prompts", "REPEATED", "A prompt stands there twice; drop one."))
    return violations
