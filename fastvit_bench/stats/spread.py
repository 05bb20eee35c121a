"""Intervals from several processes: what the next run would give, not only what these samples show."""

import math
from collections.abc import Sequence


def another_figure(medians: Sequence[float], confidence: float = 0.95) -> float | None:
    """Return the factor by which another run's figure lies above or below this one's at most; None below two medians.

    The medians of the processes are taken as log-normal around one value. A figure over n processes has 1/n of their
    variance, and so has the next one, so their difference has 2/n of it (Hahn & Meeker 1991, prediction of a future
    mean): Student's t with n - 1 degrees of freedom times s times the square root of 2/n. Raises ValueError for a
    median that is no positive number.
    """
    count = len(medians)
    if count < 2:
        return None
    if any(not value > 0 for value in medians):
        raise ValueError("medians of times must be above zero")
    logs = [math.log(value) for value in medians]
    mean = math.fsum(logs) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in logs) / (count - 1))
    return math.exp(_student_t(count - 1, confidence) * deviation * math.sqrt(2 / count))


def _student_t(degrees: int, confidence: float) -> float:
    from scipy.special import stdtrit  # imported late, because `--help` would wait for it

    return float(stdtrit(degrees, (1 + confidence) / 2))
