"""A Dataset: an immutable, validated version of records with its split, named by the digest of records, seed and fractions.

It has no states: it exists when it is complete, and never changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.common.errors import InvalidInput, Violation
from services.common.ports.object_store import Artifact
from services.dataset.shapes import OPENAI_CHAT

KIND = "dataset"
NAME = "projects/{project}/datasets/{dataset}"
DIGEST_CHARACTERS_IN_NAME = 24


@dataclass(frozen=True)
class Split:
    """How records are divided: three fractions that sum to 1, and the seed of the division."""

    train_fraction: float = 0.8
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0

    def check(self) -> None:
        """Refuse what can't be a division. Raises: InvalidInput with every mistake."""
        fractions = {
            "split.train_fraction": self.train_fraction,
            "split.validation_fraction": self.validation_fraction,
            "split.test_fraction": self.test_fraction,
        }
        violations = [
            Violation(field, "FRACTION_OUT_OF_RANGE", f"{value} is no share; write 0 to 1.")
            for field, value in fractions.items()
            if not 0 <= value <= 1
        ]
        total = sum(fractions.values())
        if not violations and abs(total - 1) > 1e-6:
            violations.append(Violation("split", "FRACTIONS_DO_NOT_SUM_TO_1", f"The fractions sum to {total:g}; make it 1."))
        if not violations and not self.train_fraction:
            violations.append(Violation("split.train_fraction", "NOTHING_TO_TRAIN", "No row would train; give it a share."))
        if violations:
            raise InvalidInput("The split is not a division of the rows.", reason="SPLIT_INVALID", violations=violations)

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "train_fraction": self.train_fraction,
            "validation_fraction": self.validation_fraction,
            "test_fraction": self.test_fraction,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class DatasetPart:
    """One side of a split; no artifact where it has no rows."""

    row_count: int
    artifact: Artifact | None

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"row_count": self.row_count, "artifact": vars(self.artifact) if self.artifact else None}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "DatasetPart":
        """Read it back."""
        artifact = document["artifact"]
        return cls(document["row_count"], Artifact(**artifact) if artifact else None)


@dataclass(frozen=True)
class Dataset:
    """One version of records. `warnings` says what deserves a look though the data were accepted."""

    digest: str
    split: Split
    train: DatasetPart
    validation: DatasetPart
    test: DatasetPart
    label_counts: Mapping[str, int]
    warnings: tuple[Violation, ...]
    format: str = OPENAI_CHAT

    @property
    def row_count(self) -> int:
        """Rows in all parts."""
        return self.train.row_count + self.validation.row_count + self.test.row_count

    def name_in(self, project: str) -> str:
        """Return the resource name: the digest's first characters, so the same data have the same name in a project."""
        return f"projects/{project}/datasets/ds-{self.digest[:DIGEST_CHARACTERS_IN_NAME]}"

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "digest": self.digest,
            "split": self.split.to_document(),
            "train": self.train.to_document(),
            "validation": self.validation.to_document(),
            "test": self.test.to_document(),
            "label_counts": dict(self.label_counts),
            "warnings": [vars(warning) for warning in self.warnings],
            "format": self.format,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Dataset":
        """Read it back."""
        return cls(
            digest=document["digest"],
            split=Split(**document["split"]),
            train=DatasetPart.from_document(document["train"]),
            validation=DatasetPart.from_document(document["validation"]),
            test=DatasetPart.from_document(document["test"]),
            label_counts=document["label_counts"],
            warnings=tuple(Violation(**warning) for warning in document["warnings"]),
            format=document["format"],
        )
