"""Two models on the same items: how large the difference is, how sure that is, and how likely it is to be chance."""

from collections.abc import Iterator
from dataclasses import dataclass

from services.evaluator.bootstrap import bootstrap_p_value, percentile_interval
from services.evaluator.scoring.graded import Graded
from services.evaluator.scoring.measured import Measured, share
from services.evaluator.scoring.score import BOOTSTRAP, Metric
from services.evaluator.statistics import mcnemar_p_value, paired_difference_interval, paired_t

NEWCOMBE, STUDENT = "INTERVAL_NEWCOMBE", "INTERVAL_T"


@dataclass(frozen=True)
class Difference:
    """One metric of two models, candidate less champion; see Difference in proto/afina/v1/evaluation.proto."""

    effect: Metric
    champion_value: float
    candidate_value: float
    p_value: float
    test: str


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
    differences: tuple[Difference, ...]


def compare(champion: Measured, candidate: Measured, name: str = "") -> Comparison:
    """Compare two ways item by item; `name` is the champion's, for the constant answer that stands in for it.

    Raises: ValueError (they answered different items).
    """
    if [a.item for a in champion.way.answers] != [a.item for a in candidate.way.answers]:
        raise ValueError("both have to answer the same items")
    deciding = candidate.deciding
    found = sorted(_differences(champion, candidate), key=lambda one: one.effect.name != deciding)
    first = found[0]
    wins, losses = wins_and_losses(champion, candidate)
    return Comparison(
        champion=name or champion.way.model,
        champion_prompt=champion.way.prompt,
        candidate=candidate.way.model,
        candidate_prompt=candidate.way.prompt,
        item_count=len(candidate.way.answers),
        candidate_only_count=wins,
        champion_only_count=losses,
        effect=first.effect.value,
        effect_low=first.effect.low,
        effect_high=first.effect.high,
        p_value=first.p_value,
        differences=tuple(found),
    )


def wins_and_losses(champion: Measured, candidate: Measured) -> tuple[int, int]:
    """Return on how many items the candidate alone did better by the deciding metric, and on how many the champion."""
    mine, theirs = _items(candidate), _items(champion)
    pairs = list(zip(mine, theirs, strict=True))
    return sum(one > other for one, other in pairs), sum(one < other for one, other in pairs)


def _items(measured: Measured) -> list[float]:
    metric = measured.deciding
    if metric in measured.rights:
        return [float(right) for right in measured.rights[metric]]
    return next([float(item) for item in graded.items[metric]] for graded in measured.graded if metric in graded.items)


def _differences(champion: Measured, candidate: Measured) -> Iterator[Difference]:
    for name, rights in candidate.rights.items():
        yield _of_rights(name, champion.rights[name], rights)
    for theirs, mine in zip(champion.graded, candidate.graded, strict=True):
        for name in mine.compared:
            yield _of_resamples(name, theirs, mine)
            if name in mine.items:
                yield _of_items(name, theirs, mine)


def _of_rights(name: str, theirs: tuple[bool, ...], mine: tuple[bool, ...]) -> Difference:
    pairs = list(zip(mine, theirs, strict=True))
    both, only, other = pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))
    low, high = paired_difference_interval(both, only, other, pairs.count((False, False)))
    effect = Metric(name, "", (only - other) / len(pairs) if pairs else 0.0, low, high, NEWCOMBE)
    return Difference(effect, share(theirs), share(mine), mcnemar_p_value(only, other), "TEST_MCNEMAR")


def _of_resamples(name: str, theirs: Graded, mine: Graded) -> Difference:
    champion, candidate = theirs.scores[name, ""], mine.scores[name, ""]
    resampled = mine.resampled[name, ""] - theirs.resampled[name, ""]
    effect = Metric(name, "", candidate - champion, *percentile_interval(resampled), BOOTSTRAP)
    return Difference(effect, champion, candidate, bootstrap_p_value(effect.value, resampled), "TEST_PAIRED_BOOTSTRAP")


def _of_items(name: str, theirs: Graded, mine: Graded) -> Difference:
    champion, candidate = float(theirs.items[name].mean()), float(mine.items[name].mean())
    low, high, p_value = paired_t([float(one) for one in mine.items[name] - theirs.items[name]])
    effect = Metric(name, "", candidate - champion, low, high, STUDENT)
    return Difference(effect, champion, candidate, p_value, "TEST_PAIRED_T")
