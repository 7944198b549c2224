"""Suite: what to ask and how to score it. It never changes, and its digest covers the dataset: equal digests, equal tests."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from services.evaluator.scoring import criteria
from services.evaluator.scoring.criteria import Classification, Criterion, ExactMatch
from services.evaluator.scoring.exact import fold

KIND = "suite"
NAME = "projects/{project}/suites/{suite}"
GENERATE, SCORE_LABELS = "GENERATE", "SCORE_LABELS"
TEST, VALIDATION = "TEST", "VALIDATION"
DEFAULT_MAX_TOKENS = 32
MIN_CHOOSING_ROWS = 30  # fewer choose by chance: an accuracy of 30 rows is known to 18 points


@dataclass(frozen=True)
class Prompt:
    """One way to ask: GENERATE or SCORE_LABELS, after so many examples from the training rows, in the row's words or others."""

    id: str
    method: str
    shots: int = 0
    seed: int = 0
    instruction: str = ""
    template: str = ""


@dataclass(frozen=True)
class Part:
    """One side of a dataset: how many rows, and where their bytes are (empty where there are none)."""

    row_count: int
    artifact: Mapping[str, Any]


@dataclass(frozen=True)
class Questions:
    """What a suite has to know of its dataset."""

    digest: str
    train: Part
    validation: Part
    test: Part
    label_counts: Mapping[str, int]


@dataclass(frozen=True)
class Suite:
    """A suite as it is stored. `dataset_digest` and the three parts are its dataset's, which never changes either."""

    name: str
    dataset: str
    prompts: tuple[Prompt, ...]
    labels: tuple[str, ...] = ()
    max_tokens: int = DEFAULT_MAX_TOKENS
    criteria: tuple[Criterion, ...] = ()
    part: str = TEST
    max_items: int = 0  # of each part that is asked; 0 means all
    dataset_digest: str = ""
    train: Part = field(default=Part(0, {}))
    validation: Part = field(default=Part(0, {}))
    test: Part = field(default=Part(0, {}))

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked and how it is scored, 64 hex digits; the name does not count."""
        content = {
            "dataset_digest": self.dataset_digest,
            "part": self.part,
            "criteria": [criteria.to_document(criterion) for criterion in self.criteria],
            "labels": list(self.labels),
            "max_tokens": self.max_tokens,
            "prompts": [asdict(prompt) for prompt in self.prompts],
            **({"max_items": self.max_items} if self.max_items else {}),  # suites from before keep their digests
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def asked(self) -> Part:
        """The rows that decide."""
        return self.validation if self.part == VALIDATION else self.test

    @property
    def choosing(self) -> Part:
        """The rows that choose each model's prompt; none where they are asked themselves, or are too few to tell."""
        is_telling = self.part == TEST and self.validation.row_count >= MIN_CHOOSING_ROWS
        return self.validation if is_telling else Part(0, {})

    @property
    def deciding_metric(self) -> str:
        """The metric by which prompts are chosen and models compared."""
        return self.criteria[0].deciding_metric

    @property
    def is_classification(self) -> bool:
        """Whether answers are labels."""
        return any(isinstance(criterion, Classification) for criterion in self.criteria)

    def has_choice(self, prompt_count: int) -> bool:
        """Whether a model asked so many ways, and with labels the constant answer beside them, is asked the rows that choose."""
        return bool(self.choosing.row_count) and prompt_count + bool(self.labels) > 1

    def question_count(self, prompt_count: int) -> int:
        """Return how many questions a model is asked in so many ways."""
        rows = self.item_count(self.asked) + (self.item_count(self.choosing) if self.has_choice(prompt_count) else 0)
        return prompt_count * rows

    def item_count(self, part: Part) -> int:
        """Return how many rows of a part are asked."""
        return min(part.row_count, self.max_items or part.row_count)

    def over(self, questions: Questions) -> "Suite":
        """Return the suite with what its dataset says filled in."""
        wanted = self.criteria or _default_criteria(self, questions)
        known = replace(self, criteria=wanted)
        return replace(
            known,
            labels=self.labels or (labels_of(questions.label_counts) if known.is_classification else ()),
            max_tokens=self.max_tokens or DEFAULT_MAX_TOKENS,
            dataset_digest=questions.digest,
            train=questions.train,
            validation=questions.validation,
            test=questions.test,
        )

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "criteria": [criteria.to_document(criterion) for criterion in self.criteria]}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Suite":
        """Read it from JSON; one from before there were criteria has those that it was scored by."""
        labels = tuple(document["labels"])
        before = [{"kind": "classification"}] if labels else []
        wanted = document.get("criteria", [*before, {"kind": "exact_match"}])
        return cls(
            name=document["name"],
            dataset=document["dataset"],
            prompts=tuple(Prompt(**prompt) for prompt in document["prompts"]),
            labels=labels,
            max_tokens=document["max_tokens"],
            criteria=tuple(criteria.from_document(criterion) for criterion in wanted),
            part=document.get("part", TEST),
            max_items=document.get("max_items", 0),
            dataset_digest=document["dataset_digest"],
            train=Part(**document["train"]),
            validation=Part(**document.get("validation", {"row_count": 0, "artifact": {}})),
            test=Part(**document["test"]),
        )


def labels_of(label_counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return a dataset's labels in alphabetical order; of several spellings of one, the commonest."""
    chosen: dict[str, str] = {}
    for label in sorted(label_counts, key=lambda one: (-label_counts[one], one)):
        chosen.setdefault(fold(label), label)
    return tuple(sorted(chosen.values()))


def _default_criteria(asked: Suite, questions: Questions) -> tuple[Criterion, ...]:
    return (Classification(), ExactMatch()) if asked.labels or questions.label_counts else (ExactMatch(),)
