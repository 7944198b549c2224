"""Which label was taken for which, and how well each one was recognised.

The confusion matrix has one row for each label (the reference) and one column for each label (the answer), with a last
column for answers that name no label: such an answer is wrong for its row and belongs to no other label.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from services.evaluator.bootstrap import Floats
from services.evaluator.scoring.answers import Answer
from services.evaluator.scoring.graded import Graded, Key, ratio

Confusion = tuple[tuple[int, ...], ...]


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


def grade(answers: Sequence[Answer], labels: Sequence[str]) -> Graded:
    """Grade by precision, recall and F1 of each label, their mean (macro) and their mean by occurrence (weighted)."""
    index = {label: place for place, label in enumerate(labels)}
    stats = np.zeros((len(answers), 3, len(labels)))
    for row, answer in enumerate(answers):
        stats[row, 0, index[answer.reference]] = answer.label == answer.reference
        stats[row, 1, index[answer.reference]] = 1
        if answer.label is not None:
            stats[row, 2, index[answer.label]] = 1
    flat = stats.reshape(len(answers), 3 * len(labels))
    return Graded(flat, lambda sums: _scores(sums, labels), ("macro_f1", "weighted_f1"))


def _scores(sums: Floats, labels: Sequence[str]) -> dict[Key, Floats]:
    """Return all scores from counts of hits, references and answers. Shapes: [..., 3L] -> [...] each.

    Source: van Rijsbergen, Information Retrieval (1979), chapter 7; undefined is 0, as scikit-learn's zero_division=0.
    """
    hits, asked, answered = np.split(sums, 3, axis=-1)  # [..., L] each
    shares = asked / np.maximum(asked.sum(axis=-1, keepdims=True), 1)
    scores: dict[Key, Floats] = {}
    for name, score in (
        ("precision", ratio(hits, answered)),
        ("recall", ratio(hits, asked)),
        ("f1", ratio(2 * hits, answered + asked)),
    ):
        for place, label in enumerate(labels):
            scores[name, label] = score[..., place]
        scores[f"macro_{name}", ""] = score.mean(axis=-1)
        scores[f"weighted_{name}", ""] = (score * shares).sum(axis=-1)
    return scores
