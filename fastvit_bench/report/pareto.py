"""The accuracy-latency frontier of a set of models, with what the uncertainty of both axes leaves of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastvit_bench.records import Interval, Measurement, Share, Statistic, share
from fastvit_bench.stats.intervals import normal_quantile

if TYPE_CHECKING:  # takes longer to import than `--help` may
    import numpy as np

DRAWS = 2000  # the standard error of a probability is then 1.1 points at worst
SURE = 0.95  # from this probability on, and below its complement, membership is called settled


@dataclass(frozen=True)
class Latency:
    """A latency in milliseconds and what is known of its scatter; with neither samples nor interval it is exact."""

    figure: float
    samples: Sequence[float] = ()  # whose median or mean it is, by `statistic`
    statistic: Statistic = Statistic.MEDIAN
    interval: Interval | None = None  # taken where there are no samples

    @classmethod
    def of(cls, found: Measurement) -> "Latency":
        """Of a median its samples, of ModelBench's mean the means of its rounds."""
        median = found.method.statistic is Statistic.MEDIAN
        samples = found.samples_ms if median else found.round_means_ms
        return cls(found.figure_ms, samples, found.method.statistic)


@dataclass(frozen=True)
class Counted:
    """An accuracy that was measured: so many of so many images."""

    correct: int
    images: int

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100 * self.correct / self.images

    @property
    def share(self) -> Share:
        """With Wilson's 95 % interval."""
        return share(self.correct, self.images)


@dataclass(frozen=True)
class Stated:
    """An accuracy that somebody printed, in percent; without its counts it is taken as exact."""

    percent: float


@dataclass(frozen=True)
class Candidate:
    """One model in a frontier."""

    name: str
    latency: Latency
    accuracy: Counted | Stated


@dataclass(frozen=True)
class Standing:
    """Where a candidate stands."""

    on_frontier: bool  # by the figures themselves
    probability: float  # that it is on the frontier, over the draws
    dominated_by: tuple[int, ...]  # positions of the frontier's members that are better in both, the quickest first


def frontier(candidates: Sequence[Candidate], draws: int = DRAWS, seed: int = 0) -> list[Standing]:
    """The standing of each candidate, in their order; the same for the same candidates and seed.

    A candidate is dominated by one that is no slower and no less accurate, and better in one of them; of equal ones
    neither dominates the other. The probability is the share of draws in which nothing dominates it. A draw takes each
    latency's statistic of its samples resampled with replacement (Efron & Tibshirani, An Introduction to the
    Bootstrap, chapter 6) and each counted accuracy from Jeffreys' posterior Beta(correct + 1/2, wrong + 1/2) (Brown,
    Cai & DasGupta, Interval Estimation for a Binomial Proportion, 2001). All are drawn independently: accuracies over
    the same images rise and fall together, so a difference is surer than this says, and memberships are too close to
    one half rather than too far from it.
    """
    import numpy as np

    if not candidates:
        return []
    rng = np.random.default_rng(seed)
    latency = np.array([[each.latency.figure for each in candidates]])
    accuracy = np.array([[each.accuracy.percent for each in candidates]])
    [members] = _members(latency, accuracy)
    latencies = np.column_stack([latency_draws(each.latency, draws, rng) for each in candidates])
    accuracies = np.column_stack([_accuracy_draws(each.accuracy, draws, rng) for each in candidates])
    on = np.zeros(len(candidates))
    step = max(1, 1_000_000 // len(candidates))  # sorting takes several arrays of that many numbers
    for start in range(0, draws, step):
        on += _members(latencies[start : start + step], accuracies[start : start + step]).sum(axis=0)
    quickest_first = [int(at) for at in np.argsort(latency[0], kind="stable") if members[at]]
    return [
        Standing(
            on_frontier=bool(members[at]),
            probability=float(on[at] / draws),
            dominated_by=() if members[at] else tuple(_dominating(at, quickest_first, latency[0], accuracy[0])),
        )
        for at in range(len(candidates))
    ]


def latency_draws(latency: Latency, count: int, rng: "np.random.Generator") -> "np.ndarray[Any, Any]":
    """So many bootstrap replicates of a latency, in its unit.

    The median of n values drawn with replacement is drawn directly: the k-th smallest of n uniform numbers is
    Beta(k, n - k + 1), the next one follows from it (David & Nagaraja, Order Statistics, 3rd ed., section 2.5), and
    the value behind the uniform number u is the one of rank ceil(n u).
    """
    import numpy as np

    values = np.sort(np.asarray(latency.samples, dtype=float))
    n = len(values)
    if n == 0:
        if latency.interval is None or latency.interval.high <= latency.interval.low:
            return np.full(count, latency.figure)
        ends = np.log([latency.interval.low, latency.interval.high])
        scale = (ends[1] - ends[0]) / (2 * normal_quantile(0.5 + latency.interval.confidence / 2))
        return latency.figure * np.exp(scale * rng.standard_normal(count))
    if latency.statistic is not Statistic.MEDIAN:
        return rng.choice(values, (count, n)).mean(axis=1)
    k = (n + 1) // 2
    low = rng.beta(k, n - k + 1, count)
    middle = values[_rank(low, n)]
    if n % 2:
        return middle
    high = low + (1 - low) * rng.beta(1, n - k, count)
    return (middle + values[_rank(high, n)]) / 2


def _rank(uniform: "np.ndarray[Any, Any]", n: int) -> "np.ndarray[Any, Any]":
    """0-based, of the value that a uniform number stands for."""
    import numpy as np

    return np.clip(np.ceil(uniform * n).astype(int) - 1, 0, n - 1)


def _accuracy_draws(accuracy: Counted | Stated, count: int, rng: "np.random.Generator") -> "np.ndarray[Any, Any]":
    import numpy as np

    if isinstance(accuracy, Stated):
        return np.full(count, accuracy.percent)
    return 100 * rng.beta(accuracy.correct + 0.5, accuracy.images - accuracy.correct + 0.5, count)


def _members(latency: "np.ndarray[Any, Any]", accuracy: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Whether nothing dominates each candidate, of arrays of draws x candidates.

    From the quickest on, the most accurate first among equally quick ones: a member is more accurate than everything
    before it, or the equal of such a one in both.
    """
    import numpy as np

    order = np.lexsort((-accuracy, latency), axis=1)
    latency, accuracy = np.take_along_axis(latency, order, 1), np.take_along_axis(accuracy, order, 1)
    best = np.maximum.accumulate(accuracy, axis=1)
    first = np.ones_like(accuracy, dtype=bool)
    first[:, 1:] = accuracy[:, 1:] > best[:, :-1]
    place = np.where(first, np.arange(accuracy.shape[1]), 0)
    of_best = np.take_along_axis(latency, np.maximum.accumulate(place, axis=1), 1)
    member = (accuracy == best) & (latency == of_best)
    found = np.empty_like(member)
    np.put_along_axis(found, order, member, 1)
    return found


def _dominating(
    at: int, members: Sequence[int], latency: "np.ndarray[Any, Any]", accuracy: "np.ndarray[Any, Any]"
) -> list[int]:
    return [
        each
        for each in members
        if latency[each] <= latency[at]
        and accuracy[each] >= accuracy[at]
        and (latency[each] < latency[at] or accuracy[each] > accuracy[at])
    ]
