"""One model's answers to one prompt, as all criteria of a suite see them; computed once, since every comparison needs it."""

from collections.abc import Sequence
from functools import cached_property

from services.evaluator.scoring import bleu, chrf, classes
from services.evaluator.scoring.answers import Way
from services.evaluator.scoring.criteria import Bleu, Chrf, Classification, Criterion, ExactMatch, Rouge, Unset
from services.evaluator.scoring.graded import Graded


class Measured:
    """A way of asking with `rights`, the metrics by which an answer is right or wrong, and `graded`, all the others."""

    def __init__(self, way: Way, criteria: Sequence[Criterion], labels: Sequence[str]) -> None:
        self.way, self.criteria, self.labels = way, tuple(criteria), tuple(labels)

    @property
    def deciding(self) -> str:
        """The metric that decides: the first criterion's."""
        return self.criteria[0].deciding_metric

    @cached_property
    def rights(self) -> dict[str, tuple[bool, ...]]:
        """By metric, whether each item was answered right."""
        found = {}
        for criterion in self.criteria:
            if isinstance(criterion, Classification):
                found["accuracy"] = tuple(answer.is_right for answer in self.way.answers)
            elif isinstance(criterion, ExactMatch):
                found["exact_match"] = tuple(answer.is_exact for answer in self.way.answers)
        return found

    @cached_property
    def graded(self) -> list[Graded]:
        """What the other criteria see, in their order."""
        return [found for criterion in self.criteria if (found := self._grade(criterion)) is not None]

    def value(self, metric: str) -> float:
        """Return a metric of all items together, 0..1; of right and wrong the share of rights."""
        if metric in self.rights:
            return share(self.rights[metric])
        return next(graded.scores[metric, ""] for graded in self.graded if (metric, "") in graded.scores)

    def _grade(self, criterion: Criterion) -> Graded | None:
        answers = self.way.answers
        match criterion:
            case Classification():
                return classes.grade(answers, self.labels)
            case Bleu():
                return bleu.grade(answers, criterion)
            case Chrf():
                return chrf.grade(answers, criterion)
            case Rouge():
                from services.evaluator.scoring import rouge  # it brings nltk, and seconds with it: only where it is wanted

                return rouge.grade(answers, criterion)
            case ExactMatch() | Unset():
                return None


def share(rights: Sequence[bool]) -> float:
    """Return the share of rights; 0 of nothing."""
    return sum(rights) / len(rights) if rights else 0.0
