"""Two models on the same items: the tests are the published ones, and no row that chooses decides."""

import random

import pytest
from scipy.stats import binomtest, ttest_rel

from services.evaluator.scoring.answers import MAJORITY
from services.evaluator.scoring.choice import Judged
from services.evaluator.scoring.comparison import compare
from services.evaluator.scoring.criteria import Bleu, Chrf, Classification, ExactMatch, Rouge
from services.evaluator.scoring.measured import Measured
from tests.unit.evaluator.test_graded import corpus
from tests.unit.evaluator.ways import LABELS, way, written


def judged(*ways: Measured, chosen_on: tuple[Measured, ...] = ()) -> Judged:
    def by_name(some: tuple[Measured, ...]) -> dict[tuple[str, str], Measured]:
        return {(one.way.model, one.way.prompt): one for one in some}

    return Judged(by_name(ways), by_name(chosen_on))


def test_a_comparison_counts_what_only_one_got_right() -> None:
    result = compare(way("models/base", "few-shot", "RRRwwwwwww"), way("models/new", "zero-shot", "wRRRRRRRRR"))
    assert (result.candidate_only_count, result.champion_only_count, result.item_count) == (7, 1, 10)
    assert result.effect == pytest.approx(0.6)
    assert result.p_value == pytest.approx(binomtest(1, 8).pvalue)
    assert result.effect_low < result.effect < result.effect_high
    first = result.differences[0]
    assert (first.effect.name, first.test, first.champion_value, first.candidate_value) == ("accuracy", "TEST_MCNEMAR", 0.3, 0.9)


def test_graded_models_are_compared_by_bootstrap_and_by_t() -> None:
    said, references = corpus(300, 0.3)
    better = [r if random.Random(i).random() < 0.2 else a for i, (a, r) in enumerate(zip(said, references, strict=True))]
    criteria = (Chrf(), Bleu(), Rouge(), ExactMatch())
    champion, candidate = written(said, references, *criteria), written(better, references, *criteria)

    result = compare(champion, candidate)

    tests = {(one.effect.name, one.test): one for one in result.differences}
    for name in ("chrf", "bleu", "rouge1", "rouge2", "rougeL"):
        students, resampled = tests[name, "TEST_PAIRED_T"], tests[name, "TEST_PAIRED_BOOTSTRAP"]
        mine, theirs = (next(g.items[name] for g in one.graded if name in g.items) for one in (candidate, champion))
        expected = ttest_rel(mine, theirs)
        interval = expected.confidence_interval()
        assert students.p_value == pytest.approx(expected.pvalue, rel=1e-6)
        assert (students.effect.low, students.effect.high) == pytest.approx((interval.low, interval.high))
        assert resampled.effect.value == pytest.approx(candidate.value(name) - champion.value(name))
        assert 0 < resampled.effect.low < resampled.effect.value < resampled.effect.high
        assert resampled.p_value == pytest.approx(1 / 2001)
    assert ("exact_match", "TEST_MCNEMAR") in tests
    assert (result.differences[0].effect.name, result.p_value) == ("chrf", tests["chrf", "TEST_PAIRED_BOOTSTRAP"].p_value)
    assert result.candidate_only_count > 30
    assert result.champion_only_count == 0


def test_a_model_does_not_differ_from_itself() -> None:
    said, references = corpus(50, 0.3)
    same = written(said, references, Bleu(), ExactMatch())
    for difference in compare(same, same).differences:
        assert (difference.effect.value, difference.p_value) == (0.0, 1.0)


def test_macro_f1_is_compared_on_the_same_resamples() -> None:
    references = list(LABELS) * 40
    right = written(references, references, Classification(), labels=LABELS)
    half = written(references[:60] + ["?"] * 60, references, Classification(), labels=LABELS)
    found = next(one for one in compare(half, right).differences if one.effect.name == "macro_f1")
    assert found.effect.value == pytest.approx(1 - 2 / 3)  # F1 of precision 1 and recall 1/2
    assert found.effect.low > 0.2


