"""The frontier: known answers, its definition tried one by one, and what resampling does to it."""

import numpy as np
import pytest
from builders import measurement, samples
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.records import Interval, Statistic
from fastvit_bench.stats.pareto import Counted, FrontierPoint, Latency, Stated, frontier, latency_draws


def exact(*points: tuple[float, float]) -> list[FrontierPoint]:
    """Points that are known exactly, of latency and accuracy."""
    return [FrontierPoint(f"m{at}", Latency(ms), Stated(top1)) for at, (ms, top1) in enumerate(points)]


def test_known_answer() -> None:
    found = frontier(exact((1, 70), (2, 75), (3, 72), (4, 80), (4, 78)))
    assert [each.on_frontier for each in found] == [True, True, False, True, False]
    assert [each.dominated_by for each in found] == [(), (), (1,), (), (3,)]
    assert [each.probability for each in found] == [1, 1, 0, 1, 0]


def test_one_and_none() -> None:
    [only] = frontier(exact((5, 50)))
    assert (only.on_frontier, only.probability, only.dominated_by) == (True, 1.0, ())
    assert frontier([]) == []


def test_equals_do_not_dominate_each_other() -> None:
    found = frontier(exact((2, 80), (2, 80), (3, 80), (2, 79), (1, 60)))
    assert [each.on_frontier for each in found] == [True, True, False, False, True]
    assert [each.probability for each in found] == [1, 1, 0, 0, 1]
    assert found[2].dominated_by == (0, 1)


grid = st.tuples(st.integers(1, 6).map(float), st.integers(1, 6).map(float))


@given(st.lists(grid, min_size=1, max_size=12), st.randoms())
def test_it_is_what_nothing_dominates(points: list[tuple[float, float]], random: object) -> None:
    found = frontier(exact(*points), draws=3)
    for at, (ms, top1) in enumerate(points):
        dominating = {
            each
            for each, (other_ms, other_top1) in enumerate(points)
            if other_ms <= ms and other_top1 >= top1 and (other_ms, other_top1) != (ms, top1)
        }
        assert found[at].on_frontier is (not dominating)
        assert found[at].probability == float(not dominating)
        assert set(found[at].dominated_by) == {each for each in dominating if found[each].on_frontier}
        assert bool(found[at].dominated_by) is bool(dominating)  # some member always does


@given(
    st.lists(
        st.tuples(st.floats(1, 100), st.integers(0, 1000), st.floats(0.001, 0.5)),
        min_size=1,
        max_size=8,
    )
)
def test_probabilities_are_shares_and_somebody_is_always_on_it(entries: list[tuple[float, int, float]]) -> None:
    candidates = [
        FrontierPoint("m", Latency(ms, [ms * (1 + spread * at / 10) for at in range(11)]), Counted(correct, 1000))
        for ms, correct, spread in entries
    ]
    found = frontier(candidates, draws=50)
    assert all(0 <= each.probability <= 1 for each in found)
    assert sum(each.probability for each in found) >= 1 - 1e-9
    assert any(each.on_frontier for each in found)


def test_a_seed_repeats_and_another_differs() -> None:
    candidates = [
        FrontierPoint("a", Latency.of(measurement(samples_ns=(samples(10.0, spread=0.3),))), Counted(755, 1000)),
        FrontierPoint("b", Latency.of(measurement(samples_ns=(samples(10.1, spread=0.3),))), Counted(750, 1000)),
    ]
    first = frontier(candidates, seed=1)
    assert first == frontier(candidates, seed=1)
    assert first != frontier(candidates, seed=2)
    assert 0.05 < first[1].probability < 0.95  # dominated by the figures, and nobody can be sure of it
    assert not first[1].on_frontier


def test_more_images_make_it_surer() -> None:
    def doubt(images: int) -> float:
        pair = [Counted(round(0.76 * images), images), Counted(round(0.75 * images), images)]
        found = frontier([FrontierPoint("m", Latency(ms), each) for ms, each in zip((1.0, 2.0), pair, strict=True)])
        return found[1].probability

    assert doubt(100) > 0.3
    assert doubt(100_000) < 0.001


@pytest.mark.parametrize("count", [1, 2, 7, 10])
def test_medians_are_drawn_as_resampling_draws_them(count: int) -> None:
    values = np.sort(np.random.default_rng(3).lognormal(size=count))
    draws = 40_000
    direct = latency_draws(Latency(1.0, values), draws, np.random.default_rng(0))
    slow = np.median(np.random.default_rng(1).choice(values, (draws, count)), axis=1)
    # Kolmogorov and Smirnov's distance between two sets of draws, at the 0.1 % level
    places = np.unique(np.concatenate([direct, slow]))
    apart = (
        np.abs(np.searchsorted(np.sort(direct), places, "right") - np.searchsorted(np.sort(slow), places, "right"))
        / draws
    )
    assert apart.max() < 1.95 * (2 / draws) ** 0.5


def test_means_and_intervals_are_drawn_too() -> None:
    rng = np.random.default_rng(0)
    mean = latency_draws(Latency(2.0, [1.0, 3.0], Statistic.TRIMMED_MEAN), 4000, rng)
    assert set(mean) == {1.0, 2.0, 3.0}
    assert mean.mean() == pytest.approx(2.0, abs=0.05)
    interval = Interval(low=9.0, high=11.0, confidence=0.95)
    spread = latency_draws(Latency(10.0, interval=interval), 20_000, rng)
    assert np.mean((spread > 9.0) & (spread < 11.0)) == pytest.approx(0.95, abs=0.01)
    assert set(latency_draws(Latency(10.0), 5, rng)) == {10.0}
