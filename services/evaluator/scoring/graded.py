"""A criterion's view of a model's answers: numbers of each item whose sums are enough for the score of any set of items.

That is what lets a score be resampled by a matrix product, and two models be compared on the same resamples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from services.evaluator.bootstrap import Floats, resampled_sums

Key = tuple[str, str]  # a metric's name and the label that it is about, "" for all together
Scores = Mapping[Key, Floats]


@dataclass(frozen=True)
class Graded:
    """One criterion over the items of one model's answers. Shapes: `stats` [N, S]; `scores_of` [..., S] -> [...] each, 0..1.

    `compared` are the metrics in which models are compared; `items` has each item's own score, [N], where it has one.
    """

    stats: Floats
    scores_of: Callable[[Floats], Scores]
    compared: tuple[str, ...]
    items: Mapping[str, Floats] = field(default_factory=dict)

    @cached_property
    def scores(self) -> dict[Key, float]:
        """The scores of all items together."""
        return {key: float(value) for key, value in self.scores_of(self.stats.sum(axis=0)).items()}

    @cached_property
    def resampled(self) -> Scores:
        """The scores of each resample. Shapes: [R] each."""
        return self.scores_of(resampled_sums(self.stats))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide; 0 where there is nothing to divide by."""
    return np.divide(numerator, denominator, out=np.zeros(np.broadcast(numerator, denominator).shape), where=denominator > 0)
