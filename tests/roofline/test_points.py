"""The roofline: its arithmetic by hand, what stands in the table, what is kept, and the picture."""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import builders
import msgspec
import pytest

from fastvit_bench.errors import StoreError, UsageError
from fastvit_bench.records import MICROBENCHMARKS_VERSION, DevicePeak, Interval, Measurement, MicrobenchmarkTime, Shape
from fastvit_bench.render import markdown, rows
from fastvit_bench.render.text import latency
from fastvit_bench.roofline import chart
from fastvit_bench.roofline import points as roofline_points
from fastvit_bench.roofline.points import RooflinePoint
from fastvit_bench.store import peaks
from fastvit_bench.store.runs import RunFile


def file(*lines: Measurement) -> RunFile:
    return RunFile(path=Path("run.jsonl"), lines=(builders.run(), *lines), torn_bytes=0)


def points(*lines: Measurement, held: tuple[DevicePeak, ...] | None = None) -> list[RooflinePoint]:
    """The points of measurements under the usual peak."""
    return roofline_points.collect(rows.collect([file(*lines)]), (builders.peak(),) if held is None else held, {})


def counted(moved: int = 86_400_000, **changes: Any) -> Measurement:
    """A measurement of `builders.artifact()`, 691.2 million multiply-accumulates in 10.21 ms, that moves so much."""
    traffic = builders.traffic(read_bytes=moved - 49_000_000)
    return builders.measurement(**({"artifact": builders.artifact(traffic=traffic)} | changes))


def text(found: list[RooflinePoint], held: tuple[DevicePeak, ...] | None = None) -> str:
    return markdown.report(roofline_points.report(found, (builders.peak(),) if held is None else held))


def test_a_level_that_is_not_known_is_none() -> None:
    (point,) = points(counted(artifact=builders.artifact(variant="onnx", fused=None, traffic=builders.traffic())))
    (line,) = csv.DictReader(io.StringIO(roofline_points.csv([point], (builders.peak(),))))
    assert line["fused"] == ""


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def test_a_peak_is_the_best_of_its_probes() -> None:
    slow = MicrobenchmarkTime(probe=builders.probe(width=64), best_ns=(10**9, 10**9))
    peak = builders.peak(200.0, 20.0)
    peak = msgspec.structs.replace(peak, arithmetic=(slow, *peak.arithmetic))
    # 4 layers, 128 channels in and out, 9 weights each, 32 x 32 pixels
    assert builders.probe().macs == 4 * 128 * 128 * 9 * 32 * 32
    assert peak.memory.probe.moved_bytes == 2 * 4 * 3 * 4096 * 4096
    assert peak.macs_per_s == pytest.approx(200e9, rel=1e-6)
    assert peak.bytes_per_s == pytest.approx(20e9, rel=1e-6)
    assert peak.ridge == pytest.approx(2 * 200 / 20, rel=1e-6)
    assert peak.attainable(10) == pytest.approx(100e9, rel=1e-6)
    assert peak.attainable(20) == peak.attainable(1e6) == pytest.approx(200e9, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "macs", "ms"), [("fastvit_t8", 684_900_000, 8.21), ("fastvit_ma36", 7_810_000_000, 103.4)]
)
def test_share_of_the_peak_is_macs_over_latency_over_peak(name: str, macs: int, ms: float) -> None:
    made = builders.artifact(model=name, macs=macs, traffic=builders.traffic(macs=macs))
    cell = builders.measurement(artifact=made, samples_ns=(builders.samples(ms, 100),))
    (point,) = points(cell)
    by_hand = macs / (ms / 1e3) / 200e9
    assert point.share == pytest.approx(by_hand, rel=1e-4)
    (line,) = csv.DictReader(io.StringIO(roofline_points.csv([point], [builders.peak()])))
    assert float(line["share_of_peak"]) == pytest.approx(by_hand, rel=1e-4)
    low, high = (100 * macs / (end / 1e3) / 200e9 for end in (cell.interval_ms.high, cell.interval_ms.low))
    digits = latency(100 * by_hand, Interval(low=low, high=high, confidence=0.95)).partition(" ")[0]
    assert f"| {digits} % |" in text([point])


