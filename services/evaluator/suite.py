"""Suite: what to ask and how to score it. It never changes, and its digest covers the dataset: equal digests, equal tests."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from services.common.errors import Violation
from services.common.names import LOWER_ID
from services.evaluator.scoring.labels import normalise
from services.evaluator.scoring.score import MAJORITY

KIND = "suite"
NAME = "projects/{project}/suites/{suite}"
GENERATE, SCORE_LABELS = "GENERATE", "SCORE_LABELS"
MAX_PROMPTS, MAX_SHOTS, MAX_LABELS, MAX_LABEL_CHARACTERS = 16, 32, 64, 200
DEFAULT_MAX_TOKENS, LARGEST_MAX_TOKENS = 32, 1024


@dataclass(frozen=True)
class Prompt:
    """One way to ask: GENERATE or SCORE_LABELS, after so many examples from the training rows."""

    id: str
    method: str
    shots: int = 0
    seed: int = 0


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
    test: Part
    label_counts: Mapping[str, int]


@dataclass(frozen=True)
class Suite:
    """A suite as it is stored. `dataset_digest`, `train` and `test` are its dataset's, which never changes either."""

    name: str
    dataset: str
    prompts: tuple[Prompt, ...]
    labels: tuple[str, ...] = ()
    max_tokens: int = DEFAULT_MAX_TOKENS
    dataset_digest: str = ""
    train: Part = field(default=Part(0, {}))
    test: Part = field(default=Part(0, {}))

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked and how it is scored, 64 hex digits; the name does not count."""
        content = {
            "dataset_digest": self.dataset_digest,
            "labels": list(self.labels),
            "max_tokens": self.max_tokens,
            "prompts": [asdict(prompt) for prompt in self.prompts],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def over(self, questions: Questions) -> "Suite":
        """Return the suite with what its dataset says filled in."""
        return replace(
            self,
            labels=self.labels or labels_of(questions.label_counts),
            max_tokens=self.max_tokens or DEFAULT_MAX_TOKENS,
            dataset_digest=questions.digest,
            train=questions.train,
            test=questions.test,
        )

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Suite":
        """Read it from JSON."""
        return cls(
            name=document["name"],
            dataset=document["dataset"],
            prompts=tuple(Prompt(**prompt) for prompt in document["prompts"]),
            labels=tuple(document["labels"]),
            max_tokens=document["max_tokens"],
            dataset_digest=document["dataset_digest"],
            train=Part(**document["train"]),
            test=Part(**document["test"]),
        )


def labels_of(label_counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return a dataset's labels in alphabetical order; of several spellings of one, the commonest."""
    chosen: dict[str, str] = {}
    for label in sorted(label_counts, key=lambda one: (-label_counts[one], one)):
        chosen.setdefault(normalise(label), label)
    return tuple(sorted(chosen.values()))


def check(asked: Suite) -> list[Violation]:
    """Return every mistake that shows without the dataset."""
    violations = []
    if not 1 <= len(asked.prompts) <= MAX_PROMPTS:
        violations.append(Violation("suite.prompts", "OUT_OF_RANGE", f"Give 1 to {MAX_PROMPTS} prompts."))
    ids = [prompt.id for prompt in asked.prompts]
    for index, prompt in enumerate(asked.prompts):
        violations += _check_prompt(f"suite.prompts[{index}]", prompt, is_repeated=ids.index(prompt.id) < index)
    if not 0 <= asked.max_tokens <= LARGEST_MAX_TOKENS:
        violations.append(Violation("suite.max_tokens", "OUT_OF_RANGE", f"max_tokens is 0 to {LARGEST_MAX_TOKENS}; 0 means 32."))
    return violations + _check_labels(asked.labels)


def check_over(suite: Suite, label_counts: Mapping[str, int]) -> list[Violation]:
    """Return every mistake of a completed suite that its dataset reveals."""
    violations = []
    if not suite.test.row_count:
        text = "The dataset holds no test rows out, so there is nothing to ask; use one of at least 50 rows."
        violations.append(Violation("suite.dataset", "NO_TEST_ROWS", text))
    known = {normalise(label) for label in suite.labels}
    if missing := [label for label in sorted(label_counts) if normalise(label) not in known]:
        text = f"The dataset's rows are also answered {', '.join(missing)}; add that to labels."
        violations.append(Violation("suite.labels", "LABEL_MISSING", text))
    for index, prompt in enumerate(suite.prompts):
        path = f"suite.prompts[{index}]"
        if prompt.method == SCORE_LABELS and len(suite.labels) < 2:
            text = "Label scoring chooses among labels, and neither suite nor dataset has two; use METHOD_GENERATE."
            violations.append(Violation(f"{path}.method", "LABELS_NEEDED", text))
        if suite.labels and 0 < prompt.shots <= MAX_SHOTS and prompt.shots % len(suite.labels):
            text = f"{prompt.shots} examples do not divide among {len(suite.labels)} labels; choose a multiple."
            violations.append(Violation(f"{path}.shots", "SHOTS_UNEQUAL", text))
    return violations


def _check_prompt(path: str, prompt: Prompt, *, is_repeated: bool) -> list[Violation]:
    violations = []
    if not LOWER_ID.fullmatch(prompt.id) or prompt.id == MAJORITY:
        text = f"An id has 1 to 63 characters of a-z, 0-9 and -, and is not {MAJORITY}."
        violations.append(Violation(f"{path}.id", "MALFORMED", text))
    elif is_repeated:
        violations.append(Violation(f"{path}.id", "REPEATED", f"{prompt.id} stands in the suite twice; rename one."))
    if prompt.method not in (GENERATE, SCORE_LABELS):
        violations.append(Violation(f"{path}.method", "REQUIRED", "Choose METHOD_GENERATE or METHOD_SCORE_LABELS."))
    if not 0 <= prompt.shots <= MAX_SHOTS:
        violations.append(Violation(f"{path}.shots", "OUT_OF_RANGE", f"shots is 0 to {MAX_SHOTS}."))
    return violations


def _check_labels(labels: Sequence[str]) -> list[Violation]:
    violations = []
    if len(labels) == 1 or len(labels) > MAX_LABELS:
        violations.append(Violation("suite.labels", "OUT_OF_RANGE", f"Give 2 to {MAX_LABELS} labels, or none."))
    folded = [normalise(label) for label in labels]
    for index, label in enumerate(labels):
        path = f"suite.labels[{index}]"
        if not label.strip() or len(label) > MAX_LABEL_CHARACTERS:
            violations.append(Violation(path, "MALFORMED", f"A label has 1 to {MAX_LABEL_CHARACTERS} characters."))
        elif folded.index(folded[index]) < index:
            text = f"{label!r} equals another label after folding case, space and final punctuation; drop one."
            violations.append(Violation(path, "REPEATED", text))
    return violations
