"""The gate: whether the evidence lets a model take an endpoint's place. Pure arithmetic over counts of paired answers.

Only counts are taken from an evaluation; effect and p-value follow from them here, so a verdict can be checked by hand.
The test is McNemar's, exact and two-sided: of the items on which just one of the two was right, the candidate's share would
be a fair coin's if they were equally good. Where answers are graded, an item counts for the one that scored higher, which
makes it the sign test; who wins often by little and loses seldom by much has a lower score, and is not better.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

POWER = 0.8
DEFAULT_SIGNIFICANCE_LEVEL = 0.05
DEFAULT_MIN_ITEM_COUNT = 50


@dataclass(frozen=True)
class Gate:
    """The rule. Units: `significance_level` is a probability, `min_effect` one of accuracies, or shares won."""

    significance_level: float = DEFAULT_SIGNIFICANCE_LEVEL
    min_effect: float = 0.0
    min_item_count: int = DEFAULT_MIN_ITEM_COUNT
    suite: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same items; `score_effect` is the candidate's score less the champion's, of all items together."""

    champion: str
    champion_prompt: str
    candidate: str
    candidate_prompt: str
    item_count: int
    candidate_only_count: int
    champion_only_count: int
    score_effect: float = 0.0

    @property
    def effect(self) -> float:
        """Share of items on which the candidate did better less that of the champion, -1 to 1; of accuracies the difference."""
        return (self.candidate_only_count - self.champion_only_count) / self.item_count if self.item_count else 0.0


class Answer(StrEnum):
    """What the gate says."""

    BETTER = "BETTER"
    NOT_BETTER = "NOT_BETTER"
    INSUFFICIENT_EVIDENCE = "INSUFFICIENT_EVIDENCE"


@dataclass(frozen=True)
class Verdict:
    """The gate's answer and one sentence with the numbers; `items_needed` only where the evidence is too thin."""

    answer: Answer
    sentence: str
    items_needed: int = 0


def decide(gate: Gate, comparison: Comparison) -> Verdict:
    """Hold a comparison against a gate."""
    n, effect = comparison.item_count, comparison.effect
    p_value = mcnemar_p_value(comparison.candidate_only_count, comparison.champion_only_count)
    numbers = (
        f"on {n} items the candidate did better {comparison.candidate_only_count} times and the champion "
        f"{comparison.champion_only_count} times: effect {effect:+.3f}, p = {p_value:.3g}"
    )
    if n < gate.min_item_count:
        needed = max(gate.min_item_count, items_needed(gate, comparison))
        return Verdict(Answer.INSUFFICIENT_EVIDENCE, f"Too few items: {numbers}; the gate needs {needed}.", needed)
    if effect <= gate.min_effect:
        return Verdict(Answer.NOT_BETTER, f"Not better: {numbers}; the gate asks for more than {gate.min_effect:+.3f}.")
    if comparison.score_effect < 0:
        return Verdict(Answer.NOT_BETTER, f"Not better: {numbers}; yet its score is lower by {-comparison.score_effect:.3f}.")
    if p_value > gate.significance_level:
        needed = max(n + 1, items_needed(gate, comparison))
        told = f"not significant at {gate.significance_level:g}, about {needed} items would tell"
        return Verdict(Answer.INSUFFICIENT_EVIDENCE, f"Too thin: {numbers}; {told}.", needed)
    return Verdict(Answer.BETTER, f"Better: {numbers}; the gate asks for p <= {gate.significance_level:g}.")


def mcnemar_p_value(candidate_only: int, champion_only: int) -> float:
    """Exact two-sided p-value: 2 P(X <= min) for X ~ Binomial(sum, 1/2), at most 1. Source: McNemar (1947)."""
    discordant = candidate_only + champion_only
    ways, term = 0, 1
    for k in range(min(candidate_only, champion_only) + 1):
        ways += term
        term = term * (discordant - k) // (k + 1)
    return min(1.0, 2 * ways / (1 << discordant))  # whole numbers up to here: a p-value on the level's edge falls on its side


def items_needed(gate: Gate, comparison: Comparison) -> int:
    """Items that show the observed effect with 80% power at the gate's level, if the rates stay; 0 where there is no effect.

    n = (z_{1-level/2} sqrt(d) + z_{power} sqrt(d - e²))² / e² with d the discordant share and e the effect.
    Source: Connor (1987), Sample size for testing differences in proportions for the paired-sample design.
    """
    effect = comparison.effect
    if effect <= 0:
        return 0
    share = (comparison.candidate_only_count + comparison.champion_only_count) / comparison.item_count
    z_level = NormalDist().inv_cdf(1 - gate.significance_level / 2)
    z_power = NormalDist().inv_cdf(POWER)
    root = z_level * math.sqrt(share) + z_power * math.sqrt(max(0.0, share - effect**2))
    return math.ceil(root**2 / effect**2)
