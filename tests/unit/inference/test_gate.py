"""The gate: where each answer begins, on numbers worked out by hand or by SciPy."""

import pytest
from scipy.stats import binom, binomtest

from services.inference.gate import Answer, Comparison, Gate, decide, items_needed, mcnemar_p_value


def pair(item_count: int, candidate_only: int, champion_only: int, score_effect: float = 0.0) -> Comparison:
    names = ("models/b", "zero-shot", "projects/p/models/c", "zero-shot")
    return Comparison(*names, item_count, candidate_only, champion_only, score_effect)


@pytest.mark.parametrize(
    ("candidate_only", "champion_only", "expected"),
    [
        (0, 0, 1.0),
        (5, 0, 2 / 32),
        (6, 0, 2 / 64),
        (10, 2, 2 * (1 + 12 + 66) / 4096),
        (4, 4, 1.0),
    ],
)
def test_the_p_value_is_the_binomial_tail_counted_out(candidate_only: int, champion_only: int, expected: float) -> None:
    assert mcnemar_p_value(candidate_only, champion_only) == expected
    assert mcnemar_p_value(champion_only, candidate_only) == expected


@pytest.mark.parametrize(("candidate_only", "champion_only"), [(37, 12), (120, 95), (1, 30), (2000, 1900)])
def test_the_p_value_equals_scipys_exact_binomial_test(candidate_only: int, champion_only: int) -> None:
    reference = binomtest(candidate_only, candidate_only + champion_only, 0.5).pvalue
    assert mcnemar_p_value(candidate_only, champion_only) == pytest.approx(reference, rel=1e-9)


def test_a_p_value_on_the_level_is_significant_and_one_above_it_is_not() -> None:
    evidence = pair(60, 6, 0)  # p = 2/64 exactly
    assert decide(Gate(significance_level=2 / 64), evidence).answer == Answer.BETTER
    assert decide(Gate(significance_level=2 / 64 - 1e-12), evidence).answer == Answer.INSUFFICIENT_EVIDENCE


def test_an_effect_equal_to_the_least_one_asked_for_is_not_better_and_one_above_it_is() -> None:
    evidence = pair(100, 25, 0)
    assert decide(Gate(min_effect=0.25), evidence).answer == Answer.NOT_BETTER
    assert decide(Gate(min_effect=0.24), evidence).answer == Answer.BETTER


def test_one_item_too_few_is_never_enough_and_the_gates_own_number_is_named() -> None:
    few = decide(Gate(), pair(49, 40, 0))
    assert (few.answer, few.items_needed) == (Answer.INSUFFICIENT_EVIDENCE, 50)
    assert decide(Gate(), pair(50, 40, 0)).answer == Answer.BETTER


def test_a_worse_or_equal_candidate_is_not_better_however_significant() -> None:
    assert decide(Gate(), pair(200, 2, 60)).answer == Answer.NOT_BETTER
    assert decide(Gate(), pair(200, 9, 9)).answer == Answer.NOT_BETTER
    assert decide(Gate(), pair(200, 0, 0)).answer == Answer.NOT_BETTER


def test_the_items_needed_are_connors() -> None:
    # d = e = 0.1: (1.959964 * sqrt(0.1) + 0.841621 * sqrt(0.1 - 0.01))**2 / 0.01 = 76.09
    assert items_needed(Gate(), pair(100, 10, 0)) == 77
    # d = 0.3, e = 0.1: (1.959964 * sqrt(0.3) + 0.841621 * sqrt(0.29))**2 / 0.01 = 233.07
    assert items_needed(Gate(), pair(100, 20, 10)) == 234


def share_found_better(item_count: int, discordant: float, effect: float) -> float:
    """How often the gate says BETTER where these are the true rates: over all counts, by SciPy's binomial probabilities."""
    found = 0.0
    for both in range(item_count + 1):
        weight = binom.pmf(both, item_count, discordant)
        if weight < 1e-9:
            continue
        for candidate_only in range(both + 1):
            if decide(Gate(min_item_count=1), pair(item_count, candidate_only, both - candidate_only)).answer == Answer.BETTER:
                found += weight * binom.pmf(candidate_only, both, (discordant + effect) / 2 / discordant)
    return float(found)


def test_with_the_items_needed_the_gate_finds_the_effect_four_times_of_five() -> None:
    needed = items_needed(Gate(), pair(100, 20, 10))
    assert share_found_better(needed, 0.3, 0.1) == pytest.approx(0.8, abs=0.04)  # the exact test is a little careful
    assert share_found_better(needed // 2, 0.3, 0.1) < 0.55


@pytest.mark.parametrize("item_count", [20, 50, 120])
def test_where_nothing_is_better_the_gate_says_so_less_often_than_its_level(item_count: int) -> None:
    assert share_found_better(item_count, 0.3, 0.0) <= 0.05 / 2  # the level is of both sides


def test_thin_evidence_says_how_many_items_would_tell() -> None:
    verdict = decide(Gate(), pair(100, 20, 10))  # p = 0.0987
    assert (verdict.answer, verdict.items_needed) == (Answer.INSUFFICIENT_EVIDENCE, 234)
    assert "234 items" in verdict.sentence
    assert "+0.100" in verdict.sentence
    assert "0.0987" in verdict.sentence


def test_who_wins_often_by_little_and_loses_seldom_by_much_is_not_better() -> None:
    assert decide(Gate(), pair(100, 60, 20, score_effect=0.01)).answer == Answer.BETTER
    verdict = decide(Gate(), pair(100, 60, 20, score_effect=-0.02))
    assert verdict.answer == Answer.NOT_BETTER
    assert "its score is lower by 0.020" in verdict.sentence
