"""BLEU of the whole corpus, as sacrebleu computes it, over 100.

sacrebleu counts n-grams; what it makes of the counts is written again here over arrays, for thousands of resamples at
once. A test holds it to sacrebleu's own scores.
"""

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU

from services.evaluator.bootstrap import Floats
from services.evaluator.scoring.answers import Answer
from services.evaluator.scoring.criteria import Bleu
from services.evaluator.scoring.graded import Graded, Key

ORDER = 4


def grade(answers: Sequence[Answer], criterion: Bleu) -> Graded:
    """Grade by BLEU; an item's own score counts only the orders that it is long enough for."""
    metric = BLEU(tokenize=criterion.tokenizer, lowercase=criterion.lowercase)
    said, meant = [answer.answer for answer in answers], [answer.reference for answer in answers]
    # There is no public way to the counts of each item; the version is pinned.
    stats = np.array(metric._extract_corpus_statistics(said, [meant]), dtype=np.float64).reshape(-1, 2 + 2 * ORDER)
    return Graded(stats, _scores, ("bleu",), {"bleu": bleu(stats, effective_order=True)})


def bleu(sums: Floats, *, effective_order: bool = False) -> Floats:
    """Return BLEU of summed counts: lengths of answers and references, n-grams in common, n-grams. Shapes: [..., 10] -> [...].

    Source: Papineni et al. (2002), ACL; smoothing method 3 of Chen and Cherry (2014), WMT; both as in sacrebleu.
    """
    said, meant = sums[..., 0], sums[..., 1]
    hits, total = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]  # [..., 4]
    is_counted = total > 0
    halvings = np.cumsum((hits == 0) & is_counted, axis=-1)  # the n-th order without a hit counts as 1/2^n hits
    precision = np.where(hits > 0, hits, 0.5**halvings) / np.maximum(total, 1)
    logs = np.where(is_counted, np.log(precision), 0.0 if effective_order else -np.inf)
    orders = np.maximum(is_counted.sum(axis=-1), 1) if effective_order else ORDER
    brevity = np.minimum(1.0, np.exp(1 - meant / np.maximum(said, 1)))
    score: Floats = np.where(hits.any(axis=-1), brevity * np.exp(logs.sum(axis=-1) / orders), 0.0)
    return score


def _scores(sums: Floats) -> dict[Key, Floats]:
    return {("bleu", ""): bleu(sums)}
