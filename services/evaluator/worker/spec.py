"""The spec of an attempt: everything that a worker has to know, as the evaluator wrote it into the object store."""

from dataclasses import dataclass
from typing import Any

from services.common.errors import InvalidInput
from services.common.ports.manifest import unsealed
from services.common.ports.object_store import Artifact
from services.evaluator.scoring import criteria
from services.evaluator.scoring.criteria import Criterion

GENERATE = "GENERATE"
SCORE_LABELS = "SCORE_LABELS"


@dataclass(frozen=True)
class Prompt:
    """One way to ask: GENERATE or SCORE_LABELS, after so many examples, in the row's words or others."""

    id: str
    method: str
    shots: int = 0
    seed: int = 0
    instruction: str = ""
    template: str = ""


@dataclass(frozen=True)
class Base:
    """Whose tokenizer is used, with the chat template that the catalogue declares; empty means the tokenizer's own."""

    manifest_key: str
    chat_template: str = ""


@dataclass(frozen=True)
class Subject:
    """A model and the ids of the prompts that it is asked with; asked for by `public_id`, known by `digest`.

    `base` has the tokenizer and the chat template that it uses; `has_choice` says that it is also asked the rows that choose
    its prompt.
    """

    model: str
    public_id: str
    digest: str
    prompts: tuple[str, ...]
    base: Base
    has_choice: bool = False


@dataclass(frozen=True)
class Spec:
    """What to ask, whom, and where the result goes.

    `train`, `asked` and `choosing` are the rows that give examples, decide, and choose; None where there are none. `part` is
    what the dataset calls those that decide: test or validation. Of each at most `max_items` rows are asked; 0 means all.
    """

    evaluation: str
    attempt: int
    part: str
    train: Artifact | None
    asked: Artifact
    choosing: Artifact | None
    criteria: tuple[Criterion, ...]
    labels: tuple[str, ...]
    max_tokens: int
    prompts: dict[str, Prompt]
    subjects: tuple[Subject, ...]
    result_prefix: str
    manifest_key: str
    max_items: int = 0

    @property
    def error_key(self) -> str:
        """Where this attempt says why it gave up."""
        return f"{self.manifest_key.rpartition('/')[0]}/error-{self.attempt}.json"

    @property
    def scored_bases(self) -> list[Base]:
        """The bases whose tokenizers label scoring needs."""
        return list(dict.fromkeys(s.base for s in self.subjects if self._is_scored(s)))

    @property
    def needs_training_rows(self) -> bool:
        """Whether training rows are looked at: for examples, or for which label is the commonest."""
        return bool(self.labels) or any(self.prompts[prompt].shots for subject in self.subjects for prompt in subject.prompts)

    def question_count(self, asked: int, choosing: int) -> int:
        """Return the number of questions, for so many rows that decide and rows that choose."""
        return sum(len(s.prompts) * (asked + (choosing if s.has_choice else 0)) for s in self.subjects)

    def _is_scored(self, subject: Subject) -> bool:
        return any(self.prompts[prompt].method == SCORE_LABELS for prompt in subject.prompts)

    @classmethod
    def from_json(cls, document: bytes) -> "Spec":
        """Parse. Raises: InvalidInput."""
        try:
            raw = unsealed(document)
            suite = raw["suite"]
            prompts = {prompt["id"]: Prompt(**prompt) for prompt in suite["prompts"]}
            subjects = tuple(_subject(subject) for subject in raw["subjects"])
            if unknown := {p for s in subjects for p in s.prompts} - set(prompts):
                raise ValueError(f"unknown prompts {sorted(unknown)}")
            return cls(
                evaluation=raw["evaluation"],
                attempt=int(raw["attempt"]),
                part=suite["part"],
                train=_optional(raw["dataset"]["train"]),
                asked=_artifact(raw["dataset"]["asked"]),
                choosing=_optional(raw["dataset"]["choosing"]),
                criteria=tuple(criteria.from_document(criterion) for criterion in suite["criteria"]),
                labels=tuple(suite["labels"]),
                max_tokens=int(suite["max_tokens"]),
                prompts=prompts,
                subjects=subjects,
                result_prefix=raw["result"]["prefix"],
                manifest_key=raw["result"]["manifest_key"],
                max_items=int(suite.get("max_items", 0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"This is not the spec of an evaluation: {error!r}.", reason="SPEC_INVALID") from error


def _subject(raw: dict[str, Any]) -> Subject:
    base = Base(raw["base"]["manifest_key"], raw["base"].get("chat_template", ""))
    return Subject(raw["model"], raw["public_id"], raw["digest"], tuple(raw["prompts"]), base, raw["has_choice"])


def _optional(raw: dict[str, Any]) -> Artifact | None:
    return _artifact(raw) if raw else None


def _artifact(raw: dict[str, Any]) -> Artifact:
    return Artifact(raw["key"], int(raw["size_bytes"]), raw["sha256"])
