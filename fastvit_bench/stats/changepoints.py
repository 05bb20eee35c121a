"""Find the points at which a series of figures changed, and by how much."""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastvit_bench.stats.intervals import CONFIDENCE, median, normal_quantile


@dataclass(frozen=True)
class Shift:
    """The ratio of two groups of figures, with its confidence interval."""

    ratio: float  # 1.1 is 10 % slower
    low: float
    high: float
    confidence: float  # of low..high; below 0.95 where there are too few points


WIDTH = 1.5  # of the kernel, in units of the noise


PENALTY = (1.0, 0.6)  # of a change: the first, and the second times the logarithm of the number of points


LEAST_NOISE = 1e-3  # share; without it, any deviation from exactly repeated figures would be a change


def breaks(figures: Sequence[float]) -> list[int]:
    """Return the indices at which a new level begins, by ruptures' exact search (PELT) with a Gaussian kernel.

    Kernel change-point detection (Arlot, Celisse & Harchaoui, JMLR 20, 2019) is applied to the logarithms. Its cost is
    bounded: an outlier costs 1 at any distance. So a single slow run, as shared machines produce, cannot outweigh the
    penalty of a change. With squares and, in short series, absolute values it could. The search is exact and in C.
    Binary segmentation may miss a step up and back, and ruptures' rank and absolute costs take minutes instead of
    seconds.

    The kernel's width follows from the noise between neighbouring runs, so that the cost of noise is the same for
    every series. The penalty depends on the number of points alone. Its constants were set by simulation, so that a
    series without a change shows one in at most 5 of 100 cases. That holds for normal, heavy-tailed and skewed noise,
    and for two modes with one run in five 30 % slower; `tests/history/test_history.py` repeats the simulation.
    """
    if len(figures) < FEWEST:
        return []
    import numpy as np
    import ruptures

    logs = [math.log(figure) for figure in figures]
    width = WIDTH * max(noise(logs), LEAST_NOISE)
    searcher = ruptures.KernelCPD(kernel="rbf", min_size=SHORTEST, params={"gamma": 1 / (2 * width**2)})
    penalty = PENALTY[0] + PENALTY[1] * math.log(len(figures))
    ends = searcher.fit(np.array(logs)[:, None]).predict(pen=penalty) or []
    return [int(end) for end in ends[:-1]]  # the last one is the end of the series


def noise(logs: Sequence[float]) -> float:
    """Return the noise's standard deviation from differences of neighbours, which few changes hardly affect.

    Their median absolute value is 0.6745 standard deviations of a normal difference, which has twice the variance.
    """
    return median(abs(b - a) for a, b in itertools.pairwise(logs)) / (0.6745 * math.sqrt(2))


def shift(before: Sequence[float], after: Sequence[float]) -> Shift:
    """Return the ratio of two groups of figures: the median over all pairs, with the Mann-Whitney test's interval.

    The estimate is that of Hodges and Lehmann and the interval that of Moses, on logarithms (Hollander, Wolfe &
    Chicken, Nonparametric Statistical Methods, 3rd ed., sections 4.2 and 4.3). They assume no distribution, but that
    the groups differ by a factor alone. They ignore that the position of the change was estimated from the same
    figures. Up to 200 figures on either side count: those nearest to the change.
    """
    import numpy as np

    logs = [np.log(np.asarray(group)) for group in (before[-NEAREST:], after[:NEAREST])]
    pairs = np.sort(np.subtract.outer(logs[1], logs[0]), axis=None)
    rank, confidence = _rank(*sorted(map(len, logs)))
    middle, low, high = (math.exp(float(value)) for value in (np.median(pairs), pairs[rank - 1], pairs[-rank]))
    return Shift(middle, low, high, confidence)


@functools.lru_cache(maxsize=1024)
def _rank(few: int, many: int) -> tuple[int, float]:
    """Return the rank, from either end of the sorted pairs, that encloses the shift with 95 %, and the confidence.

    P(U < rank) <= 2.5 %, of Mann and Whitney's U. Up to 400 pairs it is exact: the numbers of arrangements with U = u
    are the coefficients of the Gaussian binomial coefficient (Mann & Whitney, Ann. Math. Stat. 18, 1947). Above that
    it is the normal approximation. Where not even the outermost pairs reach 95 %, they are returned, with a lower
    confidence.
    """
    if few * many > 400:
        spread = math.sqrt(few * many * (few + many + 1) / 12)
        return math.floor(few * many / 2 - normal_quantile(0.5 + CONFIDENCE / 2) * spread), CONFIDENCE
    counts = [1] + [0] * (few * many)
    for i in range(1, few + 1):
        for u in range(few * many, many + i - 1, -1):  # times 1 - x^(many + i)
            counts[u] -= counts[u - many - i]
        for u in range(i, few * many + 1):  # over 1 - x^i
            counts[u] += counts[u - i]
    below = [count / math.comb(few + many, few) for count in itertools.accumulate(counts)]  # P(U <= u)
    rank = max(1, sum(share <= (1 - CONFIDENCE) / 2 for share in below))
    return rank, 1 - 2 * below[rank - 1]


FEWEST = 5  # points of a series; shorter ones are not searched


SHORTEST = 2  # points between two changes: a single one that stands out is an outlier


NEAREST = 200  # points on either side of a change, at most, for the estimate of its size
