"""A picture of the roofline: the roofs of a device in double logarithmic axes, and below them a mark per figure."""

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench.errors import UsageError
from fastvit_bench.records import Peak
from fastvit_bench.report import pictures
from fastvit_bench.report.pictures import check
from fastvit_bench.report.roofline import Point, settings, used
from fastvit_bench.report.rows import Row, size_of
from fastvit_bench.report.sheet import form, model_name, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 16  # lines of figures; more cannot be told apart

SIZE = (8.0, 5.4)  # inches, without the small print
LINE = 0.17  # inches, of the small print

# of Okabe & Ito's palette, which does not rely on telling red from green; shapes tell the colours apart once more
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B8860B", "#444444")
SHAPES = "osD^vPX"
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))


def write(points: Sequence[Point], held: Sequence[Peak], path: Path) -> list[str]:
    """Draw the roofs and figures into an SVG or PNG file; returns what a person should know of what was left out.

    Raises as `check` does, and `UsageError` when there is no roof to draw or the file cannot be written.
    """
    check(path)
    roofs = used(points, held)
    if not roofs:
        raise UsageError("There is no peak to draw: none is known of the machine these figures were measured on.")
    series, notes = _series(points)
    pictures.write(path, draw(roofs, series, notes, pictures.kind(path)))
    return notes


def _series(points: Sequence[Point]) -> tuple[list[list[Point]], list[str]]:
    """The points that have a place, row by row, and a sentence on each kind that has none."""
    placed = [point for point in points if point.peak is not None and point.intensity is not None]
    rows: dict[int, list[Point]] = {}
    for point in placed:
        rows.setdefault(id(point.row), []).append(point)
    notes: list[str] = []
    if left := len(points) - len(placed):
        notes.append(f"{left} of {len(points)} figures have no place in the picture: no peak, or no counted file.")
    series = list(rows.values())
    if len(series) > MOST:
        notes.append(f"{len(series) - MOST} of {len(series)} rows are not drawn: name the runs to be drawn.")
    return series[:MOST], notes