@pytest.mark.parametrize(
    ("moved", "bound", "attainable"),
    [(86_400_000, "memory", 16 * 20e9 / 2), (69_120_000, "arithmetic", 200e9), (60_000_000, "arithmetic", 200e9)],
)
def test_the_lower_roof_is_the_bound(moved: int, bound: str, attainable: float) -> None:
    (point,) = points(counted(moved))
    assert point.intensity == pytest.approx(2 * 691.2e6 / moved)
    # 69.12 MB make it the ridge, where both are equal
    assert point.bound == bound or point.intensity == pytest.approx(20)
    assert point.attainable == pytest.approx(attainable, rel=1e-5)
    assert point.reached == pytest.approx(691.2e6 / 10.21e-3 / attainable, rel=1e-4)


def test_a_batch_counts_whole() -> None:
    (point,) = points(builders.measurement(artifact=builders.artifact(shape=builders.shape(256, 8))))
    assert point.macs_per_s == pytest.approx(8 * 691.2e6 / (8 * 10.21e-3), rel=1e-3)


def test_the_file_that_was_timed_counts_and_not_the_network() -> None:
    made = builders.artifact(traffic=builders.traffic(macs=345_600_000, params=1_000_000))
    (point,) = points(builders.measurement(artifact=made))
    assert point.macs_per_s == pytest.approx(345.6e6 / 10.21e-3, rel=1e-3)
    assert point.params == 1_000_000


# --- which peak -------------------------------------------------------------------------------------------------------


def test_a_figure_takes_the_peak_of_its_own_setting_and_machine() -> None:
    usual = builders.peak()
    single = builders.peak(50.0, device=builders.device(options={"threads": 1}))
    half = builders.peak(400.0, device=builders.device(precision="fp16"))
    other = builders.peak(999.0, machine=builders.machine(processor="another"))
    held = (other, single, half, usual)
    alone = builders.measurement(device=builders.device(options={"threads": 1}))
    eight = builders.measurement(artifact=builders.artifact(shape=builders.shape(256, 8)))
    far = builders.measurement(machine=builders.machine(cores=2))
    assert [point.peak for point in points(counted(), alone, eight, far, held=held)] == [usual, single, usual, None]


def test_a_peak_of_other_versions_is_taken_and_told() -> None:
    newer = builders.machine(packages={"onnxruntime": "1.99.0", "torch": "2.9.0"})
    (point,) = points(counted(), held=(builders.peak(machine=newer),))
    assert point.share is not None
    assert "onnxruntime: 1.23.0 then, 1.99.0 now): fastvit_t8 256." in text([point]).replace("\\", "")
    exact = builders.peak()
    later = builders.peak(machine=newer, finished=builders.at(99))
    assert points(counted(), held=(later, exact))[0].peak is exact
    assert peaks.exact((later,), builders.device(), builders.machine()) is None


def test_peaks_are_kept_by_setting_and_machine(tmp_path: Path) -> None:
    assert peaks.load(tmp_path) == ()
    first, single = builders.peak(), builders.peak(50.0, device=builders.device(options={"threads": 1}))
    held = peaks.replaced(peaks.replaced((), first), single)
    again = builders.peak(210.0, finished=builders.at(50))
    held = peaks.replaced(held, again)
    assert held == (single, again)
    peaks.save(held, tmp_path / "cpu")
    assert peaks.load(tmp_path / "cpu") == held
    assert [path.name for path in (tmp_path / "cpu").iterdir()] == ["peak.json"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b'[{"probes": 1}]'])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "peak.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"(?s)peak\.json cannot be read.* or remove it"):
        peaks.load(tmp_path)


def test_a_peak_by_other_probes_or_versions_is_measured_again() -> None:
    here = builders.machine()
    assert peaks.exact([builders.peak()], builders.device(batch=8), here)
    assert peaks.exact([builders.peak(probes=MICROBENCHMARKS_VERSION + 1)], builders.device(), here) is None
    assert peaks.exact([builders.peak()], builders.device(precision="fp16"), here) is None
    assert peaks.exact([builders.peak()], builders.device(), builders.machine(driver="1")) is None


# --- as text ----------------------------------------------------------------------------------------------------------


def test_the_table_says_what_is_not_known() -> None:
    far = builders.measurement(machine=builders.machine(cores=2))
    shown = text(points(builders.measurement(), far))
    assert "No peak of that machine and setting is known: fastvit_t8 256 (2)." in shown.replace("\\", "")
    assert "was not counted when it was exported" in shown
    assert shown.count("| – |") > 4


