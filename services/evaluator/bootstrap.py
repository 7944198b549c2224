"""How sure a score is that has no closed form: BLEU, F1 or chrF of all items together, resampled.

A score of many items is computed from sums over them, so a resample is a sum with how often each item was drawn as its
weight: one matrix product for all resamples. The draw depends on the number of items and the seed alone. So two models
on the same items are resampled alike, which is what makes the test a paired one, and a result is the same every time.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 0
CELLS = 1 << 22  # of the matrix of weights in memory at a time: 32 MiB


def resampled_sums(stats: Floats, *, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Sum the items' statistics over resamples of the items, drawn with replacement. Shapes: [N, S] -> [R, S].

    Source: Efron (1979), Annals of Statistics 7:1-26; for corpus scores Koehn (2004), EMNLP.
    """
    draw = np.random.default_rng(seed)
    items = len(stats)
    if items == 0:
        return np.zeros((resamples, stats.shape[1]))
    rows = max(1, CELLS // items)
    sums = []
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = draw.integers(items, size=(count, items)) + items * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * items).reshape(count, items)  # [R, N]
        sums.append(weights.astype(np.float64) @ stats)
    return np.concatenate(sums)


def percentile_interval(resampled: Floats, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval between two percentiles of resampled scores. Shapes: [R].

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_p_value(difference: float, resampled: Floats) -> float:
    """Return the two-sided p-value that there is no difference, from resampled differences. Shapes: scalar, [R].

    Resamples scatter around what was seen as they would around 0 if there were no difference; it counts how often they
    stray at least as far from it as it is from 0. Never 0: what was seen counts as one more resample.
    Source: Efron and Tibshirani (1993), chapter 16; Davison and Hinkley (1997), Bootstrap Methods, section 4.4.
    """
    far: npt.NDArray[Any] = np.abs(resampled - difference) >= abs(difference)
    return float((1 + np.count_nonzero(far)) / (1 + len(resampled)))