def draw(roofs: Sequence[Peak], series: Sequence[Sequence[Point]], notes: Sequence[str], kind: str) -> bytes:
    """The content of a picture, the same for the same figures. `kind` is svg or png."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = SIZE[0]
    small = [_legend(bool(series)), *notes, *(_measured(peak) for peak in roofs)]
    lines = [line for note in small for line in textwrap.wrap(note, int(width * 19)) or [""]]
    below = LINE * len(lines) + 0.2
    height = SIZE[1] + below
    # text stays text in an SVG; ids follow from the salt
    fixed: Any = {"svg.fonttype": "none", "svg.hashsalt": "fastvit-bench", "font.family": "DejaVu Sans", "font.size": 9}
    with rc_context(fixed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script the font lacks
        figure = Figure(figsize=(width, height), dpi=150)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        figure.subplots_adjust(
            left=0.75 / width, right=1 - 0.2 / width, top=1 - 0.5 / height, bottom=(below + 0.5) / height
        )
        low, high = _range(roofs, series)
        _frame(axes, low, high, roofs, series)  # first, because the angle of a slope follows from it
        for at, peak in enumerate(roofs):
            _roof(axes, peak, DASHES[at % len(DASHES)], low, high, several=len(roofs) > 1)
        for at, (points, name) in enumerate(zip(series, _names(series), strict=True)):
            _row(axes, points, name, at)
        if series or len(roofs) > 1:
            _key(axes)
        for number, line in enumerate(reversed(lines)):
            y = (0.1 + LINE * number) / height
            figure.text(0.2 / width, y, line, fontsize=7, color="#444444", parse_math=False)
        data = io.BytesIO()
        about: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(data, format=kind, metadata=about)
    return data.getvalue()


def _legend(with_figures: bool) -> str:
    roofs = "Roofs: the lower of arithmetic rate and FLOP/byte x bandwidth / 2, both measured."
    if not with_figures:
        return roofs
    return (
        f"{roofs} Marks: figures of the models, larger for larger images, at the FLOP per byte that the nodes of the "
        "file move; caches and fused nodes save some of it, so a mark may lie above the slope."
    )


def _measured(peak: Peak) -> str:
    machine = peak.machine
    return plain(
        f"{machine.accelerator or machine.processor}, {settings(peak)}: {peak.macs_per_s / 1e9:.4g} GMAC/s "
        f"({peak.best.probe.label}), {peak.bytes_per_s / 1e9:.4g} GB/s, {peak.finished[:10]}"
        f"{''.join(f'; {warning}' for warning in peak.warnings)}."
    )


def _range(roofs: Sequence[Peak], series: Sequence[Sequence[Point]]) -> tuple[float, float]:
    """Of the horizontal axis, in FLOP per byte: every ridge and every mark, with room beside them."""
    places = [point.intensity for points in series for point in points if point.intensity]
    places += [peak.ridge for peak in roofs]
    return min(places) / 2.5, max(places) * 2.5


def _roof(axes: "Axes", peak: Peak, dash: Any, low: float, high: float, *, several: bool) -> None:
    """The slope up to the ridge and the flat part behind it."""
    corners = [low, peak.ridge, high]
    axes.plot(
        corners,
        [peak.attainable(intensity) / 1e9 for intensity in corners],
        color="#000000",
        linewidth=1.6,
        linestyle=dash,
        zorder=2,
        label=settings(peak) if several else None,
    )
    top, slope = peak.macs_per_s / 1e9, peak.bytes_per_s / 2e9  # GMAC/s, and GMAC/s per FLOP/byte
    place: Any = {"textcoords": "offset points", "fontsize": 8, "parse_math": False}
    axes.annotate(f"{top:.4g} GMAC/s", (high, top), (-4, 4), horizontalalignment="right", **place)
    middle = math.sqrt(low * min(peak.ridge, high))
    (x0, y0), (x1, y1) = axes.transData.transform([(low, low * slope), (middle, middle * slope)])
    axes.annotate(
        f"{peak.bytes_per_s / 1e9:.4g} GB/s",
        (middle, middle * slope),
        (-4, 5),
        rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)),
        rotation_mode="anchor",
        horizontalalignment="center",
        **place,
    )
    axes.plot([peak.ridge, peak.ridge], [1e-9, top], color="#999999", linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    if not several:
        grey: Any = {"xycoords": ("data", "axes fraction"), "color": "#777777"} | place
        axes.annotate("memory is the bound  ", (peak.ridge, 0), (0, 5), horizontalalignment="right", **grey)
        axes.annotate("  arithmetic is the bound", (peak.ridge, 0), (0, 5), horizontalalignment="left", **grey)


def _row(axes: "Axes", points: Sequence[Point], name: str, at: int) -> None:
    """The figures of one row, joined in the order of their sizes; the first and the last tell theirs."""
    colour = COLOURS[at % len(COLOURS)]
    x = [point.intensity or math.nan for point in points]
    y = [point.macs_per_s / 1e9 for point in points]
    pixels = [shape.height * shape.width if (shape := point.cell.shape) else 1 for point in points]
    axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.6, zorder=3)
    axes.scatter(
        x,
        y,
        s=[18 * max(0.6, min(6, math.sqrt(count) / 200)) for count in pixels],
        color=colour,
        marker=SHAPES[at % len(SHAPES)],
        linewidths=0.5,
        edgecolors="white",
        zorder=4,
        label=name,
    )
    for index in sorted({0, len(points) - 1}):
        last = index == len(points) - 1
        axes.annotate(
            size_of(points[index].cell.shape),
            (x[index], y[index]),
            (7 if last else -5, -3),
            textcoords="offset points",
            horizontalalignment="left" if last else "right",
            fontsize=6.5,
            color=colour,
            parse_math=False,
        )


def _names(series: Sequence[Sequence[Point]]) -> list[str]:
    """Of each row: the model, and what is not the same for all."""
    rows = [points[0].row for points in series]
    told = [
        [form(row), row.fused.value if row.fused else "", plain(row.precision), f"batch {row.batch}", _options(row)]
        for row in rows
    ]
    differ = [len(set(column)) > 1 for column in zip(*told, strict=True)]
    texts = [
        ", ".join([model_name(row), *(text for text, shown in zip(facts, differ, strict=True) if shown and text)])
        for row, facts in zip(rows, told, strict=True)
    ]
    return [text if len(text) <= 44 else f"{text[:43]}…" for text in texts]


def _options(row: Row) -> str:
    """The options of a row's device."""
    return plain(" ".join(f"{name} {value}" for name, value in sorted(row.device.options.items())))


def _frame(axes: "Axes", low: float, high: float, roofs: Sequence[Peak], series: Sequence[Sequence[Point]]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    heights = [point.macs_per_s / 1e9 for points in series for point in points]
    heights += [peak.attainable(low) / 1e9 for peak in roofs] + [peak.macs_per_s / 1e9 for peak in roofs]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(min(heights) / 1.5, max(heights) * 1.6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("operational intensity, FLOP per byte moved")
    axes.set_ylabel("GMAC/s")
    devices = {peak.device.name: None for peak in roofs}
    axes.set_title(f"Roofline of {plain(', '.join(devices))}", loc="left", fontweight="bold", parse_math=False)


def _key(axes: "Axes") -> None:
    """Which mark is which, where the slope leaves room."""
    from matplotlib.collections import PathCollection

    found = axes.legend(loc="upper left", fontsize=7.5, frameon=True, framealpha=0.9, edgecolor="#dddddd")
    for text in found.get_texts():
        text.set_parse_math(False)
    for handle in found.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([28])
