"""What an answer says: which label it names, and whether it is the reference word for word."""

import re
from collections.abc import Sequence

FINAL_PUNCTUATION = ".!?…,;:。！？"


def normalise(text: str) -> str:
    """Fold case and space, and drop final punctuation, unless there is nothing else."""
    folded = " ".join(text.casefold().split())
    return folded.rstrip(FINAL_PUNCTUATION + " ") or folded


def is_exact_match(answer: str, reference: str) -> bool:
    """Whether the whole answer equals the reference after folding case, space and final punctuation."""
    return normalise(answer) == normalise(reference)


def label_of(answer: str, labels: Sequence[str]) -> str | None:
    """Return the label that an answer names first, as a whole word in any case; None where it names none.

    Of labels that begin at the same place the longest counts ("very good" before "very").
    """
    folded = " ".join(answer.casefold().split())
    found: list[tuple[int, int, str]] = []
    for label in labels:
        word = " ".join(label.casefold().split())
        if match := re.search(rf"(?<!\w){re.escape(word)}(?!\w)", folded):
            found.append((match.start(), -len(word), label))
    return min(found)[2] if found else None


def label_for(reference: str, labels: Sequence[str]) -> str | None:
    """Return the label that a reference is, after folding; None where it is none of them."""
    wanted = normalise(reference)
    return next((label for label in labels if normalise(label) == wanted), None)
