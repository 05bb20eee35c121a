"""What is said of somebody's own network among a study's."""

from collections.abc import Mapping

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.paper import standing, study, study_table
from fastvit_bench.records.comparison import Outcome
from fastvit_bench.records.study import Study, StudyResult, StudyRow

# published top-1 of table 5: 75.6, 79.8 and 80.6 percent
ROWS = (
    StudyRow("FastViT-T8@256", "fastvit_t8", res=256, group="1"),
    StudyRow("FastViT-S12@256", "fastvit_s12", res=256, group="2"),
    StudyRow("FastViT-SA12@256", "fastvit_sa12", res=256, group="3"),
)


def challenge(ratios: Mapping[str, float | None], top1: float | None) -> StudyResult:
    """Return a study in which `mine.onnx` takes so much of the latency of each reference; None: not measured."""
    declared = study.challenged(
        Study("classification", "Table 5", ROWS, tables=("table5_imagenet",)), "mine.onnx", top1=top1
    )
    pairs = study.matches(declared, builders.device())
    cells = [
        builders.cell_result(
            pair.name,
            ratio=ratio,
            verdict=builders.verdict(Outcome.PASS, ratio, bounds=None),
        )
        for pair in pairs
        if (ratio := ratios[pair.reference.row.label]) is not None
    ]
    return builders.study_result({}, study=declared, matches=pairs, cells=tuple(cells))


@pytest.mark.parametrize(
    ("ratios", "top1", "sentence"),
    [
        (
            (2.0, 1.25, 1.2),
            80.0,
            "mine.onnx 256: dominated by FastViT-SA12@256: quicker by 17 % [16, 18] at 0.6 points more, published.",
        ),
        (
            (2.0, 1.25, 1.2),
            79.8,
            "mine.onnx 256: dominated by FastViT-SA12@256 and 1 more: quicker by 17 % [16, 18] at 0.8 points more, "
            "published.",
        ),
        (
            (1.5, 0.8, 0.7),
            79.8,
            "mine.onnx 256: on the frontier of these 4; it dominates FastViT-S12@256 (slower by 25 % [23, 27] at "
            "the same top-1, published).",
        ),
        ((1.5, 0.8, 0.7), 76.0, "mine.onnx 256: on the frontier of these 4; it dominates none of them."),
        (
            (1.5, 1.004, 0.7),
            79.0,
            "mine.onnx 256: not decided against FastViT-S12@256: not told apart in latency (1.004 [0.996, 1.012] "
            "of its time), at 0.8 points more, published; --blocks 12 may tell them apart.",
        ),
        (
            (1.5, 0.8, None),
            None,
            "mine.onnx 256: FastViT-T8@256 is quicker by 33 % [32, 34], FastViT-S12@256 is slower by 25 % "
            "[23, 27]; with --top1 its accuracy decides whether it is on the frontier.",
        ),
        ((None, None, None), 80.0, None),
    ],
)
def test_where_it_stands(ratios: tuple[float | None, ...], top1: float | None, sentence: str | None) -> None:
    result = challenge(dict(zip((row.label for row in ROWS), ratios, strict=True)), top1)
    assert study_table.verdicts(result) == ([sentence] if sentence else [])
    for text in (study_table.markdown(result, []), study_table.json(result, [])):
        assert sentence is None or sentence in text


ratio_or_none = st.none() | st.floats(0.1, 10)


@given(st.tuples(ratio_or_none, ratio_or_none, ratio_or_none), st.floats(0, 100))
def test_only_a_quicker_and_no_less_accurate_network_dominates(ratios: tuple[float | None, ...], top1: float) -> None:
    by_label = dict(zip((row.label for row in ROWS), ratios, strict=True))
    (sentence, *more) = study_table.verdicts(challenge(by_label, top1)) or [""]
    assert not more
    printed = dict(zip(by_label, (75.6, 79.8, 80.6), strict=True))
    dominating = [
        label for label, ratio in by_label.items() if ratio is not None and ratio - 0.008 > 1 and printed[label] >= top1
    ]
    assert ("dominated by" in sentence) == bool(dominating)
    if dominating:
        assert max(dominating, key=printed.__getitem__) in sentence


def test_a_rival_without_an_interval_decides_nothing() -> None:
    rival = standing.Rival("a", 2.0, None, 80.0)
    assert not rival.quicker
    assert not rival.slower
    assert rival.latency() == "not told apart in latency (2.00 of its time)"
