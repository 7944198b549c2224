"""The statistics agree with the publications that they come from, and with scipy."""

import pytest
from scipy.stats import binomtest, ttest_1samp

from services.evaluator.statistics import (
    mcnemar_p_value,
    paired_difference_interval,
    paired_t,
    sign_test_p_value,
    wilson_interval,
)


@pytest.mark.parametrize(("right", "total"), [(0, 10), (1, 10), (13, 200), (148, 200), (81, 263), (10, 10)])
def test_the_interval_of_a_share_is_scipys_wilson_interval(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_of_a_share_is_the_published_one() -> None:
    """Source: Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_a_share_of_nothing_may_be_anything() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_more_right_than_asked_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a share"):
        wilson_interval(3, 2)


@pytest.mark.parametrize(("first_only", "second_only"), [(0, 1), (1, 7), (12, 2), (5, 5), (40, 11), (120, 90), (3000, 2800)])
def test_mcnemars_p_value_is_scipys_sign_test(first_only: int, second_only: int) -> None:
    expected = binomtest(first_only, first_only + second_only, 0.5).pvalue
    assert mcnemar_p_value(first_only, second_only) == pytest.approx(expected, rel=1e-9)


def test_mcnemars_p_value_is_the_published_one() -> None:
    """Source: Armitage and Berry (1994), page 127, as solved on statsdirect.com (matched pairs): 12 against 2, P = 0.0129."""
    assert mcnemar_p_value(12, 2) == pytest.approx(0.0129, abs=5e-5)


def test_mcnemars_p_value_is_its_closed_form_where_only_one_is_ever_right() -> None:
    assert mcnemar_p_value(10, 0) == 2 / 2**10
    assert mcnemar_p_value(0, 0) == 1.0


def test_the_interval_of_a_paired_difference_is_the_published_one() -> None:
    """Source: Fagerland, Lydersen, Laake, Statistical Analysis of Contingency Tables (2017), chapter 8, data of Cavo et
    al. (2012): 59, 6, 16, 80; the numbers stand in the tests of the R package contingencytables."""
    low, high = paired_difference_interval(59, 6, 16, 80)
    assert (low, high) == pytest.approx((-0.1186, -0.0046), abs=5e-5)


def test_the_interval_of_a_paired_difference_turns_with_its_sides() -> None:
    low, high = paired_difference_interval(59, 6, 16, 80)
    turned_low, turned_high = paired_difference_interval(59, 16, 6, 80)
    assert (turned_low, turned_high) == pytest.approx((-high, -low), abs=1e-12)


def test_the_interval_of_a_paired_difference_keeps_a_width_where_both_always_agree() -> None:
    """With a margin of 0 phi is 0, and each limit is the root of the summed squares of Wilson's: here sqrt(2) times his width
    at 20 of 20."""
    wilson_low = binomtest(20, 20).proportion_ci(0.95, method="wilson").low
    low, high = paired_difference_interval(20, 0, 0, 0)
    assert (low, high) == pytest.approx((-(1 - wilson_low), 1 - wilson_low), abs=1e-12)


def test_the_difference_of_nothing_may_be_anything() -> None:
    assert paired_difference_interval(0, 0, 0, 0) == (-1.0, 1.0)


@pytest.mark.parametrize("differences", [[0.1, -0.2, 0.3], [1.0, 0.0], [0.01 * n - 0.3 for n in range(100)]])
def test_the_paired_t_test_is_scipys(differences: list[float]) -> None:
    expected = ttest_1samp(differences, 0)
    interval = expected.confidence_interval(0.95)
    assert paired_t(differences) == pytest.approx((interval.low, interval.high, expected.pvalue), rel=1e-9, abs=1e-12)


def test_the_paired_t_test_is_the_published_one() -> None:
    """Source: Student (1908), section IX, additional hours of sleep of ten patients under two drugs; t = 4.06."""
    low, high, p_value = paired_t([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    assert (low, high) == pytest.approx((0.7001, 2.4599), abs=5e-5)
    assert p_value == pytest.approx(0.002833, abs=5e-7)


def test_of_one_difference_nothing_is_known_and_equal_ones_leave_no_doubt() -> None:
    assert paired_t([0.4]) == (-1.0, 1.0, 1.0)
    assert paired_t([0.25] * 8) == (0.25, 0.25, 0.0)
    assert paired_t([0.0] * 8) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 2), (2, 5), (40, 40), (300, 250)])
def test_the_one_sided_sign_test_is_scipys(wins: int, losses: int) -> None:
    expected = binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue if wins + losses else 1.0
    assert sign_test_p_value(wins, losses) == pytest.approx(expected, rel=1e-9)
