"""A study's frontier: whose top-1 it is, who is on it, what is grey, and what it says of its two sources."""

import itertools
import math
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest

from fastvit_bench.paper import study_chart, study_frontier
from fastvit_bench.records.study import Study, StudyRow
from fastvit_bench.render.charts import LIGHT

# the reference takes 10 ms; printed top-1: 79.8, 79.4, 79.8
TABLE_FIVE = Study(
    name="classification",
    title="Table 5",
    tables=("table5_imagenet",),
    rows=(
        StudyRow("FastViT-S12@256", "fastvit_s12", res=256, group="3"),
        StudyRow("MobileOne-S4@224", "timm:mobileone_s4", res=224, group="3"),
        StudyRow("DeiT-S@224", "timm:deit_small_patch16_224", res=224, group="3"),
        StudyRow("LITv2-S@224", res=224, group="3", note="could not be exported"),
    ),
)
RATIOS: dict[tuple[str, int], float | None] = {("MobileOne-S4@224", 224): 0.7, ("DeiT-S@224", 224): 1.9}


def drawn(ratios: dict[tuple[str, int], float | None] = RATIOS, study: Study = TABLE_FIVE) -> Any:
    chart = study_frontier.figure(builders.study_result(ratios, study=study), LIGHT)
    assert chart is not None
    return chart


def points(chart: Any) -> dict[str, dict[str, Any]]:
    return {point["about"].split(",")[0]: point for point in chart.spec["data"]["values"]}


def test_top1_is_the_paper_s_and_latency_is_measured() -> None:
    chart = drawn()
    by_name = points(chart)
    assert {name: point["top1"] for name, point in by_name.items()} == {
        "MobileOne-S4@224": 79.4,
        "FastViT-S12@256": 79.8,
        "DeiT-S@224": 79.8,
    }
    assert "79.8 % top-1, as the paper prints it" in by_name["FastViT-S12@256"]["about"]
    assert chart.caption.startswith("Of two sources: top-1 is the paper's, latency was measured on cpu")
    assert chart.kind == "accuracy"


def test_only_an_undominated_network_is_on_the_frontier() -> None:
    by_name = points(drawn())
    assert {name: point["member"] for name, point in by_name.items()} == {
        "MobileOne-S4@224": True,
        "FastViT-S12@256": True,
        "DeiT-S@224": False,
    }
    assert "dominated by FastViT-S12@256" in by_name["DeiT-S@224"]["about"]


def test_peers_are_grey_where_fastvit_is_among_them() -> None:
    chart = drawn()
    by_name = points(chart)
    assert by_name["MobileOne-S4@224"]["stroke"] == LIGHT.muted
    assert by_name["FastViT-S12@256"]["stroke"] != LIGHT.muted
    assert "Grey: networks other than FastViT." in chart.caption
    rows = tuple(row for row in TABLE_FIVE.rows if "FastViT" not in row.label)
    alone = drawn({("DeiT-S@224", 224): 1.2}, msgspec.structs.replace(TABLE_FIVE, rows=rows))
    assert LIGHT.muted not in {point["stroke"] for point in points(alone).values()}
    assert "Grey" not in alone.caption


def test_one_s_own_network_has_the_top1_that_its_owner_states() -> None:
    own = StudyRow("mine@224", "mine.onnx", res=224, group="3", challenger=True, top1=80.5)
    chart = drawn({**RATIOS, ("mine@224", 224): 0.9}, msgspec.structs.replace(TABLE_FIVE, rows=(*TABLE_FIVE.rows, own)))
    point = points(chart)["mine@224"]
    assert (point["top1"], point["member"], point["label"]) == (80.5, True, "mine@224")
    assert "as you stated it" in point["about"]
    assert point["stroke"] != LIGHT.muted
    assert "The top-1 of your own network is as you stated it." in chart.caption


def test_the_picture_of_a_challenged_study_is_its_frontier(tmp_path: Path) -> None:
    for top1, drawn_title in ((80.5, "Accuracy against latency"), (None, "Table 5")):
        own = StudyRow("mine@224", "mine.onnx", res=224, group="3", challenger=True, top1=top1)
        study = msgspec.structs.replace(TABLE_FIVE, rows=(*TABLE_FIVE.rows, own))
        result = builders.study_result({**RATIOS, ("mine@224", 224): 0.9}, study=study)
        study_chart.write(result, tmp_path / "a.svg")
        svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
        assert drawn_title in svg
        assert ("Of two sources" in svg) is (top1 is not None)


def boxes(chart: Any, size: tuple[int, int]) -> dict[str, tuple[float, float, float, float]]:
    """Left, right, top and bottom of each name in pixels, from the description alone."""
    layers = [layer for layer in chart.spec["layer"] if layer["mark"]["type"] == "text"]
    found: dict[str, tuple[float, float, float, float]] = {}
    for layer in layers:
        x, y = (layer["encoding"][axis]["scale"] for axis in "xy")
        for value in layer["data"]["values"]:
            (low, high), at = x["domain"], value["ms"]
            if x.get("type") == "log":
                low, high, at = (math.log(number) for number in (low, high, at))
            bottom, top = y["domain"]
            across = size[0] * (at - low) / (high - low) + layer["mark"]["dx"]
            down = size[1] * (top - value["top1"]) / (top - bottom) + layer["mark"]["dy"]
            long = 6 * len(value["label"])
            left = across - {"left": 0, "right": long, "center": long / 2}[layer["mark"]["align"]]
            found[value["label"]] = (left, left + long, down - 5, down + 5)
    return found


def test_names_stay_within_the_axes_and_apart() -> None:
    close = {("MobileOne-S4@224", 224): 0.99, ("DeiT-S@224", 224): 1.01}
    for ratios in (RATIOS, close):
        chart = study_frontier.figure(builders.study_result(ratios, study=TABLE_FIVE), LIGHT, (560, 380))
        placed = boxes(chart, (560, 380))
        assert "FastViT-S12@256" in placed
        for left, right, top, bottom in placed.values():
            assert left >= 0 <= top
            assert right <= 560
            assert bottom <= 380
        for (_, one), (_, other) in itertools.combinations(placed.items(), 2):
            assert one[1] <= other[0] or other[1] <= one[0] or one[3] <= other[2] or other[3] <= one[2]


def test_a_name_without_a_free_place_is_left_out() -> None:
    assert (
        set(boxes(study_frontier.figure(builders.study_result(RATIOS, study=TABLE_FIVE), LIGHT, (60, 40)), (60, 40)))
        == set()
    )


@pytest.mark.parametrize(
    "ratios",
    [{("DeiT-S@224", 224): None, ("MobileOne-S4@224", 224): None}, {}],
)
def test_fewer_than_two_networks_are_no_frontier(ratios: dict[tuple[str, int], float | None]) -> None:
    assert study_frontier.figure(builders.study_result(ratios, study=TABLE_FIVE), LIGHT) is None


def test_a_study_without_published_accuracies_has_no_frontier() -> None:
    assert study_frontier.figure(builders.study_result({("RepMixer", 384): 0.8}), LIGHT) is None
