"""Resampling agrees with scipy's, is the same every time, and is quick."""

import time

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import f1_score

from services.evaluator.bootstrap import bootstrap_p_value, percentile_interval, resampled_sums
from services.evaluator.scoring.criteria import Classification
from services.evaluator.statistics import paired_t
from tests.unit.evaluator.ways import LABELS, written

MANY = 20_000


def column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)[:, None]


def test_each_resample_draws_as_many_items_as_there_are() -> None:
    weights = resampled_sums(np.eye(50), resamples=300)
    assert weights.shape == (300, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert weights.mean() == pytest.approx(1.0)


def test_the_same_items_are_resampled_alike_however_they_are_scored() -> None:
    """That makes a comparison of two models a paired one."""
    items = np.arange(40, dtype=np.float64)
    assert np.array_equal(resampled_sums(column(items)) * 2, resampled_sums(column(items * 2)))
    assert not np.array_equal(resampled_sums(column(items)), resampled_sums(column(items), seed=1))


def test_many_items_are_resampled_in_pieces_as_they_would_be_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resampled_sums(np.eye(30), resamples=100)
    monkeypatch.setattr("services.evaluator.bootstrap.CELLS", 30 * 7)
    assert np.array_equal(resampled_sums(np.eye(30), resamples=100), whole)


def test_the_interval_of_a_mean_is_scipys_percentile_interval() -> None:
    items = np.random.default_rng(3).beta(2, 5, size=120)
    expected = scipy_stats.bootstrap((items,), np.mean, n_resamples=MANY, method="percentile", rng=1).confidence_interval
    found = percentile_interval(resampled_sums(column(items), resamples=MANY)[:, 0] / len(items))
    assert found == pytest.approx((expected.low, expected.high), abs=1.5e-3)


def test_the_spread_of_a_resampled_mean_is_its_closed_form() -> None:
    """The standard deviation over resamples of a mean is the items' own (with N below) over the root of N."""
    items = np.random.default_rng(5).normal(size=200)
    means = resampled_sums(column(items), resamples=MANY)[:, 0] / len(items)
    assert means.std() == pytest.approx(items.std() / np.sqrt(len(items)), rel=0.02)


def test_the_p_value_of_a_mean_difference_is_near_students() -> None:
    """With 400 items the mean is nearly normal, so bootstrap and t agree."""
    differences = np.random.default_rng(8).normal(0.1, 1.0, size=400)
    resampled = resampled_sums(column(differences), resamples=MANY)[:, 0] / len(differences)
    found = bootstrap_p_value(float(differences.mean()), resampled)
    assert found == pytest.approx(scipy_stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert found == pytest.approx(paired_t(list(differences))[2], abs=0.01)


def test_each_resample_has_the_f1_that_scikit_learn_gives_its_items() -> None:
    draw = np.random.default_rng(4)
    references, answers = (draw.choice(LABELS, size=40).tolist() for _ in range(2))
    [graded] = written(answers, references, Classification(), labels=LABELS).graded
    weights = resampled_sums(np.eye(40), resamples=15).astype(int)
    found = graded.scores_of(resampled_sums(graded.stats, resamples=15))
    for place, drawn in enumerate(weights):
        for average in ("macro", "weighted"):
            expected = f1_score(
                np.repeat(references, drawn), np.repeat(answers, drawn), labels=LABELS, average=average, zero_division=0
            )
            assert found[f"{average}_f1", ""][place] == pytest.approx(expected)


def test_models_that_answer_alike_do_not_differ() -> None:
    assert bootstrap_p_value(0.0, np.zeros(2000)) == 1.0


def test_a_difference_that_no_resample_undoes_has_the_smallest_p_value_that_can_be_told() -> None:
    assert bootstrap_p_value(0.5, np.full(1999, 0.5)) == 1 / 2000


def test_nothing_is_resampled_to_nothing() -> None:
    assert (resampled_sums(np.zeros((0, 3))) == 0).all()


def test_a_thousand_items_are_resampled_two_thousand_times_in_well_under_a_second() -> None:
    begin_s = time.perf_counter()
    resampled_sums(np.ones((1000, 192)))
    assert time.perf_counter() - begin_s < 1.0
