"""What an answer says: which label it names."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from services.evaluator.scoring.exact import fold


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
    wanted = fold(reference)
    return next((label for label in labels if fold(label) == wanted), None)


def by_frequency(references: Iterable[str], labels: Sequence[str]) -> list[str]:
    """Return labels, the commonest of the training answers first; of equals, in their order. Other answers do not count."""
    counts = Counter(label_for(reference, labels) for reference in references)
    return sorted(labels, key=lambda label: -counts[label])
