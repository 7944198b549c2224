"""By which of its prompts a model is judged, so that no row that chooses decides.

With validation rows each model is asked its best way of those, and a champion is defended by the constant answer too
where that is better there. Without (enough of) them nothing is chosen: a candidate is judged by its first prompt, and has to be
better than every way of asking the champion. Then every such comparison is told, the least clear one first, and a gate
holds each of them against its rule.
"""

from collections.abc import Mapping, Sequence

from services.evaluator.scoring.answers import MAJORITY
from services.evaluator.scoring.comparison import Comparison, compare, wins_and_losses
from services.evaluator.scoring.measured import Measured
from services.evaluator.scoring.score import Score, score
from services.evaluator.statistics import sign_test_p_value

Asked = tuple[str, str]  # a model and a prompt's id; the constant answer has no model
CONSTANT: Asked = ("", MAJORITY)


class Judged:
    """All ways of an evaluation: `asked` on the rows that decide, `chosen_on` on the rows that choose, where there are some."""

    def __init__(self, asked: Mapping[Asked, Measured], chosen_on: Mapping[Asked, Measured]) -> None:
        self._asked, self._chosen_on = asked, chosen_on
        self.models = list(dict.fromkeys(model for model, _ in asked if model))

    def scores(self) -> list[Score]:
        """Return the score of every way."""
        chosen = {self._candidate(model) for model in self.models}
        return [score(way, self._chosen_on.get(key), is_chosen=key in chosen) for key, way in self._asked.items()]

    def comparisons(self) -> list[Comparison]:
        """Compare every ordered pair of models: once where rows chose, else over each way of asking the champion."""
        pairs = [(champion, one) for champion in self.models for one in self.models if champion != one]
        return [comparison for champion, one in pairs for comparison in self._compare(champion, one)]

    def _compare(self, champion: str, candidate: str) -> list[Comparison]:
        mine = self._asked[self._candidate(candidate)]
        ways = self._ways(champion, with_constant=True)
        if self._chosen_on:
            return [compare(self._asked[self._best(ways)], mine, champion)]
        return [compare(way, mine, champion) for way in _least_clear_first([self._asked[way] for way in ways], mine)]

    def _candidate(self, model: str) -> Asked:
        """Return the way by which a model is judged: the best on the rows that choose, or else the first."""
        return self._best(self._ways(model))

    def _best(self, ways: Sequence[Asked]) -> Asked:
        """Return the best of ways on the rows that choose; of equals, and where there are no such rows, the first."""
        if len(ways) == 1 or not self._chosen_on:
            return ways[0]
        return max(ways, key=lambda way: self._chosen_on[way].value(self._chosen_on[way].deciding))

    def _ways(self, model: str, *, with_constant: bool = False) -> list[Asked]:
        return [way for way in self._asked if way[0] == model or (with_constant and way == CONSTANT)]


def _least_clear_first(champions: Sequence[Measured], candidate: Measured) -> list[Measured]:
    """Order ways by how clearly the candidate is better, least first: by the one-sided p-value; of equals, most lost first.

    To be better than each of several, each test at its own level, is a test at that level. That speaks of significance
    alone: a way that is beaten surely may be the one that is beaten by the least, so none is left out.
    Source: Berger (1982), Technometrics 24:295-300 (intersection-union tests).
    """

    def clearness(way: Measured) -> tuple[float, int]:
        wins, losses = wins_and_losses(way, candidate)
        return sign_test_p_value(wins, losses), losses - wins

    return sorted(champions, key=clearness, reverse=True)
