"""What can be said about the lengths of rows; expected numbers are numpy's, or counted on the fingers."""

import itertools
import random

import numpy as np
import pytest

from services.trainer.token_count import PartCount, TokenCount, distribution, name_of

LENGTHS = [random.Random(3).randint(5, 700) for _ in range(997)]


def part(lengths: list[int]) -> PartCount:
    return PartCount(0, distribution(lengths))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 10, 997])
def test_quantiles_are_numpys_by_nearest_rank(share: float, count: int) -> None:
    expected = np.quantile(LENGTHS[:count], share, method="inverted_cdf")
    assert part(LENGTHS[:count]).quantile(share) == expected


def test_totals_are_those_of_the_rows() -> None:
    counted = part(LENGTHS)
    assert (counted.row_count, counted.token_count, counted.longest) == (997, sum(LENGTHS), max(LENGTHS))


@pytest.mark.parametrize("max_length", [1, 100, 699, 700, 10_000])
def test_a_cut_is_the_rows_that_are_longer_and_their_tokens_beyond(max_length: int) -> None:
    array = np.array(LENGTHS)
    assert part(LENGTHS).cut(max_length) == ((array > max_length).sum(), np.clip(array - max_length, 0, None).sum())


@pytest.mark.parametrize("lengths", [[1], [7, 7, 7], [12, 13], LENGTHS, [100, 100_000]])
def test_a_histogram_holds_every_row_once_in_few_buckets_of_one_width(lengths: list[int]) -> None:
    buckets = part(lengths).histogram()
    assert len(buckets) <= 12
    assert sum(rows for _, rows in buckets) == len(lengths)
    assert buckets[0][1] > 0
    assert buckets[-1][1] > 0
    ends = [end for end, _ in buckets]
    assert len({b - a for a, b in itertools.pairwise(ends)}) <= 1
    width = ends[0] if len(ends) == 1 else ends[1] - ends[0]
    for end, rows in buckets:
        assert rows == sum(end - width < length <= end for length in lengths)


def test_the_cuts_go_up_to_the_longest_row_and_hold_what_was_asked_for() -> None:
    count = TokenCount("n", "d", "b", {}, {}, parts={"train": {"trained_token_count": 1, "lengths": [[40, 2], [300, 1]]}})
    assert count.cuts([250]) == [(32, 3, 8 + 8 + 268), (64, 1, 236), (128, 1, 172), (250, 1, 50), (256, 1, 44)]


def test_another_base_template_or_code_is_another_count() -> None:
    told = ["d", "b", "", "c"]
    asked = [told, *([*told[:i], "x", *told[i + 1 :]] for i in range(4))]
    names = [name_of("default", *parts) for parts in asked]  # type: ignore[call-arg, arg-type]
    assert len(set(names)) == 5
    assert name_of("default", "d", "b", "", "c") == names[0]
