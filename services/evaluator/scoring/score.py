"""A model's result in one value, and two models on the same items in another.

A champion is defended by the strongest way to ask it, the constant answer among them; a candidate is judged by one way
that was named beforehand, so nobody picks the best of many on the rows that measure it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.evaluator.scoring.classes import confusion_of, macro_f1
from services.evaluator.scoring.labels import is_exact_match, label_for, label_of
from services.evaluator.statistics import mcnemar_p_value, paired_difference_interval, wilson_interval

MAJORITY = "majority"  # the prompt's id in the score of always answering the commonest training label


@dataclass(frozen=True)
class Answer:
    """What a model said to one item. `reference` and `label` are labels where the suite has some; `logprobs` in nats."""

    item: int
    reference: str
    answer: str
    label: str | None
    is_right: bool
    logprobs: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Score:
    """What one model, asked one way, reached; see Score in proto/afina/v1/evaluation.proto."""

    model: str
    prompt: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    exact_match: float
    macro_f1: float
    item_count: int
    confusion: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """Two models on the same items; see Comparison in proto/afina/v1/evaluation.proto."""

    champion: str
    champion_prompt: str
    candidate: str
    candidate_prompt: str
    item_count: int
    candidate_only_count: int
    champion_only_count: int
    effect: float
    effect_low: float
    effect_high: float
    p_value: float


@dataclass(frozen=True)
class Way:
    """All answers of one model asked one way, in the order of the items. The majority class has no model."""

    model: str
    prompt: str
    answers: tuple[Answer, ...]

    @property
    def right_count(self) -> int:
        """Items answered right."""
        return sum(answer.is_right for answer in self.answers)


def judge(item: int, reference: str, answer: str, labels: Sequence[str]) -> Answer:
    """Read one written answer."""
    if not labels:
        return Answer(item, reference, answer, None, is_exact_match(answer, reference))
    label = label_of(answer, labels)
    return Answer(item, reference, answer, label, label == reference)


def judge_logprobs(item: int, reference: str, logprobs: Mapping[str, float]) -> Answer:
    """Take the likeliest label as the answer; of equals, the one told first.

    Servers compute in bfloat16, where logits of 16 and more are eighths: equals are no rarity. So tell the labels in the
    order of their frequency, and a tie goes to what is likelier beforehand, not to the alphabet.
    """
    label = max(logprobs, key=lambda one: logprobs[one])
    return Answer(item, reference, label, label, label == reference, dict(logprobs))


def by_frequency(references: Iterable[str], labels: Sequence[str]) -> list[str]:
    """Return labels, the commonest of the training answers first; of equals, in their order. Other answers do not count."""
    counts = Counter(label_for(reference, labels) for reference in references)
    return sorted(labels, key=lambda label: -counts[label])


def score(way: Way, labels: Sequence[str]) -> Score:
    """Score one way of asking."""
    total = len(way.answers)
    low, high = wilson_interval(way.right_count, total)
    exact = sum(is_exact_match(answer.answer, answer.reference) for answer in way.answers)
    confusion = confusion_of(((a.reference, a.label) for a in way.answers), labels) if labels else ()
    return Score(
        model=way.model,
        prompt=way.prompt,
        accuracy=way.right_count / total if total else 0.0,
        accuracy_low=low,
        accuracy_high=high,
        exact_match=exact / total if total else 0.0,
        macro_f1=macro_f1(confusion, labels),
        item_count=total,
        confusion=tuple(count for row in confusion for count in row),
    )


def compare(champion: str, champion_ways: Sequence[Way], candidate_way: Way) -> Comparison:
    """Compare a champion's strongest way (of equals, the first) with the candidate's named way, item by item."""
    strongest = max(champion_ways, key=lambda way: way.right_count)
    pairs = list(zip(candidate_way.answers, strongest.answers, strict=True))
    if any(mine.item != theirs.item for mine, theirs in pairs):
        raise ValueError("both have to answer the same items")
    both = sum(mine.is_right and theirs.is_right for mine, theirs in pairs)
    candidate_only = sum(mine.is_right and not theirs.is_right for mine, theirs in pairs)
    champion_only = sum(theirs.is_right and not mine.is_right for mine, theirs in pairs)
    neither = len(pairs) - both - candidate_only - champion_only
    low, high = paired_difference_interval(both, candidate_only, champion_only, neither)
    return Comparison(
        champion=champion,
        champion_prompt=strongest.prompt,
        candidate=candidate_way.model,
        candidate_prompt=candidate_way.prompt,
        item_count=len(pairs),
        candidate_only_count=candidate_only,
        champion_only_count=champion_only,
        effect=(candidate_only - champion_only) / len(pairs) if pairs else 0.0,
        effect_low=low,
        effect_high=high,
        p_value=mcnemar_p_value(candidate_only, champion_only),
    )


def compare_all(ways: Sequence[Way]) -> list[Comparison]:
    """Compare every ordered pair of models; a way without a model (the majority class) fights on every champion's side."""
    models = list(dict.fromkeys(way.model for way in ways if way.model))
    constant = [way for way in ways if not way.model]
    of = {model: [way for way in ways if way.model == model] for model in models}
    return [
        compare(champion, of[champion] + constant, of[candidate][0])
        for champion in models
        for candidate in models
        if champion != candidate
    ]
