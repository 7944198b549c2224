"""Which label was taken for which, and how well each one was recognised.

The confusion matrix has one row for each label (the reference) and one column for each label (the answer), with a last
column for answers that name no label: such an answer is wrong for its row and belongs to no other label.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Confusion = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ClassScore:
    """How well one label was recognised; precision, recall and F1 are 0 where they are not defined. 0..1."""

    label: str
    precision: float
    recall: float
    f1: float
    item_count: int


def confusion_of(pairs: Iterable[tuple[str, str | None]], labels: Sequence[str]) -> Confusion:
    """Count (reference, label answered). Shapes: -> [L, L + 1]. Raises: ValueError (a reference that is no label)."""
    columns = {label: column for column, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for reference, answered in pairs:
        if reference not in columns:
            raise ValueError(f"{reference!r} is no label")
        column = len(labels) if answered is None else columns[answered]
        counts[columns[reference]][column] += 1
    return tuple(tuple(row) for row in counts)


def class_scores(confusion: Confusion, labels: Sequence[str]) -> list[ClassScore]:
    """Return precision, recall and F1 of each label. Shapes: [L, L + 1] -> L.

    Source: van Rijsbergen, Information Retrieval (1979), chapter 7; undefined is 0, as scikit-learn's zero_division=0.
    """
    scores = []
    for index, label in enumerate(labels):
        hits = confusion[index][index]
        asked = sum(confusion[index])
        answered = sum(row[index] for row in confusion)
        precision = hits / answered if answered else 0.0
        recall = hits / asked if asked else 0.0
        f1 = 2 * hits / (answered + asked) if answered + asked else 0.0
        scores.append(ClassScore(label, precision, recall, f1, asked))
    return scores


def macro_f1(confusion: Confusion, labels: Sequence[str]) -> float:
    """Return the unweighted mean of the labels' F1; 0 without labels."""
    scores = class_scores(confusion, labels)
    return sum(score.f1 for score in scores) / len(scores) if scores else 0.0
