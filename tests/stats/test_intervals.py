"""Figures and intervals against their definitions, numpy and scipy, and against distributions that are known."""

import itertools
import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvit_bench.stats import intervals
from fastvit_bench.stats.intervals import order_statistic_ranks

times = st.floats(1e-3, 1e6, allow_nan=False)

# --- single figures ---------------------------------------------------------------------------------------------------


@given(st.lists(times, min_size=1, max_size=40), st.floats(0, 1))
def test_figures_agree_with_numpy(values: list[float], share: float) -> None:
    assert intervals.median(values) == pytest.approx(np.median(values), rel=1e-12)
    assert intervals.mean(values) == pytest.approx(np.mean(values), rel=1e-12)
    assert intervals.quantile(values, share) == pytest.approx(np.quantile(values, share), rel=1e-9)
    assert intervals.quantile(values, 0.5) == pytest.approx(intervals.median(values), rel=1e-12)
    deviations = np.abs(np.array(values) - np.median(values))
    assert intervals.median_absolute_deviation(values) == pytest.approx(np.median(deviations), rel=1e-9, abs=1e-9)


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=40))
def test_a_median_is_the_standard_library_s(values: list[int]) -> None:
    assert intervals.median(values) == statistics.median(values)
    assert intervals.median(iter(values)) == intervals.median(sorted(values, reverse=True))


@given(st.lists(times, min_size=1, max_size=40), st.integers(0, 25))
def test_a_trimmed_mean_is_scipy_s(values: list[float], trim: int) -> None:
    if 2 * trim >= len(values):
        with pytest.raises(ValueError, match="leaves none"):
            intervals.trimmed_mean(values, trim)
        return
    kept = scipy.stats.trimboth(values, (trim + 0.5) / len(values))  # scipy takes a share, and rounds down
    assert intervals.trimmed_mean(values, trim) == pytest.approx(kept.mean(), rel=1e-12)


def test_no_values_have_no_median() -> None:
    with pytest.raises(ValueError, match="no median"):
        intervals.median([])


@pytest.mark.parametrize(("share", "deviations"), [(0.5, 0), (0.975, 1.959964), (0.025, -1.959964)])
def test_normal_quantiles_are_the_textbook_s(share: float, deviations: float) -> None:
    assert intervals.normal_quantile(share) == pytest.approx(deviations, abs=1e-6)


# --- ranks ------------------------------------------------------------------------------------------------------------


def exact_cumulative(count: int, quantile: Fraction) -> list[Fraction]:
    """P(K < rank) of K ~ Binomial(count, quantile) for rank 0 to count + 1, in whole numbers."""
    mass = (math.comb(count, k) * quantile**k * (1 - quantile) ** (count - k) for k in range(count + 1))
    return [Fraction(0), *itertools.accumulate(mass)]


@pytest.mark.parametrize(
    ("count", "quantile", "low", "high", "percent"),
    [(100, 0.5, 40, 61, 96.5), (100, 0.9, 84, 96, 95.6), (6, 0.5, 1, 6, 96.9)],
)
def test_known_pairs_of_ranks(count: int, quantile: float, low: int, high: int, percent: float) -> None:
    ranks = order_statistic_ranks(count, quantile)
    assert ranks is not None
    assert ranks[:2] == (low, high)
    assert 100 * ranks[2] == pytest.approx(percent, abs=0.05)


@pytest.mark.parametrize(("quantile", "fewest"), [(0.5, 6), (0.9, 36), (0.99, 368)])
def test_too_few_samples_give_no_interval(quantile: float, fewest: int) -> None:
    assert order_statistic_ranks(fewest - 1, quantile) is None
    assert order_statistic_ranks(fewest, quantile) is not None
    assert order_statistic_ranks(1, quantile) is None


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 150), percent=st.sampled_from([10, 25, 50, 75, 90]), confidence=st.sampled_from([90, 95, 99])
)
def test_ranks_are_the_narrowest_with_equal_tails(count: int, percent: int, confidence: int) -> None:
    quantile, tail = Fraction(percent, 100), Fraction(100 - confidence, 200)
    ranks = order_statistic_ranks(count, percent / 100, confidence / 100)
    # P(K < low) and P(K >= high) must each stay within the tail; one rank further inside neither would
    below = exact_cumulative(count, quantile)
    lows = [rank for rank in range(1, count + 1) if below[rank] <= tail]
    highs = [rank for rank in range(1, count + 1) if 1 - below[rank] <= tail]
    if not lows or not highs:
        assert ranks is None
        return
    assert ranks is not None
    low, high, coverage = ranks
    assert (low, high) == (lows[-1], highs[0])
    assert coverage == pytest.approx(float(below[high] - below[low]), abs=1e-9)
    assert coverage >= confidence / 100


@pytest.mark.parametrize(("count", "quantile"), [(20, 0.5), (100, 0.5), (100, 0.9), (400, 0.99)])
def test_the_interval_covers_the_true_quantile_as_often_as_it_says(count: int, quantile: float) -> None:
    """On a skewed distribution whose quantiles are known: the exponential, -ln(1 - q)."""
    ranks = order_statistic_ranks(count, quantile)
    assert ranks is not None
    low, high, coverage = ranks
    draws = np.sort(np.random.default_rng(7).exponential(size=(20_000, count)), axis=1)
    truth = -math.log(1 - quantile)
    covered = np.mean((draws[:, low - 1] <= truth) & (truth <= draws[:, high - 1]))
    assert covered == pytest.approx(coverage, abs=4 * math.sqrt(coverage * (1 - coverage) / 20_000))


