"""How sure a score is, and whether one model really is better than another on the same items.

Everything here is in closed form or exact, so a result needs no seed and is the same wherever it is computed; what has to
be resampled is in `bootstrap`. Pure: the worker computes with it, a test checks it against the publications.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

CONFIDENCE = 0.95


def wilson_interval(right: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the score interval of a share; (0, 1) where nothing was asked.

    Source: Wilson (1927), JASA 22:209-212; Newcombe (1998), Statistics in Medicine 17:857-872, method 3.
    """
    if not 0 <= right <= total:
        raise ValueError(f"{right} of {total} is not a share")
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = right / total
    center = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low = 0.0 if right == 0 else max(0.0, center - half)
    high = 1.0 if right == total else min(1.0, center + half)
    return low, high


def mcnemar_p_value(first_only: int, second_only: int) -> float:
    """Return the exact two-sided p-value that the two are equally often right, from the items on which they differ.

    Source: McNemar (1947), Psychometrika 12:153-157, with the binomial distribution instead of chi-squared: the smaller
    count is Binomial(n, 1/2); both tails, at most 1.
    """
    if first_only < 0 or second_only < 0:
        raise ValueError("counts are not negative")
    discordant = first_only + second_only
    term = tail = 1  # whole numbers: exact for any count
    for k in range(min(first_only, second_only)):
        term = term * (discordant - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << discordant))


def sign_test_p_value(wins: int, losses: int) -> float:
    """Return the exact one-sided p-value that wins are no likelier than losses: P(X >= wins) for Binomial(wins + losses, 1/2)."""
    trials = wins + losses
    term = tail = 1
    for k in range(losses):
        term = term * (trials - k) // (k + 1)
        tail += term
    return tail / (1 << trials)


def paired_difference_interval(
    both: int, first_only: int, second_only: int, neither: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the interval of the first's share less the second's, on the same items; (-1, 1) where nothing was asked.

    It combines the Wilson intervals of the two shares with their correlation, stays inside [-1, 1], and does not
    collapse where the two never differ.
    Source: Newcombe (1998), Statistics in Medicine 17:2635-2650, method 10.
    """
    total = both + first_only + second_only + neither
    if min(both, first_only, second_only, neither) < 0:
        raise ValueError("counts are not negative")
    if total == 0:
        return -1.0, 1.0
    first, second = (both + first_only) / total, (both + second_only) / total
    first_low, first_high = wilson_interval(both + first_only, total, confidence)
    second_low, second_high = wilson_interval(both + second_only, total, confidence)
    phi = _corrected_correlation(both, first_only, second_only, neither)
    below, above = first - first_low, second_high - second
    low = first - second - math.sqrt(max(0.0, below * below - 2 * phi * below * above + above * above))
    below, above = second - second_low, first_high - first
    high = first - second + math.sqrt(max(0.0, above * above - 2 * phi * above * below + below * below))
    return low, high


def _corrected_correlation(both: int, first_only: int, second_only: int, neither: int) -> float:
    """Return phi of a paired table, drawn towards 0 where positive, by Newcombe's continuity correction."""
    total = both + first_only + second_only + neither
    margins = (both + first_only) * (second_only + neither) * (both + second_only) * (first_only + neither)
    if margins == 0:
        return 0.0
    cross = float(both * neither - first_only * second_only)
    if cross > 0:
        cross = max(cross - total / 2, 0.0)
    return cross / math.sqrt(margins)


def paired_t(differences: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Return Student's t interval of the mean difference, low and high, and the two-sided p-value that it is 0.

    Under two items nothing is known: (-1, 1) and 1. Where all differences are equal the interval is that number, and the
    p-value 1 for no difference at all, else 0.
    Source: Student (1908), Biometrika 6:1-25.
    """
    count = len(differences)
    if count < 2:
        return -1.0, 1.0, 1.0
    mean, error = fmean(differences), stdev(differences) / math.sqrt(count)
    if error == 0:
        return mean, mean, 0.0 if mean else 1.0
    half = _t_quantile(confidence, count - 1) * error
    return mean - half, mean + half, _t_p_value(mean / error, count - 1)


def _t_p_value(t: float, freedom: int) -> float:
    """Return P(|T| >= |t|): the incomplete beta function at n/(n + t²). Source: Abramowitz and Stegun (1964), 26.7.1."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def _t_quantile(confidence: float, freedom: int) -> float:
    """Return the t with P(|T| < t) = confidence, by halving."""
    low, high = 0.0, 1.0
    while _t_p_value(high, freedom) > 1 - confidence:
        high *= 2
    for _ in range(60):  # to the last bit of a double
        middle = (low + high) / 2
        low, high = (middle, high) if _t_p_value(middle, freedom) > 1 - confidence else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b).

    Source: Abramowitz and Stegun (1964), 26.5.8, as a continued fraction, evaluated by Lentz (1976), Applied Optics 15:668.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # there the fraction converges slowly; use the symmetry I_x(a, b) = 1 - I_{1-x}(b, a)
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for numerator in (even, odd):
            d = 1 / (1 + numerator * d)
            c = 1 + numerator / c
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction
