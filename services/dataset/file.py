"""A File: the record of one upload; its raw bytes lie in the object store and are given back unchanged.

It has no states: it exists when the upload is complete. Finalising it notes the Dataset that its bytes make; deleting it
leaves that Dataset, and the bytes, where they are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.common.errors import Violation
from services.common.ports.object_store import Artifact

KIND = "file"
NAME = "projects/{project}/files/{file}"
FINE_TUNE = "fine-tune"
# What services write for people to download: the list of all that is wrong with an upload, a job's metrics.
RESULTS = "fine-tune-results"
MAX_DISPLAY_NAME_CHARACTERS = 255


@dataclass(frozen=True)
class File:
    """One upload: the client's name for it (never a path), why it came, its bytes, and the Dataset made from it, if any.

    With the Dataset stands what else was asked when it was made.
    """

    display_name: str
    purpose: str
    artifact: Artifact
    dataset: str = ""
    asked_format: str = ""
    asked_validation_file: str = ""

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "display_name": self.display_name,
            "purpose": self.purpose,
            "artifact": vars(self.artifact),
            "dataset": self.dataset,
            "asked_format": self.asked_format,
            "asked_validation_file": self.asked_validation_file,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "File":
        """Read it back."""
        return cls(**{**document, "artifact": Artifact(**document["artifact"])})


@dataclass(frozen=True)
class Expected:
    """What a client says that it sends: 0 and "" where it does not say. What comes has to be that, whole and undamaged."""

    size_bytes: int = 0
    sha256: str = ""

    def violations(self, size_bytes: int, sha256: str) -> list[Violation]:
        """Return how what came differs."""
        found = []
        if self.size_bytes and size_bytes != self.size_bytes:
            told = f"{size_bytes:,} bytes came of {self.size_bytes:,}; send it again."
            found.append(Violation("metadata.size_bytes", "SIZE_MISMATCH", told))
        if self.sha256 and sha256 != self.sha256.lower():
            told = f"What came has the SHA-256 {sha256}, not {self.sha256}; send it again."
            found.append(Violation("metadata.sha256", "SHA256_MISMATCH", told))
        return found


ANYTHING = Expected()


def expectation_violations(expected: Expected) -> list[Violation]:
    """Return what no upload can be."""
    violations = []
    if expected.size_bytes < 0:
        told = f"size_bytes is {expected.size_bytes}; write the file's length, or leave it out."
        violations.append(Violation("metadata.size_bytes", "OUT_OF_BOUNDS", told))
    if expected.sha256 and not re.fullmatch("[0-9a-fA-F]{64}", expected.sha256):
        told = f"sha256 is {expected.sha256[:80]!r}; write 64 hex digits, or leave it out."
        violations.append(Violation("metadata.sha256", "SHA256_INVALID", told))
    return violations


def metadata_violations(display_name: str, purpose: str) -> list[Violation]:
    """Return what is wrong with an upload's metadata."""
    violations = []
    if not display_name.strip() or len(display_name) > MAX_DISPLAY_NAME_CHARACTERS:
        told = f"It has {len(display_name)} characters; write 1 to {MAX_DISPLAY_NAME_CHARACTERS}."
        violations.append(Violation("metadata.display_name", "DISPLAY_NAME_INVALID", told))
    elif not display_name.isprintable() or any(c in display_name for c in "/\\") or display_name in (".", ".."):
        told = "It has path or control characters; send the file's name alone."
        violations.append(Violation("metadata.display_name", "DISPLAY_NAME_INVALID", told))
    if purpose not in (FINE_TUNE, RESULTS):
        told = f"{purpose[:40]!r} is not a purpose that files can be uploaded for; send {FINE_TUNE}."
        violations.append(Violation("metadata.purpose", "PURPOSE_UNSUPPORTED", told))
    return violations
