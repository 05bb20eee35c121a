"""Two networks on the same images: published values, the interval by its definition, its coverage, what is paired."""

import itertools
import math
from typing import Any

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from fastvit_bench.records import Accuracy, RankedClasses, answers
from fastvit_bench.stats.paired import PairedAnswers, holm


def test_published_values() -> None:
    # airway hyper-responsiveness before and after a transplantation (Fagerland and others 2014, tables I and IV)
    paired = PairedAnswers(21, gained=1, lost=7)
    assert paired.interval()[:2] == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert paired.p == pytest.approx(0.0703, abs=5e-5)


def test_fifty_thousand_images_see_what_a_thousand_do_not() -> None:
    # 3 % of the answers differ, as between a network and its INT8 file
    assert PairedAnswers(50_000, 700, 800).detectable == pytest.approx(0.0022, abs=1e-4)
    assert PairedAnswers(1000, 14, 16).detectable == pytest.approx(0.0153, abs=1e-4)


def test_without_a_difference_the_interval_still_has_a_width() -> None:
    paired = PairedAnswers(1000, 0, 0)
    z2 = 1.959964**2
    assert paired.interval()[:2] == pytest.approx((-z2 / (1000 + z2), z2 / (1000 + z2)), rel=1e-5)
    assert (paired.p, paired.difference) == (1.0, 0.0)
    assert paired.detectable == 0.006  # six images, however alike the answers were


counts = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200)).filter(any)


@given(counts)
def test_the_ends_are_what_the_score_test_just_accepts(drawn: tuple[int, int, int]) -> None:
    gained, lost, alike = drawn
    paired = PairedAnswers(sum(drawn), gained, lost)
    low, high, _ = paired.interval()
    assert -1 <= low <= paired.difference <= high <= 1
    for end in {low, high} - {-1.0, 1.0}:

        def unlikely(share: float, at: float = end) -> float:
            """The negative log-likelihood of a share of lost images, where that of gained ones is so much larger."""
            shares = (share + at, share, 1 - 2 * share - at)
            return -sum(n * math.log(max(p, 1e-300)) for n, p in zip((gained, lost, alike), shares, strict=True) if n)

        least, most = max(0.0, -end), (1 - end) / 2
        found: Any = minimize_scalar(unlikely, bounds=(least, most), method="bounded", options={"xatol": 1e-12})
        share = found.x
        n = paired.images
        score = (gained - lost - n * end) / math.sqrt(n * (2 * share + end - end**2))
        assert abs(score) == pytest.approx(1.959964, rel=2e-3)


@given(counts)
def test_the_other_way_round_all_of_it_is_turned_over(drawn: tuple[int, int, int]) -> None:
    gained, lost, _ = drawn
    one, other = PairedAnswers(sum(drawn), gained, lost), PairedAnswers(sum(drawn), lost, gained)
    assert one.interval()[:2] == pytest.approx([-end for end in other.interval()[1::-1]], abs=1e-9)
    assert one.p == pytest.approx(other.p)
    assert (one.detectable, one.difference) == (other.detectable, -other.difference)


@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.02), (0.01, 0.03), (0.0, 0.02), (0.005, 0.1)])
def test_the_interval_covers_the_truth_as_often_as_it_says(gained: float, lost: float) -> None:
    n, covered = 150, 0.0
    for apart in range(n):
        weight = binom.pmf(apart, n, gained + lost)
        if weight < 1e-4:  # what is left out is far less than the bounds allow for
            continue
        for alone in range(apart + 1):
            low, high, _ = PairedAnswers(n, alone, apart - alone).interval()
            if low <= gained - lost <= high:
                covered += weight * binom.pmf(alone, apart, gained / (gained + lost))
    assert 0.93 < covered < 0.99


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_corrects_every_probability_and_keeps_their_order(probabilities: list[float]) -> None:
    corrected = holm(probabilities)
    for (p, own), (q, other) in itertools.combinations(zip(probabilities, corrected, strict=True), 2):
        assert own <= other if p < q else own >= other
    assert all(p <= own <= min(1.0, len(corrected) * p) for p, own in zip(probabilities, corrected, strict=True))
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # by hand


@pytest.mark.parametrize("counts", [(0, 0, 0), (5, 3, 3), (5, -1, 0)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="images"):
        PairedAnswers(*counts)


# --- of accuracies ----------------------------------------------------------------------------------------------------


def counted(right: str, **changes: object) -> Accuracy:
    """The accuracy of eight images, of which a ``1`` was right."""
    bits = [sign == "1" for sign in right]
    return builders.accuracy(
        images=8, top1=sum(bits), top5=8, right=answers.packed(bits), **{"contents": "cc" * 32, **changes}
    )


def test_accuracies_are_paired_image_by_image() -> None:
    found = PairedAnswers.of_accuracies(counted("11110000"), counted("10011100"))
    assert found == PairedAnswers(8, gained=2, lost=2)  # equal counts, four images apart


@pytest.mark.parametrize(
    "other",
    [
        counted("11110000", contents="dd" * 32),
        counted("11110000", contents=""),
        counted("11110000", evaluation=builders.evaluation(digest="00" * 32)),
        counted("11110000", evaluation=builders.evaluation(among=RankedClasses.PRESENT)),
        builders.accuracy(images=8, top1=4, top5=8, contents="cc" * 32),  # of an earlier version
    ],
)
def test_what_was_not_counted_on_the_same_images_is_not_paired(other: Accuracy) -> None:
    assert PairedAnswers.of_accuracies(counted("11110000"), other) is None
    assert PairedAnswers.of_accuracies(other, counted("11110000")) is None
