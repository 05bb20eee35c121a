"""The accuracy-latency frontier of a set of models, with the uncertainty of both axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastvit_bench.records import Interval, Measurement, Share, Statistic, share
from fastvit_bench.stats.intervals import normal_quantile

if TYPE_CHECKING:  # takes longer to import than `--help` may
    import numpy as np

DRAWS = 2000  # the largest standard error of a probability is then 1.1 percentage points
SURE = 0.95  # membership counts as certain from this probability on, and below its complement


@dataclass(frozen=True)
class Latency:
    """A latency in milliseconds and its scatter; it counts as exact with neither samples nor interval."""

    figure: float
    samples: Sequence[float] = ()  # the figure is their median or mean, by `statistic`
    statistic: Statistic = Statistic.MEDIAN
    interval: Interval | None = None  # used where there are no samples

    @classmethod
    def of(cls, measurement: Measurement) -> "Latency":
        """Return a measurement's latency: with its samples for a median, with its rounds' means for a trimmed mean."""
        median = measurement.method.statistic is Statistic.MEDIAN
        samples = measurement.samples_ms if median else measurement.round_means_ms
        return cls(measurement.figure_ms, samples, measurement.method.statistic)


@dataclass(frozen=True)
class Counted:
    """A measured accuracy: correct images out of all images."""

    correct: int
    images: int

    @property
    def percent(self) -> float:
        """Accuracy in percent, 0 to 100."""
        return 100 * self.correct / self.images

    @property
    def share(self) -> Share:
        """Accuracy as a share, with Wilson's 95 % interval."""
        return share(self.correct, self.images)


@dataclass(frozen=True)
class Stated:
    """A published accuracy in percent; without its counts it is treated as exact."""

    percent: float


@dataclass(frozen=True)
class FrontierPoint:
    """One model considered for the frontier."""

    name: str
    latency: Latency
    accuracy: Counted | Stated


@dataclass(frozen=True)
class Standing:
    """A candidate's position relative to the frontier."""

    on_frontier: bool  # by the figures themselves
    probability: float  # of being on the frontier: share of the draws
    dominated_by: tuple[int, ...]  # indices of the frontier's members that dominate it, the quickest first


def frontier(candidates: Sequence[FrontierPoint], draws: int = DRAWS, seed: int = 0) -> list[Standing]:
    """Return the standing of each candidate, in order; deterministic for the same candidates and seed.

    A candidate is dominated by one that is no slower and no less accurate, and better in one of the two. Of equal
    candidates neither dominates. The probability is the share of draws in which nothing dominates the candidate.

    A draw resamples each latency's samples with replacement and takes their statistic (Efron & Tibshirani, An
    Introduction to the Bootstrap, chapter 6). It draws each counted accuracy from Jeffreys' posterior
    Beta(correct + 1/2, wrong + 1/2) (Brown, Cai & DasGupta, Interval Estimation for a Binomial Proportion, 2001).
    All draws are independent. Accuracies over the same images are correlated, so a difference is more certain than
    this says: probabilities are too close to one half rather than too far from it.
    """
    import numpy as np

    if not candidates:
        return []
    rng = np.random.default_rng(seed)
    return standings(
        [candidate.latency.figure for candidate in candidates],
        [candidate.accuracy.percent for candidate in candidates],
        np.column_stack([latency_draws(candidate.latency, draws, rng) for candidate in candidates]),
        np.column_stack([_accuracy_draws(candidate.accuracy, draws, rng) for candidate in candidates]),
    )


def standings(
    figures: Sequence[float],
    percents: Sequence[float],
    latencies: "np.ndarray[Any, Any]",
    accuracies: "np.ndarray[Any, Any]",
) -> list[Standing]:
    """Return the standing of each candidate from its figures and from draws of them, of shape (draws, candidates)."""
    import numpy as np

    latency, accuracy = np.array([figures]), np.array([percents])
    [members] = _members(latency, accuracy)
    draws, count = latencies.shape
    memberships = np.zeros(count)  # draws in which each candidate is on the frontier
    step = max(1, 1_000_000 // count)  # sorting takes several arrays of that many numbers
    for start in range(0, draws, step):
        memberships += _members(latencies[start : start + step], accuracies[start : start + step]).sum(axis=0)
    quickest_first = [int(index) for index in np.argsort(latency[0], kind="stable") if members[index]]
    return [
        Standing(
            on_frontier=bool(members[index]),
            probability=float(memberships[index] / draws),
            dominated_by=() if members[index] else tuple(_dominating(index, quickest_first, latency[0], accuracy[0])),
        )
        for index in range(count)
    ]


def latency_draws(latency: Latency, count: int, rng: "np.random.Generator") -> "np.ndarray[Any, Any]":
    """Return `count` bootstrap replicates of a latency, in its unit.

    The median of n values drawn with replacement is drawn directly: the k-th smallest of n uniform numbers is
    Beta(k, n - k + 1), and the next one follows from it (David & Nagaraja, Order Statistics, 3rd ed., section 2.5).
    A uniform number u stands for the value of rank ceil(n u).
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
    """Return the 0-based rank of the value that a uniform number stands for."""
    import numpy as np

    return np.clip(np.ceil(uniform * n).astype(int) - 1, 0, n - 1)


def _accuracy_draws(accuracy: Counted | Stated, count: int, rng: "np.random.Generator") -> "np.ndarray[Any, Any]":
    import numpy as np

    if isinstance(accuracy, Stated):
        return np.full(count, accuracy.percent)
    return 100 * rng.beta(accuracy.correct + 0.5, accuracy.images - accuracy.correct + 0.5, count)


def _members(latency: "np.ndarray[Any, Any]", accuracy: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Return whether each candidate is undominated, for arrays of shape (draws, candidates).

    Candidates are sorted from the quickest, and the most accurate first among equally quick ones. A member is more
    accurate than everything before it, or equal in both to such a candidate.
    """
    import numpy as np

    order = np.lexsort((-accuracy, latency), axis=1)
    latency, accuracy = np.take_along_axis(latency, order, 1), np.take_along_axis(accuracy, order, 1)
    best = np.maximum.accumulate(accuracy, axis=1)
    first = np.ones_like(accuracy, dtype=bool)
    first[:, 1:] = accuracy[:, 1:] > best[:, :-1]
    position = np.where(first, np.arange(accuracy.shape[1]), 0)
    latency_of_best = np.take_along_axis(latency, np.maximum.accumulate(position, axis=1), 1)
    is_member = (accuracy == best) & (latency == latency_of_best)
    members = np.empty_like(is_member)
    np.put_along_axis(members, order, is_member, 1)  # back to the candidates' own order
    return members


def _dominating(
    index: int, members: Sequence[int], latency: "np.ndarray[Any, Any]", accuracy: "np.ndarray[Any, Any]"
) -> list[int]:
    """Return the members that dominate the candidate at `index`, in their order."""
    return [
        member
        for member in members
        if latency[member] <= latency[index]
        and accuracy[member] >= accuracy[index]
        and (latency[member] < latency[index] or accuracy[member] > accuracy[index])
    ]