def test_doubts_about_a_peak_are_marked() -> None:
    shaky = builders.peak(others_percent=80.0)
    (best,) = shaky.arithmetic
    apart = MicrobenchmarkTime(probe=best.probe, best_ns=(best.best_ns[0], round(1.2 * best.best_ns[0])))
    shaky = msgspec.structs.replace(shaky, arithmetic=(apart,))
    assert len(shaky.warnings) == 2
    shown = text(points(counted(), held=(shaky,)), (shaky,))
    assert "200\\*" in shown
    assert "the two quickest of 2 processes differ by 20 %" in shown
    assert "other processes took 80 % of a processor" in shown
    assert builders.peak().warnings == []


def test_several_roofs_have_letters() -> None:
    single = builders.peak(50.0, device=builders.device(options={"threads": 1}))
    found = points(counted(), counted(device=builders.device(options={"threads": 1})), held=(builders.peak(), single))
    shown = text(found, (builders.peak(), single))
    assert "| A | onnxruntime, fp32, threads 4 |" in shown
    assert "| B | onnxruntime, fp32, threads 1 |" in shown


def test_without_figures_the_roofs_stand_alone() -> None:
    shown = text([], (builders.peak(),))
    assert "| 200 | 20.0 | 20.0 |" in shown
    assert roofline_points.csv([], [builders.peak()]).startswith("model,")


def test_a_hostile_name_stays_text() -> None:
    made = builders.artifact(model="<b>|$x$\n\x1b[31m", traffic=builders.traffic())
    found = points(builders.measurement(artifact=made))
    shown = text(found)
    assert "\\<b\\>\\|" in shown
    assert "\x1b" not in shown
    data = chart.draw([builders.peak()], [found], ["<note> & more"], "svg")
    ElementTree.fromstring(data)


def test_json_holds_roofs_and_points() -> None:
    told = json.loads(roofline_points.json(points(counted()), [builders.peak()]))
    (roof,), (point,) = told["peaks"], told["points"]
    assert roof["ridge_flop_per_byte"] == pytest.approx(20, rel=1e-5)
    assert point["flop_per_byte"] == pytest.approx(16)
    assert point["bound"] == "memory"
    assert msgspec.convert(roof["peak"], DevicePeak) == builders.peak()


def test_models_of_others_are_left_out() -> None:
    assert points(builders.measurement(artifact=builders.foreign())) == []


# --- the picture ------------------------------------------------------------------------------------------------------


def sized(size: int) -> Measurement:
    made = builders.artifact(shape=Shape(batch=1, height=size, width=size))
    return counted(artifact=msgspec.structs.replace(made, traffic=builders.traffic(macs=made.macs)))


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_picture_is_the_same_for_the_same_figures(tmp_path: Path, suffix: str) -> None:
    found = points(*map(sized, (128, 256, 512)))
    path = tmp_path / f"r{suffix}"
    assert chart.write(found, [builders.peak()], path) == []
    first = path.read_bytes()
    chart.write(found, [builders.peak()], path)
    assert path.read_bytes() == first
    if suffix == ".svg":
        drawn = ElementTree.fromstring(first)
        assert float(drawn.attrib["width"]) <= 690  # between the margins of a sheet, where 11 pixels are 8.25 points
        assert min(float(size) for size in re.findall(rb'font-size="([0-9.]+)px"', first)) >= 11
        words = "".join(drawn.itertext())
        for word in ("fastvit_t8", "200 GMAC/s", "20 GB/s", "memory is the bound", "128", "512"):
            assert word in words


def test_what_has_no_place_is_told(tmp_path: Path) -> None:
    found = points(sized(128), builders.measurement())
    said = chart.write(found, [builders.peak()], tmp_path / "r.svg")
    assert said == ["1 of 2 figures have no place in the picture: no peak, or no counted file."]
    with pytest.raises(UsageError, match="no peak to draw"):
        chart.write(points(counted(), held=()), [], tmp_path / "r.svg")
    assert chart.write([], [builders.peak()], tmp_path / "empty.svg") == []


def test_many_roofs_have_letters_without_end() -> None:
    many = tuple(builders.peak(device=builders.device(options={"threads": at})) for at in range(1, 60))
    assert math.isfinite(many[0].ridge)
    assert "| BG | onnxruntime, fp32, threads 59 |" in text([], many)
