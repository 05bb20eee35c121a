"""Draws the pictures of README.md from the studies in results/cpu-reference, with the charts of the report.

python docs/pictures.py        write frontier-light.svg, frontier-dark.svg, curves-light.svg and curves-dark.svg

A study stores every sample of its networks. Here the samples of one network at one size become one measurement, whose
rounds are the study's blocks. So the pictures show the medians and intervals that `table` would print.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fastvit_bench import options
from fastvit_bench.config import FILE_NAME
from fastvit_bench.files import write
from fastvit_bench.paper import study_chart, study_frontier, study_table
from fastvit_bench.records import Device, Fuse, Machine, Measurement, Method, Run
from fastvit_bench.records.comparison import CellResult, Side
from fastvit_bench.records.machine import MachineState
from fastvit_bench.records.run import SCHEMA, Request
from fastvit_bench.records.study import StudyResult
from fastvit_bench.render import charts, frontiers, row_charts
from fastvit_bench.render.charts import LIGHT, ModelColours, Palette, Spec
from fastvit_bench.render.colours import HUES
from fastvit_bench.render.rows import Row, gather
from fastvit_bench.stats import sequential

WIDE, NARROW = (840, 460), (460, 400)  # pixels of a picture alone in its line, and of one beside another
AXES = (760, 370)  # pixels within the wide one

DOCS = Path(__file__).parent
REFERENCE = DOCS.parent / "results" / "cpu-reference"
FRONTIER, CURVES = "classification", "repmixer-vs-pooling"  # studies
MIXERS = {"poolformer_s12": "pooling", "metaformer_s12_repmixer": "RepMixer"}  # networks of the second picture

# as page.css has them for a dark page
DARK = Palette(
    ink="#e7eaee",
    muted="#a2abb6",
    grid="#2a3038",
    accent="#5eb1f2",
    paper="#14171b",
    bad="#ff9463",
    good="#4fcfa5",
    unsure="#e3b341",
    models=ModelColours(tuple(hue.dark for hue in HUES)),
    background="#14171b",
)
PALETTES = {"light": LIGHT, "dark": DARK}


def study(name: str) -> StudyResult:
    """Load the newest stored study of a name."""
    return study_table.read(study_table.lying([REFERENCE], name)[-1])


def measurements(result: StudyResult) -> Iterator[Measurement]:
    """Yield one measurement per network, level of fusing and size; a reference has the samples of its first pair."""
    measured: set[tuple[str, Fuse, str]] = set()
    method = Method(warmup=0, runs=result.turns.turns * result.turns.runs, processes=result.blocks)
    for cell in result.cells:
        for side, samples in _sides(cell):
            key = (side.artifact.model, side.artifact.fused, side.artifact.shape.size)
            if key in measured:
                continue
            measured.add(key)
            yield Measurement(
                finished=result.finished,
                device=side.device,
                artifact=side.artifact,
                method=method,
                window=side.window,
                clock=side.clock,
                pacing=side.pacing,
                samples_ns=samples,
                machine=side.machine,
                state=MachineState(),
            )


def _sides(cell: CellResult) -> Iterator[tuple[Side, tuple[tuple[int, ...], ...]]]:
    """Yield both sides of a cell, each with the samples of every block that counts."""
    blocks = sequential.counted(cell.blocks)
    if cell.base is not None and cell.head is not None:
        yield cell.base, tuple(tuple(sample for turn in block.base_ns for sample in turn) for block in blocks)
        yield cell.head, tuple(tuple(sample for turn in block.head_ns for sample in turn) for block in blocks)


def rows(result: StudyResult, fused: Fuse) -> list[Row]:
    """Return the table rows of a study's networks at one level of fusing."""
    wanted = [measurement for measurement in measurements(result) if measurement.artifact.fused is fused]  # type: ignore[union-attr]
    return gather([[_run(result, result.device, result.machine), *wanted]])


def _run(result: StudyResult, device: Device, machine: Machine) -> Run:
    request = Request(
        device=device,
        models=tuple(options.load(DOCS.parent / FILE_NAME).models.values()),
        shapes=(),
        fused=Fuse.FOLDED,
        method=Method(),
        seed=result.seed,
        timeout_s=1.0,
    )
    return Run(
        schema=SCHEMA,
        id=result.id,
        started=result.started,
        tool=result.tool,
        commit=result.commit,
        dirty=result.dirty,
        request=request,
        cells=(),
        machine=machine,
    )


def frontier_chart(result: StudyResult, palette: Palette) -> bytes:
    """Return published top-1 against latency of FastViT and its peers, each at its own evaluation size."""
    drawn = study_frontier.figure(result, palette.beside(study_chart.models(result)), AXES)
    assert drawn is not None
    for layer in drawn.spec["layer"]:
        for point in layer.get("data", {}).get("values", ()):
            if "label" in point:
                point["label"] = point["label"].removeprefix("FastViT-")
    count = len(study_frontier.places(result))
    subtitle = f"{count} networks of table 5, FP32, batch 1, each at its own size; grey: not FastViT"
    return _picture(drawn.spec, "Published top-1 against latency measured here", subtitle, "bottom-right", WIDE)


def curves_chart(result: StudyResult, palette: Palette) -> bytes:
    """Return latency against image size of two token mixers."""
    chosen = [row for row in rows(result, Fuse.FOLDED) if row.model in MIXERS]
    [group] = frontiers.groups(chosen)
    named = replace(group, names=tuple(MIXERS[row.model] for row in group.rows))
    drawn = row_charts.resolution(named, _source(chosen, result), palette.beside(row.model for row in group.rows))
    assert drawn is not None
    return _picture(drawn.spec, "Latency against image size", "one network with two token mixers", "top-left", NARROW)


def _source(chosen: list[Row], result: StudyResult) -> dict[bytes, str]:
    return {row.key: f"samples of study {result.study.name}, {result.id}" for row in chosen}


def _picture(spec: Spec, title: str, subtitle: str, legend: str, size: tuple[int, int]) -> bytes:
    """Return a chart as SVG of a size in pixels, its legend in a corner of it."""
    for layer in spec["layer"]:
        for channel in ("fill", "shape", "color"):
            encoding = layer.get("encoding", {}).get(channel)
            if isinstance(encoding, dict) and "scale" in encoding and encoding.get("legend", {}) is not None:
                encoding["legend"] = {**encoding.get("legend", {}), "orient": legend}
    title_block = {"text": title, "subtitle": subtitle, "offset": 12}
    fit = {"autosize": {"type": "fit", "contains": "padding"}, "padding": 14, "title": title_block}
    return charts.rendered({**spec, **fit, "width": size[0], "height": size[1]}, "svg")


def main() -> int:
    """Write both pictures for light and for dark pages."""
    for theme, palette in PALETTES.items():
        for name, draw, source in (("frontier", frontier_chart, FRONTIER), ("curves", curves_chart, CURVES)):
            path = DOCS / "images" / f"{name}-{theme}.svg"
            write(path, draw(study(source), palette))
            print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
