"""A picture of histories: a small panel per series, its figures over the days, its levels and where they changed."""

import io
import textwrap
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench.report import pictures
from fastvit_bench.report.history import (
    FEWEST,
    Change,
    Series,
    changes_in_words,
    condition_marks,
    label,
    percent,
    settings,
)
from fastvit_bench.report.pictures import check
from fastvit_bench.report.sheet import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 24  # panels of a picture
COLUMNS = 3

ROWS = 3  # of labels above each other

PANEL = (4.4, 2.6)  # inches, width and height
LINE = 0.17  # inches, of the small print below the panels

# of Okabe & Ito's palette, which does not rely on telling red from green; the labels have the sign besides
FIGURE, LEVEL, SLOWER, QUICKER = "#0072B2", "#000000", "#D55E00", "#009E73"


def write(series: Sequence[Series], path: Path) -> list[str]:
    """Draw series into an SVG or PNG file, by its suffix; returns what a person should know of what was left out.

    Raises as `check` does, and `UsageError` when the file cannot be written.
    """
    check(path)
    shown, left_out = choose(series)
    pictures.write(path, draw(shown, left_out, pictures.kind(path)))
    return left_out


def choose(series: Sequence[Series]) -> tuple[list[Series], list[str]]:
    """What is drawn, in its order, and a sentence on the rest.

    Of more than 24 series those whose changes are largest, then those with the most points.
    """
    if len(series) <= MOST:
        return list(series), []
    ranked = sorted(series, key=lambda each: (-max((_size(c) for c in each.changes), default=0.0), -len(each.points)))
    kept = {id(each) for each in ranked[:MOST]}
    changed = sum(bool(each.changes) for each in ranked[MOST:])
    rest = f"{len(series) - MOST} of {len(series)} series are not drawn, {changed or 'none'} of them with changes"
    return [each for each in series if id(each) in kept], [f"{rest}: choose some with --model and --res."]


def _size(change: Change) -> float:
    return abs(change.shift.ratio - 1)


