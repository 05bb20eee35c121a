"""The roofline as a picture: the roofs of a device in double logarithmic axes, and below them a mark per figure."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fastvit_bench.errors import UsageError
from fastvit_bench.records import DevicePeak
from fastvit_bench.render import charts
from fastvit_bench.render.charts import DASHES, LIGHT, Spec
from fastvit_bench.render.row_text import model_name, variant_label
from fastvit_bench.render.rows import Row, size_of
from fastvit_bench.render.text import printable
from fastvit_bench.roofline.points import RooflinePoint, settings, used

MOST = 16  # lines of figures; more cannot be distinguished

SIZE = (600, 400)  # pixels of the axes


def write(
    points: Sequence[RooflinePoint], device_peaks: Sequence[DevicePeak], path: Path, *, force: bool = False
) -> list[str]:
    """Draw the roofs and figures into an SVG or PNG file; return sentences on the figures not drawn.

    Raises as `charts.check` does, and `UsageError` when there is no roof to draw or the file cannot be written.
    """
    charts.check(path, force=force)
    roofs = used(points, device_peaks)
    if not roofs:
        raise UsageError("There is no peak to draw: none is known of the machine these figures were measured on.")
    series, notes = _series(points)
    charts.write(path, draw(roofs, series, notes, charts.kind(path)))
    return notes


def _series(points: Sequence[RooflinePoint]) -> tuple[list[list[RooflinePoint]], list[str]]:
    """Return the points that have a place, row by row, and a sentence on each kind that has none."""
    placed = [point for point in points if point.peak is not None and point.intensity is not None]
    rows: dict[bytes, list[RooflinePoint]] = {}
    for point in placed:
        rows.setdefault(point.row.key, []).append(point)
    notes: list[str] = []
    if omitted := len(points) - len(placed):
        notes.append(f"{omitted} of {len(points)} figures have no place in the picture: no peak, or no counted file.")
    series = list(rows.values())
    if len(series) > MOST:
        notes.append(f"{len(series) - MOST} of {len(series)} rows are not drawn: name the runs to be drawn.")
    return series[:MOST], notes


def draw(
    roofs: Sequence[DevicePeak], series: Sequence[Sequence[RooflinePoint]], notes: Sequence[str], kind: str
) -> bytes:
    """Return the content of a picture; deterministic. `kind` is svg or png."""
    import altair as alt

    low, high = _intensities(roofs, series)
    bottom, top = _rates(roofs, series, low)
    # powers of ten with 2 and 5 between them
    ticks = [mantissa * 10.0**power for power in range(-6, 7) for mantissa in (1, 2, 5)]

    def axis(ends: tuple[float, float]) -> Any:
        return alt.Axis(values=[tick for tick in ticks if ends[0] <= tick <= ends[1]], format="~g")

    x = alt.X(
        "intensity:Q",
        title="operational intensity, FLOP per byte moved",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=axis((low, high)),
    )
    y = alt.Y(
        "rate:Q",
        title="GMAC/s",
        scale=alt.Scale(type="log", domain=[bottom, top], nice=False),
        axis=axis((bottom, top)),
    )
    layers = [*_roofs(roofs, (low, high), (bottom, top), x, y), *_rows(series, x, y)]
    small = [_legend(bool(series)), *notes, *(_measured(peak) for peak in roofs)]
    devices = dict.fromkeys(peak.device.name for peak in roofs)
    title = alt.TitleParams(
        f"Roofline of {printable(', '.join(devices))}",
        subtitle=[line for note in small for line in textwrap.wrap(note, 108) or [""]],
        anchor="start",
        subtitleFontSize=charts.SMALL,
        offset=12,
    )
    drawn = alt.layer(*layers).resolve_scale(color="independent", shape="independent", strokeDash="independent")
    drawn = drawn.properties(width=SIZE[0], height=SIZE[1], title=title)
    spec: Spec = drawn.configure(**charts.config(LIGHT)).to_dict(validate=False)
    return charts.rendered({**spec, "padding": 12}, kind)


def _legend(with_figures: bool) -> str:
    roofs = "Roofs: the lower of arithmetic rate and FLOP/byte x bandwidth / 2, both measured."
    if not with_figures:
        return roofs
    return (
        f"{roofs} Marks: figures of the models, larger for larger images, at the FLOP per byte that the nodes of the "
        "file move; caches and fused nodes save some of it, so a mark may lie above the slope."
    )


def _measured(peak: DevicePeak) -> str:
    machine = peak.machine
    return printable(
        f"{machine.accelerator or machine.processor}, {settings(peak)}: {peak.macs_per_s / 1e9:.4g} GMAC/s "
        f"({peak.best.probe.label}), {peak.bytes_per_s / 1e9:.4g} GB/s, {peak.finished[:10]}"
        f"{''.join(f'; {warning}' for warning in peak.warnings)}."
    )


def _intensities(roofs: Sequence[DevicePeak], series: Sequence[Sequence[RooflinePoint]]) -> tuple[float, float]:
    """Return the ends of the horizontal axis in FLOP per byte: every ridge and every mark, with a margin."""
    places = [point.intensity for points in series for point in points if point.intensity]
    places += [peak.ridge for peak in roofs]
    return min(places) / 2.5, max(places) * 2.5


def _rates(roofs: Sequence[DevicePeak], series: Sequence[Sequence[RooflinePoint]], low: float) -> tuple[float, float]:
    """Return the ends of the vertical axis in 10^9 multiply-accumulates per second."""
    heights = [point.macs_per_s / 1e9 for points in series for point in points]
    heights += [peak.attainable(low) / 1e9 for peak in roofs] + [peak.macs_per_s / 1e9 for peak in roofs]
    return min(heights) / 1.5, max(heights) * 1.6


def _roofs(
    roofs: Sequence[DevicePeak], across: tuple[float, float], up: tuple[float, float], x: Any, y: Any
) -> list[Any]:
    """Return the slope up to each ridge and the flat part behind it, with both rates."""
    import altair as alt

    low, high = across
    names = charts.distinct([charts.short(settings(peak), 44) for peak in roofs])
    corners: list[Spec] = [
        {"intensity": intensity, "rate": peak.attainable(intensity) / 1e9, "roof": name}
        for peak, name in zip(roofs, names, strict=True)
        for intensity in (low, min(max(peak.ridge, low), high), high)
    ]
    dashes = [DASHES[at % len(DASHES)] for at in range(len(names))]
    dash = alt.StrokeDash(
        "roof:N",
        title=None,
        sort=names,
        scale=alt.Scale(domain=names, range=dashes),
        legend=alt.Legend(orient="bottom") if len(roofs) > 1 else None,
    )
    layers: list[Any] = [
        alt.Chart(alt.Data(values=corners))
        .mark_line(color=LIGHT.ink, strokeWidth=1.8)
        .encode(x=x, y=y, strokeDash=dash, detail=alt.Detail("roof:N"))
    ]
    for peak in roofs:
        rate, slope = peak.macs_per_s / 1e9, peak.bytes_per_s / 2e9  # GMAC/s, and GMAC/s per FLOP/byte
        middle = math.sqrt(low * min(peak.ridge, high))
        ridge = [{"intensity": peak.ridge, "rate": rate, "below": up[0]}]
        layers += [
            _text(high, rate, f"{rate:.4g} GMAC/s", x, y, align="right", dx=-4, dy=-8),
            _text(
                middle,
                middle * slope,
                f"{peak.bytes_per_s / 1e9:.4g} GB/s",
                x,
                y,
                align="center",
                dy=-8,
                angle=-math.degrees(math.atan2(_decades(up) * SIZE[1], _decades(across) * SIZE[0])) % 360,
            ),
            alt.Chart(alt.Data(values=ridge))
            .mark_rule(color=LIGHT.muted, strokeDash=[2, 3])
            .encode(x=x, y=y, y2=alt.Y2("below:Q")),
        ]
        if len(roofs) == 1:
            layers += [
                _text(peak.ridge, up[0], "memory is the bound", x, y, align="right", dx=-8, dy=-8, color=LIGHT.muted),
                _text(peak.ridge, up[0], "arithmetic is the bound", x, y, align="left", dx=8, dy=-8, color=LIGHT.muted),
            ]
    return layers


def _decades(ends: tuple[float, float]) -> float:
    """Return a decade's length as a share of the axis; a slope of one decade per decade needs that of both axes."""
    return 1 / math.log10(ends[1] / ends[0])


