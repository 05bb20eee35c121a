"""Whether two quantities rise together, whatever the shape of their relation."""

import statistics
from collections.abc import Sequence


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rho of two equally long sequences, -1 to 1; None where it is not defined.

    It is Pearson's correlation of the ranks; equal values share their mean rank (Spearman, The Proof and Measurement of
    Association between Two Things, 1904). It is not defined for fewer than three values or for values all equal.
    """
    if len(first) < 3 or min(len(set(first)), len(set(second))) < 2:
        return None
    return statistics.correlation(_ranks(first), _ranks(second))


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, from 1; equal values have their mean rank."""
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(values), start=1):
        places.setdefault(value, []).append(place)
    return [statistics.fmean(places[value]) for value in values]
