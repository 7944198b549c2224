"""Answers of models that tests build from strings and texts."""

from collections.abc import Sequence

from services.evaluator.scoring.answers import Answer, Way, judge
from services.evaluator.scoring.criteria import Classification, Criterion, ExactMatch
from services.evaluator.scoring.measured import Measured

LABELS = ("positive", "neutral", "negative")


def way(model: str, prompt: str, rights: str) -> Measured:
    """Answers from a string: R is right, w is wrong."""
    words = ["yes" if right == "R" else "no" for right in rights]
    answers = tuple(Answer(i, "yes", word, word, word == "yes", word == "yes") for i, word in enumerate(words))
    return Measured(Way(model, prompt, answers), (Classification(),), ("yes", "no"))


def written(
    answers: Sequence[str], references: Sequence[str], *criteria: Criterion, labels: Sequence[str] = (), model: str = "m"
) -> Measured:
    """Answers from texts."""
    folded = next((one for one in criteria if isinstance(one, ExactMatch)), ExactMatch())
    judged = [judge(i, r, a, labels, folded) for i, (a, r) in enumerate(zip(answers, references, strict=True))]
    return Measured(Way(model, "p", tuple(judged)), criteria, labels)