def _text(intensity: float, rate: float, text: str, x: Any, y: Any, **style: Any) -> Any:
    import altair as alt

    place = [{"intensity": intensity, "rate": rate, "text": text}]
    style = {"fontSize": charts.SMALL, "color": LIGHT.ink, **style}
    return alt.Chart(alt.Data(values=place)).mark_text(**style).encode(x=x, y=y, text=alt.Text("text:N"))


def _rows(series: Sequence[Sequence[RooflinePoint]], x: Any, y: Any) -> list[Any]:
    """Return the figures of each row, joined in the order of their sizes; the first and the last are labelled."""
    import altair as alt

    if not series:
        return []
    names = charts.distinct(_names(series))
    marks: list[Spec] = []
    for points, name in zip(series, names, strict=True):
        for at, point in enumerate(points):
            shape = point.cell.shape
            pixels = shape.height * shape.width if shape else 1
            marks.append(
                {
                    "intensity": point.intensity,
                    "rate": point.macs_per_s / 1e9,
                    "name": name,
                    "area": 30 * max(0.6, min(6, math.sqrt(pixels) / 200)),
                    "order": at,
                    "size": size_of(shape) if at in (0, len(points) - 1) else "",
                    "last": at == len(points) - 1,
                }
            )
    models = [points[0].row.model for points in series]
    looks = charts.line_looks(models, LIGHT.beside(models))
    colours = alt.Scale(domain=names, range=looks.colours)
    legend = alt.Legend(orient="bottom", columns=2, symbolOpacity=1, labelLimit=280)
    colour = alt.Color("name:N", title=None, sort=names, scale=colours, legend=legend)
    shape = alt.Shape(
        "name:N", title=None, sort=names, scale=alt.Scale(domain=names, range=looks.shapes), legend=legend
    )
    figures = alt.Chart(alt.Data(values=marks))
    plain_colour = alt.Color("name:N", scale=colours, legend=None)
    ends: tuple[tuple[str, Literal["left", "right"], int], ...] = (("true", "left", 9), ("false", "right", -7))
    return [
        figures.mark_line(strokeWidth=0.9, opacity=0.6).encode(
            x=x, y=y, color=plain_colour, detail=alt.Detail("name:N"), order="order:Q"
        ),
        figures.mark_point(filled=True, opacity=1).encode(
            x=x, y=y, color=colour, shape=shape, size=alt.Size("area:Q", scale=None, legend=None)
        ),
        *(
            figures.transform_filter(f"datum.last === {last}")
            .mark_text(align=align, dx=dx, dy=4, fontSize=charts.SMALL, color=LIGHT.muted)
            .encode(x=x, y=y, text=alt.Text("size:N"))
            for last, align, dx in ends
        ),
    ]


def _names(series: Sequence[Sequence[RooflinePoint]]) -> list[str]:
    """Return a name per row: the model, and the settings that differ between rows."""
    rows = [points[0].row for points in series]
    facts_of_rows = [
        [
            variant_label(row),
            row.fused.value if row.fused else "",
            printable(row.precision),
            f"batch {row.batch}",
            _options(row),
        ]
        for row in rows
    ]
    differ = [len(set(column)) > 1 for column in zip(*facts_of_rows, strict=True)]
    texts = [
        ", ".join([model_name(row), *(text for text, shown in zip(facts, differ, strict=True) if shown and text)])
        for row, facts in zip(rows, facts_of_rows, strict=True)
    ]
    return [charts.short(text, 44) for text in texts]


def _options(row: Row) -> str:
    """Return the options of a row's device as text."""
    return printable(" ".join(f"{name} {value}" for name, value in sorted(row.device.options.items())))