def test_models_that_answered_different_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same items"):
        compare(way("a", "p", "RR"), way("b", "p", "R"))


WAYS = (
    way("models/base", "zero-shot", "RRRRRRwwww"),
    way("models/base", "few-shot", "RRwwwwwwww"),
    way("models/new", "zero-shot", "RRRRRRRwww"),
    way("models/new", "few-shot", "RRRRRRRRRR"),
    way("", MAJORITY, "wwwwwwRRRR"),
)


def test_each_model_is_asked_its_best_way_of_the_rows_that_choose() -> None:
    """Few-shot is better there, and that is what counts, though zero-shot is better on the rows that decide."""
    chosen_on = (
        way("models/base", "zero-shot", "www"),
        way("models/base", "few-shot", "wRR"),
        way("models/new", "zero-shot", "RRR"),
        way("models/new", "few-shot", "RRw"),
        way("", MAJORITY, "www"),
    )
    found = judged(*WAYS, chosen_on=chosen_on)
    forward, backward = found.comparisons()
    assert (forward.champion_prompt, forward.candidate_prompt) == ("few-shot", "zero-shot")
    assert (backward.champion_prompt, backward.candidate_prompt) == ("zero-shot", "few-shot")
    chosen = {(score.model, score.prompt) for score in found.scores() if score.is_chosen}
    assert chosen == {("models/base", "few-shot"), ("models/new", "zero-shot")}
    validation = next(score.validation for score in found.scores() if score.prompt == "few-shot")
    assert validation is not None
    assert validation.name == "accuracy"
    assert validation.value == pytest.approx(2 / 3)


def test_a_champion_is_defended_by_the_constant_answer_where_that_was_better_and_a_candidate_is_not() -> None:
    chosen_on = tuple(way(one.way.model, one.way.prompt, "RRR" if one.way.model == "" else "Rww") for one in WAYS)
    forward, _ = judged(*WAYS, chosen_on=chosen_on).comparisons()
    assert (forward.champion, forward.champion_prompt) == ("models/base", MAJORITY)
    assert forward.candidate_prompt == "zero-shot"  # of equals the first


def test_without_rows_that_choose_a_candidate_is_judged_by_its_first_prompt_against_every_way_of_the_champion() -> None:
    found = judged(*WAYS).comparisons()
    forward = [one for one in found if one.candidate == "models/new"]
    backward = [one for one in found if one.candidate == "models/base"]
    assert (forward[0].champion_prompt, forward[0].candidate_prompt) == ("zero-shot", "zero-shot")
    assert (backward[0].champion_prompt, backward[0].candidate_prompt) == ("few-shot", "zero-shot")
    assert {one.champion_prompt for one in backward} == {"zero-shot", "few-shot", MAJORITY}


def test_the_first_comparison_is_the_least_clear_one_not_the_one_with_the_smallest_effect() -> None:
    """Against `sure` the candidate wins 6 to 0, against `torn` 16 to 9, which is the larger effect, and less sure."""
    candidate = way("models/new", "p", "R" * 16 + "w" * 9 + "R" * 75)
    sure = way("models/base", "sure", "w" * 6 + "R" * 10 + "w" * 9 + "R" * 75)
    torn = way("models/base", "torn", "w" * 16 + "R" * 9 + "R" * 75)
    forward = next(one for one in judged(sure, candidate, torn).comparisons() if one.candidate == "models/new")
    assert forward.champion_prompt == "torn"
    assert forward.p_value == pytest.approx(binomtest(9, 25).pvalue)


def test_graded_prompts_are_chosen_by_the_first_criterion() -> None:
    said, references = corpus(40, 0.5)
    good, bad = (written(texts, references, Chrf(), ExactMatch(), model="a") for texts in (references, said))
    asked = {("a", "bad"): bad, ("a", "good"): good}
    scores = Judged(asked, {("a", "bad"): bad, ("a", "good"): good}).scores()
    assert [score.is_chosen for score in scores] == [False, True]
