"""Medians, means and shares with their confidence intervals: the source of every figure and interval.

Functions take numbers in any unit and in any order, and return numbers in the same unit. scipy and the standard
library's statistics are imported inside functions, because `--help` would wait for them.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

CONFIDENCE = 0.95  # default of intervals


class Bounds(NamedTuple):
    """The ends of a confidence interval and the confidence that it reaches, at least the requested one."""

    low: float
    high: float
    confidence: float


# --- single figures ---------------------------------------------------------------------------------------------------


def median(values: Iterable[float]) -> float:
    """Return the middle value, or the mean of the two in the middle. Raises ValueError without values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no median of no values")
    middle = len(ordered) // 2
    return float(ordered[middle]) if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean, summed without rounding errors."""
    return math.fsum(values) / len(values)


def trimmed_mean(values: Iterable[float], trim: int) -> float:
    """Return the mean without the `trim` lowest and highest values. Raises ValueError where no value remains."""
    ordered = sorted(values)
    central = ordered[trim : len(ordered) - trim]
    if not central:
        raise ValueError(f"trimming {trim} samples at either end leaves none")
    return mean(central)


def quantile(values: Iterable[float], share: float) -> float:
    """Return the quantile of a share, by linear interpolation (Hyndman & Fan 1996, number 7)."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def median_absolute_deviation(values: Sequence[float]) -> float:
    """Return the median of the distances from the median, which outliers hardly affect."""
    middle = median(values)
    return median([abs(value - middle) for value in values])


def normal_quantile(share: float) -> float:
    """Return the standard normal quantile of a share, in standard deviations from the mean."""
    import statistics

    return statistics.NormalDist().inv_cdf(share)


# --- intervals --------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def order_statistic_ranks(count: int, quantile: float, confidence: float = CONFIDENCE) -> tuple[int, int, float] | None:
    """Return the ranks (1-based, inclusive) of the samples that enclose a quantile, and their coverage.

    The number of samples below the quantile is Binomial(count, quantile), whatever the distribution, so the coverage
    of ranks (l, u) is P(l <= K < u) (David & Nagaraja, Order Statistics, 3rd ed., section 7.1). The result is the
    narrowest pair with equal tails; 100 samples and the median give ranks 40 and 61 (96.5 %). It is None where no pair
    of samples reaches the confidence, as for a median of fewer than six samples.
    """
    tail = (1 - confidence) / 2
    # in logarithms, because the binomial coefficient of 1100 samples is more than a float can hold
    logarithms = (
        math.lgamma(count + 1)
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(quantile)
        + (count - k) * math.log1p(-quantile)
        for k in range(count + 1)
    )
    cumulative = list(itertools.accumulate(map(math.exp, logarithms)))  # P(K <= k)
    low = max((rank for rank in range(1, count + 1) if cumulative[rank - 1] <= tail), default=None)
    high = min((rank for rank in range(1, count + 1) if 1 - cumulative[rank - 1] <= tail), default=None)
    if low is None or high is None or low >= high:
        return None
    return low, high, cumulative[high - 1] - cumulative[low - 1]


def quantile_interval(values: Iterable[float], share: float, confidence: float = CONFIDENCE) -> Bounds | None:
    """Return the distribution-free interval of a quantile between two of the values; None for too few values."""
    ordered = sorted(values)
    ranks = order_statistic_ranks(len(ordered), share, confidence)
    if ranks is None:
        return None
    low, high, reached = ranks
    return Bounds(ordered[low - 1], ordered[high - 1], reached)


def median_interval(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """Return the ends of a confidence interval of the median; None for too few values.

    It interpolates between the two pairs of order statistics whose coverages enclose the confidence (Hettmansperger &
    Sheather 1986). Their coverages are exact for any distribution. Without interpolation, six values allow only 96.9 %
    or 78.1 %. Unlike the averages of pairs of Hodges & Lehmann (1963) it stays valid where the values are skewed.
    """
    ordered, count = sorted(values), len(values)
    below = list(itertools.accumulate(math.comb(count, k) / 2**count for k in range(count + 1)))  # P(K <= k)
    coverages = [1 - 2 * below[rank - 1] for rank in range(1, count // 2 + 1)]  # of the rank-th from either end
    rank = sum(coverage >= confidence for coverage in coverages)
    if not rank or rank == len(coverages):
        return None
    outer, inner = coverages[rank - 1], coverages[rank]
    fraction = (outer - confidence) / (outer - inner)
    inwards = (count - rank) * fraction / (rank + (count - 2 * rank) * fraction)
    low = (1 - inwards) * ordered[rank - 1] + inwards * ordered[rank]
    high = (1 - inwards) * ordered[count - rank] + inwards * ordered[count - rank - 1]
    return low, high


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Bounds | None:
    """Return Student's interval of a mean (Biometrika 6, 1908), of independent, almost normal values; None below 2."""
    if len(values) < 2:
        return None
    import statistics

    middle, half = mean(values), statistics.stdev(values) / math.sqrt(len(values))
    half *= _student_quantile(0.5 + confidence / 2, len(values) - 1)
    return Bounds(middle - half, middle + half, confidence)


USUAL_DEGREES = 12  # degrees of freedom of a machine's usual scatter, when combined with a run's own


def another_figure(
    medians: Sequence[float], confidence: float = CONFIDENCE, usual: float | None = None
) -> float | None:
    """Return the largest factor between another run's figure and this one's; None below two medians.

    The medians of a run's processes are modelled as log-normal around one value. A figure over n of them has 1/n of
    their variance, and so has the next run's. The two differ with 2/n of it: the prediction of a future mean (Hahn &
    Meeker, Statistical Intervals, 1991, section 4.7).

    `usual` is the standard deviation of such logarithms on this machine, from earlier figures. The run's own variance
    is shrunk towards it, as in a moderated t statistic (Smyth, Stat. Appl. Genet. Mol. Biol. 3(1), 2004). Four
    processes sometimes agree by chance, and the interval would be far too narrow. Raises ValueError for a median that
    is not positive.
    """
    if len(medians) < 2:
        return None
    degrees = len(medians) - 1
    variance = log_variance(medians)
    if usual is not None:
        variance = (USUAL_DEGREES * usual**2 + degrees * variance) / (USUAL_DEGREES + degrees)
        degrees += USUAL_DEGREES
    return math.exp(_student_quantile(0.5 + confidence / 2, degrees) * math.sqrt(2 * variance / len(medians)))


def log_variance(medians: Sequence[float]) -> float:
    """Return the variance of the logarithms of two or more times. Raises ValueError for a time that is not positive."""
    if any(not value > 0 for value in medians):
        raise ValueError("medians of times must be above zero")
    import statistics

    return statistics.variance(map(math.log, medians))


@functools.lru_cache(maxsize=64)
def median_of_variance(degrees: int) -> float:
    """Return the median of a normal sample's variance over its true value: chi-squared's median over `degrees`."""
    from scipy.special import chdtri

    return float(chdtri(degrees, 0.5)) / degrees


@functools.lru_cache(maxsize=64)
def _student_quantile(share: float, degrees: int) -> float:
    from scipy.special import stdtrit  # scipy.stats.t.ppf calls it, and takes ten times as long to import

    return float(stdtrit(degrees, share))


@functools.lru_cache(maxsize=1024)
def wilson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Bounds:
    """Return Wilson's interval of a share (J. Am. Stat. Assoc. 22, 1927), which is valid near 0 and 1 too."""
    from scipy.stats import binomtest

    ends = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Bounds(float(ends.low), float(ends.high), confidence)
