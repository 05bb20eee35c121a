"""Two networks' answers to the same images: the difference of their accuracies, its interval and McNemar's exact test.

Only images on which one of the two is right tell them apart. scipy is imported inside functions, because `--help` would
wait for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastvit_bench.records import Accuracy
from fastvit_bench.stats.intervals import CONFIDENCE, Bounds, normal_quantile

ALPHA = 1 - CONFIDENCE  # of a test, in keeping with the intervals
POWER = 0.8  # chance to see a true difference of the size that `PairedAnswers.detectable` says
_EXACT = 1e-12  # of an interval's ends
LEAST_APART = 6  # images: if all were lost by one side, McNemar's exact p would be 2^-5, the first below 0.05


@dataclass(frozen=True)
class PairedAnswers:
    """Counts of images that two networks answered, by which of the two was right alone."""

    images: int  # that both answered
    gained: int  # images on which only the new network is right
    lost: int  # images on which only the reference is right

    def __post_init__(self) -> None:
        """Raise `ValueError` for counts that so many images cannot have."""
        if self.images < 1 or min(self.gained, self.lost) < 0 or self.gained + self.lost > self.images:
            raise ValueError(f"{self.gained} gained and {self.lost} lost of {self.images} images")

    @classmethod
    def of(cls, reference: Sequence[bool], new: Sequence[bool]) -> "PairedAnswers":
        """Count the answers of two networks, whether each was right, to the same images in the same order."""
        pairs = list(zip(reference, new, strict=True))
        gained = sum(b and not a for a, b in pairs)
        return cls(len(pairs), gained, sum(a and not b for a, b in pairs))

    @classmethod
    def of_accuracies(cls, reference: Accuracy, new: Accuracy) -> "PairedAnswers | None":
        """Count the answers of two accuracies; None unless both know theirs, and of the same images.

        Images that could not be read are those of both, because their contents are the same.
        """
        known, own = reference.answers, new.answers
        same = reference.data_digest == new.data_digest and reference.evaluation.among is new.evaluation.among
        if known is None or own is None or not same or not reference.contents:
            return None
        counts = cls.of(known, own)
        return cls(new.images, counts.gained, counts.lost)

    @property
    def apart(self) -> int:
        """Images on which exactly one of the two is right."""
        return self.gained + self.lost

    @property
    def difference(self) -> float:
        """The new network's accuracy less the reference's, as a share."""
        return (self.gained - self.lost) / self.images

    @property
    def p(self) -> float:
        """The exact two-sided probability of so uneven a split, were both networks as often right alone.

        McNemar (Psychometrika 12, 1947), with binomial instead of chi-squared probabilities.
        """
        if not self.apart:
            return 1.0
        from scipy.stats import binomtest

        return float(binomtest(self.gained, self.apart).pvalue)

    def interval(self, confidence: float = CONFIDENCE) -> Bounds:
        """Return Tango's score interval of the difference (Statistics in Medicine 17, 1998), valid where none differ.

        Its ends are the differences that the score test just does not reject.
        """
        from scipy.optimize import bisect

        z = normal_quantile(0.5 + confidence / 2)
        # at the ends of its range the statistic is infinite, so that only its sign may decide
        solve: Any = bisect  # its types do not say that it returns a number
        ends = [-1.0, 1.0]
        if self.difference > -1:
            ends[0] = solve(self._beyond, -1, self.difference, args=(z,), xtol=_EXACT)
        if self.difference < 1:
            ends[1] = solve(self._beyond, self.difference, 1, args=(-z,), xtol=_EXACT)
        return Bounds(float(ends[0]), float(ends[1]), confidence)

    def _beyond(self, difference: float, z: float) -> float:
        """Return by how much the score statistic of a supposed difference is larger than `z`."""
        return self._score(difference) - z

    def _score(self, difference: float) -> float:
        """Return the score statistic of a supposed difference, in standard deviations; it falls with the difference.

        The share of images that are lost is the one most likely at that difference (Tango 1998, equation 6).
        """
        n, d = self.images, difference
        a = 2 * n
        b = -self.gained - self.lost + (2 * n - self.gained + self.lost) * d
        c = -self.lost * d * (1 - d)
        lost = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = n * (2 * lost + d * (1 - d))
        distance = self.gained - self.lost - n * d
        if variance > 0:
            return distance / math.sqrt(variance)
        return math.copysign(math.inf, distance) if distance else 0.0

    @property
    def detectable(self) -> float:
        """About the smallest true difference, as a share, that so many images show four times out of five.

        It follows from the share of images on which the two differ (Connor, Biometrics 43, 1987, for small
        differences), and is never less than six images, the fewest that the exact test can be sure of.
        """
        deviations = normal_quantile(1 - ALPHA / 2) + normal_quantile(POWER)
        return max(LEAST_APART / self.images, deviations * math.sqrt(self.apart) / self.images)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return probabilities corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979), in order."""
    corrected, most = [0.0] * len(probabilities), 0.0
    for rank, at in enumerate(sorted(range(len(probabilities)), key=probabilities.__getitem__)):
        most = max(most, min(1.0, (len(probabilities) - rank) * probabilities[at]))
        corrected[at] = most
    return corrected
