"""Documents with one edited value: they are refused in a sentence or shown, and never end in another error."""

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fastvit_bench.comparing import calibrate, chart, formats
from fastvit_bench.comparing import terminal as comparison_table
from fastvit_bench.errors import FastViTBenchError
from fastvit_bench.paper import study_chart, study_frontier, study_table
from fastvit_bench.records import DevicePeak
from fastvit_bench.records.comparison import Calibration, Comparison
from fastvit_bench.records.study import StudyResult
from fastvit_bench.render import rows, terminal
from fastvit_bench.render.charts import LIGHT
from fastvit_bench.roofline import chart as roofline_chart
from fastvit_bench.roofline import points
from fastvit_bench.store import documents, runs

STORED = Path(__file__).parent.parent / "data" / "version-0.1.0"
VALUES = [0, -1, 1, 3, 10**15, 10**18, 2**62, 1e308, -1e308, 5e-324, 0.5, None, "", "x", "\x1b[31m", True, [], [0], {}]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document at which there is a value."""
    if at:
        yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def edited(text: str, at: tuple[Any, ...], value: object) -> str:
    document = target = json.loads(text)
    for key in at[:-1]:
        target = target[key]
    target[at[-1]] = value
    return json.dumps(document)


def draw(renderable: Any) -> None:
    Console(file=io.StringIO(), width=200).print(renderable)


def show_comparison(comparison: Comparison) -> None:
    draw(comparison_table.rich(comparison, 200))
    chart.comparison(comparison, LIGHT)
    for name in formats.FORMATS.keys() - {"svg", "png"}:
        formats.FORMATS[name].writer(comparison)


def show_study(result: StudyResult) -> None:
    draw(study_table.rich(result, [], 200))
    study_chart.figure(result, LIGHT)
    study_frontier.figure(result, LIGHT)
    study_table.measured(result, result.id)
    for write in study_table.FORMATS.values():
        write(result, [])


def show_calibration(calibration: Calibration) -> None:
    draw(terminal.report(calibrate.report(calibration), 100))


def show_peaks(peaks: tuple[DevicePeak, ...]) -> None:
    measured = [row for row in rows.collect([runs.read(STORED / "latency.jsonl")]) if row.measured]
    placed = points.collect(measured, peaks, {})
    points.report(placed, peaks)
    for write in points.FORMATS.values():
        write(placed, peaks)
    for peak in points.used(placed, peaks):
        roofline_chart._rates([peak], [], roofline_chart._intensities([peak], [])[0])


SHOWN: dict[str, tuple[documents.DocumentKind[Any], Callable[[Any], None]]] = {
    "comparison.json": (documents.COMPARISON, show_comparison),
    "study.json": (documents.STUDY, show_study),
    "calibration.json": (documents.CALIBRATION, show_calibration),
    "peak.json": (documents.PEAKS, show_peaks),
}
TEXTS = {name: (STORED / name).read_text(encoding="utf-8") for name in SHOWN}
PLACES = [(name, at) for name, text in TEXTS.items() for at in places(json.loads(text)) if "packages" not in at]


def look(name: str, text: str) -> bool:
    """Read and show a document; returns whether it was taken."""
    kind, show = SHOWN[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_text(text, encoding="utf-8")
        try:
            show(documents.read(path, kind))
        except FastViTBenchError:
            return False
    return True


@pytest.mark.parametrize("name", SHOWN)
def test_what_was_written_is_shown(name: str) -> None:
    assert look(name, TEXTS[name])


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from(VALUES))
def test_any_edit_is_refused_or_shown(place: tuple[str, tuple[Any, ...]], value: object) -> None:
    name, at = place
    look(name, edited(TEXTS[name], at, value))


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("study.json", ("cells", 0, "verdict", "ratio"), 0.0),
        ("study.json", ("cells", 0, "verdict", "interval", "low"), 0),
        ("study.json", ("cells", 0, "verdict", "interval", "high"), None),
        ("study.json", ("cells", 0, "base", "artifact", "shape", "batch"), 0),
        ("study.json", ("matches", 0, "reference", "row", "group"), "x"),
        ("comparison.json", ("cells", 0, "verdict", "interval", "high"), 1e308),
        ("comparison.json", ("cells", 0, "blocks", 0, "base_ns", 0), []),
        ("comparison.json", ("cells", 0, "blocks", 0, "base_ns"), [[1]]),
        ("peak.json", (0, "memory", "probe", "width"), 0),
        ("calibration.json", ("plan", "alpha"), 0),
    ],
)
def test_values_that_no_measurement_gives_are_refused(name: str, at: tuple[Any, ...], value: object) -> None:
    assert not look(name, edited(TEXTS[name], at, value))