def draw(series: Sequence[Series], notes: Sequence[str], kind: str) -> bytes:
    """The content of a picture of at least one series, the same for the same series. `kind` is svg or png."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(series))
    rows = -(-len(series) // columns)
    width = PANEL[0] * columns
    marks, conditions = condition_marks(series)
    small = [_legend(), *notes, *conditions]
    lines = [line for note in small for line in textwrap.wrap(note, int(width * 18)) or [""]]
    below = LINE * len(lines) + 0.15
    height = PANEL[1] * rows + below
    # text stays text in an SVG, without which a picture of 24 panels has a megabyte; ids follow from the salt
    fixed: Any = {"svg.fonttype": "none", "svg.hashsalt": "fastvit-bench", "font.family": "DejaVu Sans", "font.size": 8}
    with rc_context(fixed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script the font lacks
        figure = Figure(figsize=(width, height), dpi=150)
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(
            left=0.6 / width,
            right=1 - 0.15 / width,
            top=1 - 0.5 / height,
            bottom=(below + 0.35) / height,
            wspace=0.75 / (PANEL[0] - 0.75),
            hspace=0.85 / (PANEL[1] - 0.85),
        )
        for at, axes in enumerate(panels.flat):
            if at < len(series):
                _panel(axes, series[at], marks[at])
            else:
                axes.set_axis_off()
        for number, line in enumerate(reversed(lines)):
            y = (0.1 + LINE * number) / height
            figure.text(0.15 / width, y, line, fontsize=7, color="#444444", parse_math=False)
        data = io.BytesIO()
        about: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(data, format=kind, metadata=about)
    return data.getvalue()


def _legend() -> str:
    return (
        "Dots: figure of a run with the 95 % interval of its samples; triangles: beyond the panel. "
        "Black: median of a level. Dashed: a change, at the first run that shows it, with its size and that run's "
        "commit."
    )


def _panel(axes: "Axes", series: Series, mark: str) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
    from matplotlib.ticker import MaxNLocator

    days = [float(date2num(datetime.fromisoformat(point.cell.finished).astimezone(UTC))) for point in series.points]
    low, high = _range(series)
    _figures(axes, series, days, low, high)
    for start, end, median in series.levels:
        axes.plot([days[start], days[end - 1]], [median, median], color=LEVEL, linewidth=1.4, solid_capstyle="round")
    for number, change in enumerate(series.changes):
        slower = change.shift.ratio > 1
        colour = SLOWER if slower else QUICKER
        axes.axvline(days[change.at], color=colour, linestyle=(0, (4, 2)), linewidth=1)
        commit = series.points[change.at].commit
        late = days[change.at] - days[0] > 0.6 * (days[-1] - days[0])  # written to the left, where there is room
        axes.annotate(
            f"{percent(change.shift.ratio)} %{' at ' * bool(commit)}{plain(commit)}",
            (days[change.at], 1),
            (-3 if late else 3, -8 - 9 * (number % ROWS)),  # neighbours stand below each other
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            horizontalalignment="right" if late else "left",
            color=colour,
            fontsize=7,
            fontweight="bold",
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6},
            parse_math=False,
        )
    margin = max((days[-1] - days[0]) * 0.04, 1 / 24)
    axes.set_xlim(days[0] - margin, days[-1] + margin)
    axes.set_ylim(low, high)
    locator = AutoDateLocator(minticks=3, maxticks=6, tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))
    axes.xaxis.get_offset_text().set_fontsize(6.5)  # the year, which ticks leave out
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=7, length=2.5)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_ylabel("ms", fontsize=7, labelpad=2)
    axes.set_title(
        _clipped(f"{label(series)}", 44), loc="left", fontsize=8.5, fontweight="bold", pad=15, parse_math=False
    )
    told = [f"{series.row.device.name}{mark}", settings(series)]
    if not series.searched:
        told.insert(0, changes_in_words(series))
    axes.text(
        0,
        1.03,
        _clipped(", ".join(told), 78),
        transform=axes.transAxes,
        fontsize=6.5,
        color="#444444",
        parse_math=False,
    )


def _figures(axes: "Axes", series: Series, days: Sequence[float], low: float, high: float) -> None:
    """The points with their intervals; those beyond the panel as triangles at its edge."""
    inset = (high - low) * 0.03
    inside = [at for at, point in enumerate(series.points) if low <= point.figure_ms <= high]
    size = 3.5 if len(days) <= 60 else 2.2
    known = [(days[at], interval) for at in inside if (interval := series.points[at].cell.interval_ms)]
    if known:
        ends = [[interval.low for _, interval in known], [interval.high for _, interval in known]]
        axes.vlines([day for day, _ in known], *ends, colors=FIGURE, alpha=0.4, linewidth=1)
    axes.plot(
        [days[at] for at in inside],
        [series.points[at].figure_ms for at in inside],
        linestyle="none",
        marker="o",
        markersize=size,
        color=FIGURE,
        alpha=0.75,
        markeredgewidth=0,
    )
    for mark, edge, beyond in (
        ("^", high - inset, [at for at, point in enumerate(series.points) if point.figure_ms > high]),
        ("v", low + inset, [at for at, point in enumerate(series.points) if point.figure_ms < low]),
    ):
        places = [days[at] for at in beyond]
        edges = [edge] * len(beyond)
        axes.plot(places, edges, linestyle="none", marker=mark, color=FIGURE, markersize=4.5, markeredgewidth=0)


def _range(series: Series) -> tuple[float, float]:
    """Of the vertical axis: every level and what lies within a few times the noise of one, in ms, with some room.

    A panel shows at least 4 % of its figure, so that noise of a thousandth does not fill it.
    """
    reach = max(6 * (series.noise or 0.0), 0.01)
    near = [
        point.figure_ms
        for start, end, median in series.levels
        for point in series.points[start:end]
        if abs(point.figure_ms / median - 1) <= reach
    ] + [median for _, _, median in series.levels]
    if len(series.points) < FEWEST:  # too few to tell what is unusual
        near = [point.figure_ms for point in series.points]
    low, high = min(near), max(near)
    middle = (low + high) / 2
    room = max((high - low) * 0.1, middle * 0.02 - (high - low) / 2)
    labels = 0.08 * min(len(series.changes), ROWS) * (high - low + 2 * room)
    return low - room, high + room + labels


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