@pytest.mark.parametrize("count", [1_100, 5_000])
def test_many_samples_are_no_problem(count: int) -> None:
    ranks = order_statistic_ranks(count, 0.5)
    assert ranks is not None
    low, high, coverage = ranks
    half = 1.96 * math.sqrt(count) / 2  # normal approximation
    assert low == pytest.approx(count / 2 - half, abs=2)
    assert high == pytest.approx(count / 2 + half, abs=2)
    assert 0.95 <= coverage < 0.96


# --- intervals --------------------------------------------------------------------------------------------------------


@given(st.lists(times, min_size=1, max_size=120), st.sampled_from([0.5, 0.9]), st.sampled_from([0.9, 0.95, 0.975]))
def test_the_interval_of_a_quantile_lies_between_its_ranks(values: list[float], share: float, level: float) -> None:
    ranks = order_statistic_ranks(len(values), share, level)
    found = intervals.quantile_interval(values, share, level)
    if ranks is None:
        assert found is None
        return
    low, high, reached = ranks
    ordered = sorted(values)
    assert found == (ordered[low - 1], ordered[high - 1], reached)
    assert found.low <= intervals.quantile(values, share) <= found.high


def test_the_interpolated_interval_of_six_values() -> None:
    found = intervals.median_interval([6.0, 1, 5, 2, 4, 3], 0.95)
    # 96.875 % between the ends, 78.125 % between their neighbours: a tenth of the way, weighted 5 : 0.4 + 1
    assert found == pytest.approx((1 + 0.5 / 1.4, 6 - 0.5 / 1.4))
    assert intervals.median_interval([1.0, 2, 3, 4, 5], 0.95) is None


@given(st.lists(times, min_size=6, max_size=60), st.floats(0.8, 0.96))
def test_the_interpolated_interval_lies_within_the_one_between_ranks(values: list[float], level: float) -> None:
    wide, found = intervals.quantile_interval(values, 0.5, level), intervals.median_interval(values, level)
    assert wide is not None
    assert found is not None
    assert wide.low * (1 - 1e-12) <= found[0] <= intervals.median(values) * (1 + 1e-12)
    assert intervals.median(values) * (1 - 1e-12) <= found[1] <= wide.high * (1 + 1e-12)


@given(st.lists(times, max_size=40), st.sampled_from([0.9, 0.95, 0.975, 0.99]))
def test_the_interval_of_a_mean_is_scipy_s(values: list[float], level: float) -> None:
    found = intervals.mean_interval(values, level)
    if len(values) < 2:
        assert found is None
        return
    assert found is not None
    assert found.confidence == level
    half = scipy.stats.t.ppf(0.5 + level / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    size = max(values)
    assert found.low == pytest.approx(np.mean(values) - half, rel=1e-9, abs=1e-9 * size)
    assert found.high == pytest.approx(np.mean(values) + half, rel=1e-9, abs=1e-9 * size)


@given(st.lists(times, min_size=2, max_size=30), st.floats(1e-3, 1e3))
def test_intervals_scale_with_the_unit(values: list[float], unit: float) -> None:
    scaled = [unit * value for value in values]
    for one, other in (
        (intervals.mean_interval(values), intervals.mean_interval(scaled)),
        (intervals.quantile_interval(values, 0.5), intervals.quantile_interval(scaled, 0.5)),
        (intervals.median_interval(values, 0.95), intervals.median_interval(scaled, 0.95)),
    ):
        assert (one is None) is (other is None)
        if one is not None and other is not None:
            wanted = [unit * end for end in one[:2]]
            assert other[:2] == pytest.approx(wanted, rel=1e-9, abs=1e-9 * max(scaled))


@pytest.mark.parametrize("rounds", [2, 5, 19, 20, 40])
def test_the_interval_of_a_mean_covers_it_as_often_as_it_says(rounds: int) -> None:
    draws = np.random.default_rng(8).normal(5, 1, (3000, rounds)).tolist()
    found = [intervals.mean_interval(row) for row in draws]
    covered = np.mean([ends is not None and ends.low <= 5 <= ends.high for ends in found])
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 3000))


@settings(max_examples=50)
@given(st.integers(1, 60_000), st.data())
def test_wilson_s_interval_solves_wilson_s_equation(trials: int, data: st.DataObject) -> None:
    """Its ends are the shares p from which the observed share is 1.96 standard errors sqrt(p (1 - p) / n) away."""
    successes = data.draw(st.integers(0, trials))
    low, high, confidence = intervals.wilson_interval(successes, trials)
    observed, deviations = successes / trials, intervals.normal_quantile(0.975)
    assert confidence == 0.95
    assert 0 <= low <= observed <= high <= 1
    for end, extreme in ((low, 0), (high, trials)):
        if successes != extreme:
            distance = deviations * math.sqrt(end * (1 - end) / trials)
            assert abs(observed - end) == pytest.approx(distance, rel=1e-6, abs=1e-12)


def test_wilson_s_interval_is_the_textbook_s() -> None:
    # Newcombe (1998), table I; Agresti and Coull (1998) for 8 of 10
    assert intervals.wilson_interval(81, 263)[:2] == pytest.approx((0.2553, 0.3662), abs=2e-4)
    assert intervals.wilson_interval(8, 10)[:2] == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert intervals.wilson_interval(0, 5).low == 0
    assert intervals.wilson_interval(5, 5).high == 1
