"""chrF of the whole corpus, as sacrebleu computes it, over 100; with words it is chrF++."""

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import CHRF

from services.evaluator.bootstrap import Floats
from services.evaluator.scoring.answers import Answer
from services.evaluator.scoring.criteria import Chrf
from services.evaluator.scoring.graded import Graded, Key, ratio

BETA = 2.0
WORD_ORDER = 2  # of chrF++


def grade(answers: Sequence[Answer], criterion: Chrf) -> Graded:
    """Grade by chrF."""
    metric = CHRF(word_order=WORD_ORDER if criterion.words else 0, lowercase=criterion.lowercase)
    said, meant = [answer.answer for answer in answers], [answer.reference for answer in answers]
    # There is no public way to the counts of each item; the version is pinned.
    stats = np.array(metric._extract_corpus_statistics(said, [meant]), dtype=np.float64).reshape(-1, 3 * metric.order)
    return Graded(stats, _scores, ("chrf",), {"chrf": chrf(stats)})


def chrf(sums: Floats) -> Floats:
    """Return chrF of summed counts: n-grams of answers, of references, in common, for each order. Shapes: [..., 3K] -> [...].

    Orders that either side is too short for are left out of the mean, as in sacrebleu.
    Source: Popović (2015), WMT; Popović (2017), WMT.
    """
    said, meant, hits = (sums[..., column::3] for column in range(3))  # [..., K] each
    is_counted = (said > 0) & (meant > 0)
    orders = np.maximum(is_counted.sum(axis=-1), 1)
    precision = np.where(is_counted, ratio(hits, said), 0.0).sum(axis=-1) / orders
    recall = np.where(is_counted, ratio(hits, meant), 0.0).sum(axis=-1) / orders
    return ratio((1 + BETA**2) * precision * recall, BETA**2 * precision + recall)


def _scores(sums: Floats) -> dict[Key, Floats]:
    return {("chrf", ""): chrf(sums)}
