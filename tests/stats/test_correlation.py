"""Rank correlation: a monotone relation is 1, ties share a rank, and what has no order has none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.stats.correlation import rank_correlation

VALUES = st.lists(st.floats(0.01, 1e6), min_size=3, max_size=30, unique=True)


@given(VALUES)
def test_a_monotone_relation_is_one_whatever_its_shape(values: list[float]) -> None:
    assert rank_correlation(values, [2 * value for value in values]) == pytest.approx(1)
    assert rank_correlation(values, [-value for value in values]) == pytest.approx(-1)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=3, max_size=30))
def test_it_is_symmetric_and_within_its_bounds(pairs: list[tuple[float, float]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    rho = rank_correlation(first, second)
    assert rho == rank_correlation(second, first)
    assert rho is None or -1.0000001 <= rho <= 1.0000001


def test_equal_values_share_their_mean_rank() -> None:
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: Pearson's 4.5 / sqrt(4.5 * 5)
    assert rank_correlation([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.9486833)


@pytest.mark.parametrize("values", [[], [1.0, 2.0], [2.0, 2.0, 2.0]])
def test_without_an_order_there_is_none(values: list[float]) -> None:
    assert rank_correlation(values, [float(at) for at in range(len(values))]) is None
