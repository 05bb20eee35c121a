"""Studies on the disk and as tables: what was measured beside what was published, and never in its place."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fastvit_bench.errors import StoreError, UsageError
from fastvit_bench.paper import claims, claims_table, study_chart, study_table
from fastvit_bench.records.comparison import Outcome
from fastvit_bench.records.study import Study, StudyResult, StudyRow
from fastvit_bench.render.charts import LIGHT

RATIOS = {("RepMixer", 384): 0.749, ("Pooling, BatchNorm", 384): 0.95, ("RepMixer", 1024): 0.6}


def table_five(**changes: Any) -> Study:
    """Two groups with their own sizes, and a row that nobody can measure."""
    rows = (
        StudyRow("FastViT-S12@256", "fastvit_s12", res=256, group="3"),
        StudyRow("MobileOne-S4@224", "timm:mobileone_s4", res=224, group="3"),
        StudyRow("LITv2-S@224", res=224, group="3", note="could not be exported"),
    )
    usual: dict[str, Any] = {"name": "classification", "title": "Table 5", "tables": ("table5_imagenet",), "rows": rows}
    return Study(**(usual | changes))


def test_a_study_is_read_as_it_was_written(tmp_path: Path) -> None:
    result = builders.study_result({**RATIOS, ("Pooling, BatchNorm", 1024): None})
    path = tmp_path / "cpu" / "study-a-20260131-142233-9f3c1a.json"
    study_table.write(result, path)
    assert study_table.read(path) == result
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no complete JSON"),
        (b"{", "is no complete JSON"),
        (b"[]", "is not a study"),
        (b'{"document": "comparison", "schema": 1}', "is not a study"),
        (b'{"document": "study", "schema": 99}', "has schema 99"),
        (b'{"document": "study", "schema": 1}', "is no study: Object missing"),
        (b"\xff", "is no complete JSON"),
    ],
)
def test_what_is_no_study_is_one_sentence(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "study-a-20260131-142233-9f3c1a.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=told):
        study_table.read(path)
    assert study_table.newest([tmp_path])[0] == []
    assert "left out" in study_table.newest([tmp_path])[1][0]


@given(st.integers(0, 2000))
def test_a_study_that_was_cut_anywhere_is_refused(at: int) -> None:
    whole = msgspec.json.encode(builders.study_result(RATIOS))
    cut = whole[: at % len(whole)]
    with pytest.raises(msgspec.MsgspecError):
        msgspec.json.decode(cut, type=StudyResult)


def test_the_newest_of_each_study_and_device_is_taken(tmp_path: Path) -> None:
    for at, ratio in (
        ("20260131-142233-aaaaaa", 0.9),
        ("20260201-142233-000000", 0.8),
        ("20260202-100000-000000", None),
    ):
        result = builders.study_result({("RepMixer", 384): ratio}, id=at, study=builders.study(name="a-b"))
        study_table.write(result, tmp_path / f"study-a-b-{at}.json")
    (found,), notes = study_table.newest([tmp_path])
    assert found.cells[0].verdict.ratio == 0.8  # the last one has no figure at all
    assert notes == []
    assert study_table.lying([tmp_path], "a") == study_table.lying([tmp_path], "b") == []
    assert [path.stem[-22:-7] for path in study_table.lying([tmp_path], "a-b")] == [
        "20260131-142233",
        "20260201-142233",
        "20260202-100000",
    ]


# --- lines ------------------------------------------------------------------------------------------------------------


def test_each_reference_is_followed_by_what_is_divided_by_it() -> None:
    found = study_table.lines(builders.study_result(RATIOS))
    assert [(line.row.label, line.size, line.reference) for line in found] == [
        ("Pooling", "384", True),
        ("RepMixer", "384", False),
        ("Pooling, BatchNorm", "384", False),
        ("Pooling", "1024", True),
        ("RepMixer", "1024", False),
    ]
    assert [line.ratio.value if line.ratio else None for line in found] == [None, 0.749, 0.95, None, 0.6]
    assert found[0].figure is not None
    assert found[0].figure.value == pytest.approx(10.0)
    assert found[1].figure is not None
    assert found[1].figure.value == pytest.approx(7.49)
    interval = found[1].figure.interval
    assert interval is not None
    assert interval.low < 7.49 < interval.high


def test_published_figures_stand_beside_at_their_own_size() -> None:
    _, repmixer, control, *_ = study_table.lines(builders.study_result(RATIOS))
    assert repmixer.published["iphone_ms"].text == "2.64"
    assert repmixer.published_ratios["iphone_ms"] == pytest.approx(2.64 / 3.55)
    assert control.published == {}
    here = builders.study_result({("RepMixer", 64): 0.7})
    assert all("iphone_ms" not in line.published for line in study_table.lines(here))


def test_published_latencies_of_another_size_are_left_out() -> None:
    result = builders.study_result({("MobileOne-S4@224", 224): 1.2}, study=table_five())
    s12, mobileone, litv2 = study_table.lines(result)
    assert (s12.published["iphone_ms"].text, mobileone.published["gpu_ms"].text) == ("1.4", "2.6")
    assert mobileone.published_ratios == {"iphone_ms": pytest.approx(1.9 / 1.4), "gpu_ms": pytest.approx(2.6 / 2.2)}
    assert (litv2.failed, litv2.published["top1"].text) == ("could not be exported", "82.0")
    assert "iphone_ms" not in litv2.published  # a dash in the table
    rows = [msgspec.structs.replace(row, res=512) if row.model else row for row in table_five().rows]
    other = builders.study_result({("MobileOne-S4@224", 512): 1.2}, study=table_five(rows=tuple(rows)))
    assert set(study_table.lines(other)[1].published) == {"params_m"}


def test_a_row_that_failed_says_why() -> None:
    result = builders.study_result({("RepMixer", 384): None, ("Pooling, BatchNorm", 384): 0.95})
    failed = study_table.lines(result)[1]
    assert failed.ratio is None
    assert failed.failed == "It is incomparable."
    assert study_table.ratio_text(failed) == "failed"
    assert "RepMixer: It is incomparable." in study_table.notes(result)
    assert "Measured so far: 1 of 2 pairs." in study_table.notes(result)


# --- as text ----------------------------------------------------------------------------------------------------------


def test_markdown_holds_a_line_per_row_and_names_the_machine() -> None:
    text = study_table.markdown(builders.study_result(RATIOS), ["RepMixer is quicker."])
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 5
    assert len({line.count("|") for line in table}) == 1
    assert "| RepMixer | 384 | 7.49 [7.46, 7.52] | 0.749 [0.741, 0.757] | 2.64 | 0.74 |" in text
    assert "Example Processor 9000" in text
    assert "- RepMixer is quicker." in text
    assert "another device" in text.lower()


def test_names_cannot_break_a_table() -> None:
    rows = (*builders.study().rows[:2], StudyRow("a | b\n\x1b[31m", "x.onnx"))
    result = builders.study_result({("a | b\n\x1b[31m", 384): 1.1}, study=builders.study(rows=rows))
    text = study_table.markdown(result, [])
    assert "a \\| b [31m" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_gets_every_row_whatever_its_width(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(study_table.rich(builders.study_result(RATIOS), ["A claim."], width))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count("RepMixer") >= 2
    assert "0.749" in text
    assert max(map(len, text.splitlines())) <= width


def test_programs_get_numbers() -> None:
    result = builders.study_result(RATIOS)
    rows = list(csv.DictReader(io.StringIO(study_table.csv(result, []))))
    assert [row["ratio"] for row in rows] == ["", "0.749", "0.95", "", "0.6"]
    assert rows[1]["published_iphone_ms"] == "2.64"
    document = json.loads(study_table.json(result, ["A claim."]))
    assert [line["ratio"] for line in document["lines"]] == [None, 0.749, 0.95, None, 0.6]
    assert document["claims"] == ["A claim."]


# --- claims -----------------------------------------------------------------------------------------------------------


def sentences(result: StudyResult) -> list[str]:
    known = [claim for claim in claims.load() if claim.study == result.study.name]
    return claims_table.sentences(claims.judged(known, study_table.measured(result, "here"), result.device.name))


def test_a_study_says_what_became_of_each_claim() -> None:
    at_384, at_1024 = sentences(builders.study_result({("RepMixer", 384): 0.70, ("RepMixer", 1024): 0.95}))
    assert "Reproduced on another kind of device" in at_384
    assert "Not reproduced on another kind of device" in at_1024


def test_ratios_are_known_both_ways_round() -> None:
    found = {
        (each.row, each.reference, each.column): each
        for each in study_table.measured(builders.study_result({("RepMixer", 384): 0.8}), "here")
    }
    there, back = found["RepMixer", "Pooling", "latency"], found["Pooling", "RepMixer", "latency"]
    assert back.value == pytest.approx(1 / there.value)
    assert there.interval is not None
    assert back.interval == pytest.approx((1 / there.interval[1], 1 / there.interval[0]))
    assert found["RepMixer", None, "params"].value == builders.artifact().params


@pytest.mark.parametrize(
    ("hardware", "kind"),
    [("iPhone13,3", "iphone"), ("NVIDIA GeForce RTX 2080 Ti", "gpu"), ("NVIDIA H200", "other"), (None, "other")],
)
def test_only_the_printed_hardware_is_that_hardware(hardware: str | None, kind: str) -> None:
    result = builders.study_result({("RepMixer", 384): 0.8}, machine=builders.machine(accelerator=hardware))
    assert {each.device_kind for each in study_table.measured(result, "here")} == {kind}


def counted(number: int, growth: float, time: float) -> list[study_table.StudyLine]:
    """Lines of networks with ever more multiply-accumulates, whose latencies grow by their power `time`."""
    factors = [growth**at for at in range(number + 1)]
    return [
        study_table.StudyLine(
            "",
            StudyRow(f"n{at}", "fastvit_t8"),
            None,
            not at,
            artifact=builders.artifact(macs=round(1e9 * factor)),
            ratio=study_table.StudyFigure(factor**time, None) if at else None,
            published_ratios={"gpu_ms": 1 / factor} if at else {},
        )
        for at, factor in enumerate(factors)
    ]


def test_how_latency_follows_multiply_accumulates_is_told_here_and_as_published() -> None:
    [sentence] = study_table.against_macs(counted(8, 1.5, 0.5))
    assert "over 8 pairs: 1.00 here." in sentence
    assert "Over the 8 with a published latency of the GPU: 1.00 here, -1.00 there." in sentence
    assert "iPhone" not in sentence


@pytest.mark.parametrize(("number", "growth"), [(7, 1.5), (8, 1.01)])
def test_too_few_pairs_or_alike_ones_tell_no_correlation(number: int, growth: float) -> None:
    assert study_table.against_macs(counted(number, growth, 1.0)) == []


def test_each_pair_is_divided_by_its_own_reference() -> None:
    sizes = [line for _ in range(4) for line in counted(2, 1.01, 1.0)]  # as of four sizes without groups
    assert study_table.against_macs([*sizes, *counted(1, 4.0, 1.0)]) != []
    assert study_table.against_macs(sizes) == []


# --- figures ----------------------------------------------------------------------------------------------------------


def test_over_sizes_measured_and_published_are_lines_of_their_own() -> None:
    made = study_chart.figure(builders.study_result(RATIOS), LIGHT)
    assert made is not None
    points = made.spec["data"]["values"]
    assert {point["name"] for point in points} == {
        "RepMixer, measured here",
        "RepMixer, published, iPhone 12 Pro",
        "Pooling, BatchNorm, measured here",
    }
    assert {(point["size"], point["ratio"]) for point in points if point["name"] == "RepMixer, measured here"} == {
        (384, 0.749),
        (1024, 0.6),
    }


def test_by_row_every_row_is_a_line_of_the_chart() -> None:
    made = study_chart.figure(builders.study_result({("MobileOne-S4@224", 224): 1.2}, study=table_five()), LIGHT)
    assert made is not None
    kinds = [point["kind"] for point in made.spec["data"]["values"]]
    assert kinds == [study_chart.MEASURED, study_chart.IPHONE, study_chart.GPU]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    result = builders.study_result(RATIOS)
    study_chart.write(result, tmp_path / "a.svg")
    assert "RepMixer" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="is no picture that can be drawn"):
        study_chart.write(result, tmp_path / "a.pdf")
    with pytest.raises(UsageError, match="nothing to draw"):
        study_chart.write(builders.study_result({("RepMixer", 384): None}), tmp_path / "b.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]


def test_outcomes_of_a_study_are_no_verdicts_of_a_gate() -> None:
    cell = builders.cell_result(outcome=Outcome.REGRESSED, ratio=2.0)
    assert study_table.live_row(cell).startswith("fastvit_t8 256 b1  2.000 [1.992, 2.008]")
    assert "failed" in study_table.live_row(builders.cell_result(outcome=Outcome.INCOMPARABLE, ratio=None))
