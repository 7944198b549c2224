"""The spec of an attempt: everything that a worker has to know, as the evaluator wrote it into the object store."""

import json
from dataclasses import dataclass
from typing import Any

from services.common.errors import InvalidInput
from services.common.ports.object_store import Artifact

GENERATE = "GENERATE"
SCORE_LABELS = "SCORE_LABELS"


@dataclass(frozen=True)
class Prompt:
    """One way to ask: GENERATE or SCORE_LABELS, after so many examples."""

    id: str
    method: str
    shots: int
    seed: int


@dataclass(frozen=True)
class Subject:
    """A model and the ids of the prompts that it is asked with; asked for by `public_id`, known by `digest`.

    `base_manifest_key` leads to the tokenizer and the chat template that it uses.
    """

    model: str
    public_id: str
    digest: str
    prompts: tuple[str, ...]
    base_manifest_key: str


@dataclass(frozen=True)
class Spec:
    """What to ask, whom, and where the result goes."""

    evaluation: str
    attempt: int
    train: Artifact
    test: Artifact
    labels: tuple[str, ...]
    max_tokens: int
    prompts: dict[str, Prompt]
    subjects: tuple[Subject, ...]
    result_prefix: str
    manifest_key: str

    @property
    def error_key(self) -> str:
        """Where this attempt says why it gave up."""
        return f"{self.manifest_key.rpartition('/')[0]}/error-{self.attempt}.json"

    @property
    def scored_bases(self) -> list[str]:
        """The manifests of the bases whose tokenizers label scoring needs."""
        return list(dict.fromkeys(s.base_manifest_key for s in self.subjects if self._is_scored(s)))

    @property
    def way_count(self) -> int:
        """Ways of asking, over all subjects; times the items it is the number of questions."""
        return sum(len(subject.prompts) for subject in self.subjects)

    def _is_scored(self, subject: Subject) -> bool:
        return any(self.prompts[prompt].method == SCORE_LABELS for prompt in subject.prompts)

    @classmethod
    def from_json(cls, document: bytes) -> "Spec":
        """Parse. Raises: InvalidInput."""
        try:
            raw = json.loads(document)
            suite = raw["suite"]
            prompts = {p["id"]: Prompt(p["id"], p["method"], int(p["shots"]), int(p["seed"])) for p in suite["prompts"]}
            subjects = tuple(_subject(subject) for subject in raw["subjects"])
            if unknown := {p for s in subjects for p in s.prompts} - set(prompts):
                raise ValueError(f"unknown prompts {sorted(unknown)}")
            return cls(
                evaluation=raw["evaluation"],
                attempt=int(raw["attempt"]),
                train=_artifact(raw["dataset"]["train"]),
                test=_artifact(raw["dataset"]["test"]),
                labels=tuple(suite["labels"]),
                max_tokens=int(suite["max_tokens"]),
                prompts=prompts,
                subjects=subjects,
                result_prefix=raw["result"]["prefix"],
                manifest_key=raw["result"]["manifest_key"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"This is not the spec of an evaluation: {error!r}.", reason="SPEC_INVALID") from error


def _subject(raw: dict[str, Any]) -> Subject:
    return Subject(raw["model"], raw["public_id"], raw["digest"], tuple(raw["prompts"]), raw["base"]["manifest_key"])


def _artifact(raw: dict[str, Any]) -> Artifact:
    return Artifact(raw["key"], int(raw["size_bytes"]), raw["sha256"])
