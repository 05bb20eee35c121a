"""Histories as a picture: a small panel per series, its figures over the days, its levels and where they changed."""

import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fastvit_bench.history.series import HistoryChange, Series
from fastvit_bench.history.table import changes_in_words, condition_marks, label, percent, settings
from fastvit_bench.render import charts
from fastvit_bench.render.charts import LIGHT, Spec
from fastvit_bench.render.text import printable
from fastvit_bench.stats.changepoints import FEWEST

MOST = 24  # panels of a picture
COLUMNS = 3

ROWS = 3  # of labels above each other

PANEL = (280, 130)  # pixels, width and height

LEGEND = (
    "Dots: figure of a run with the 95 % interval of its samples; triangles: beyond the panel. Black: median of a "
    "level. Dashed: a change, at the first run that shows it, with its size and that run's commit."
)


def write(series: Sequence[Series], path: Path, *, force: bool = False) -> list[str]:
    """Draw series into an SVG or PNG file, by its suffix; return sentences on the series not drawn.

    Raises as `charts.check` does, and `UsageError` when the file cannot be written.
    """
    charts.check(path, force=force)
    drawn, omissions = choose(series)
    charts.write(path, draw(drawn, omissions, charts.kind(path)))
    return omissions


def choose(series: Sequence[Series]) -> tuple[list[Series], list[str]]:
    """Return the series to draw, in their order, and a sentence on those that are not drawn.

    Of more than 24 series, those with the largest changes are drawn, then those with the most points.
    """
    if len(series) <= MOST:
        return list(series), []
    numbers = sorted(
        range(len(series)),
        key=lambda at: (-max(map(_size, series[at].changes), default=0.0), -len(series[at].points)),
    )
    drawn, omitted = sorted(numbers[:MOST]), numbers[MOST:]
    changed = sum(bool(series[at].changes) for at in omitted)
    message = f"{len(omitted)} of {len(series)} series are not drawn, {changed or 'none'} of them with changes"
    return [series[at] for at in drawn], [f"{message}: choose some with --model and --res."]


def _size(change: HistoryChange) -> float:
    return abs(change.shift.ratio - 1)


def draw(series: Sequence[Series], notes: Sequence[str], kind: str) -> bytes:
    """Return the content of a picture of at least one series; deterministic. `kind` is svg or png."""
    import altair as alt

    columns = min(COLUMNS, len(series))
    marks, conditions = condition_marks(series)
    wide = columns * (PANEL[0] + 60) // 6  # characters of the small print
    small = [line for note in (LEGEND, *notes, *conditions) for line in textwrap.wrap(note, wide) or [""]]
    panels = [_panel(one, mark) for one, mark in zip(series, marks, strict=True)]
    drawn = alt.concat(*panels, columns=columns, spacing=24).properties(
        title=alt.TitleParams(
            small,
            orient="bottom",
            anchor="start",
            fontSize=10,
            fontWeight="normal",
            color=LIGHT.muted,
            offset=14,
        )
    )
    spec: Spec = drawn.configure(**charts.config(LIGHT)).to_dict(validate=False)
    return charts.rendered({**spec, "padding": 12}, kind)


def _panel(series: Series, mark: str) -> Any:
    import altair as alt

    days = [_milliseconds(point.cell.finished) for point in series.points]
    low, high = _range(series)
    margin = max((days[-1] - days[0]) * 0.04, 3_600_000)
    x = alt.X(
        "day:T",
        title=None,
        scale=alt.Scale(type="utc", domain=[days[0] - margin, days[-1] + margin], nice=False),
        axis=alt.Axis(tickCount=4, labelFontSize=9, grid=False, labelOverlap=True),
    )
    y = alt.Y(
        "ms:Q",
        title="ms",
        scale=alt.Scale(domain=[low, high], nice=False, zero=False),
        axis=alt.Axis(tickCount=4, labelFontSize=9, titleFontSize=9, titlePadding=4),
    )
    layers = [
        *_figures(series, days, low, high, x, y),
        *_levels(series, days, x),
        *_changes(series, days, low, high, x, y),
    ]
    subtitle_parts = [f"{series.row.device.name}{mark}", settings(series)]
    if not series.searched:
        subtitle_parts.insert(0, changes_in_words(series))
    title = alt.TitleParams(
        charts.short(label(series), 44),
        subtitle=charts.short(", ".join(subtitle_parts), 62),
        anchor="start",
        fontSize=11,
        subtitleFontSize=9,
    )
    return alt.layer(*layers).properties(width=PANEL[0], height=PANEL[1], title=title)


def _milliseconds(finished: str) -> float:
    """Return the milliseconds since 1970, UTC, of a record's time."""
    return 1e3 * datetime.fromisoformat(finished).astimezone(UTC).timestamp()


def _figures(series: Series, days: Sequence[float], low: float, high: float, x: Any, y: Any) -> list[Any]:
    """Return the points with their intervals; points beyond the panel are triangles at its edge."""
    import altair as alt

    points: list[Spec] = []
    for day, point in zip(days, series.points, strict=True):
        figure, interval = point.figure_ms, point.cell.interval_ms
        inside = low <= figure <= high
        ends = interval if inside and interval else None
        points.append(
            {
                "day": day,
                "ms": min(max(figure, low), high),
                "low": max(ends.low, low) if ends else None,
                "high": min(ends.high, high) if ends else None,
                "place": "inside" if inside else "above" if figure > high else "below",
            }
        )
    shape = alt.Shape(
        "place:N",
        legend=None,
        scale=alt.Scale(domain=["inside", "above", "below"], range=["circle", "triangle-up", "triangle-down"]),
    )
    marks = alt.Chart(alt.Data(values=points))
    colour = LIGHT.series[0]
    return [
        marks.mark_rule(color=colour, opacity=0.4).encode(x=x, y=alt.Y("low:Q", title="ms"), y2="high:Q"),
        marks.mark_point(filled=True, color=colour, opacity=0.75, size=26 if len(days) <= 60 else 12).encode(
            x=x, y=y, shape=shape
        ),
    ]


def _levels(series: Series, days: Sequence[float], x: Any) -> list[Any]:
    import altair as alt

    levels = [{"day": days[start], "end": days[end - 1], "level": middle} for start, end, middle in series.levels]
    return [
        alt.Chart(alt.Data(values=levels))
        .mark_rule(color=LIGHT.ink, strokeWidth=1.6)
        .encode(x=x, x2="end:T", y=alt.Y("level:Q", title="ms"))
    ]


def _changes(series: Series, days: Sequence[float], low: float, high: float, x: Any, y: Any) -> list[Any]:
    """Return a dashed line at each change, and its size; neighbours' labels are stacked in up to `ROWS` rows."""
    import altair as alt

    labels: list[Spec] = []
    for number, change in enumerate(series.changes):
        commit = series.points[change.at].commit
        late = days[change.at] - days[0] > 0.6 * (days[-1] - days[0])
        labels.append(
            {
                "day": days[change.at],
                "ms": high - (6 + 10 * (number % ROWS)) / PANEL[1] * (high - low),
                "text": f"{percent(change.shift.ratio)} %{' at ' * bool(commit)}{printable(commit)}",
                "side": "left" if late else "right",
                "way": "slower" if change.shift.ratio > 1 else "quicker",
            }
        )
    if not labels:
        return []
    scale = alt.Scale(domain=["slower", "quicker"], range=[LIGHT.bad, LIGHT.good])
    colour = alt.Color("way:N", legend=None, scale=scale)
    lines = alt.Chart(alt.Data(values=labels))
    sides: tuple[tuple[str, Literal["left", "right"], int], ...] = (("left", "right", -3), ("right", "left", 3))
    return [
        lines.mark_rule(strokeDash=[4, 2]).encode(x=x, color=colour),
        *(
            lines.transform_filter(f"datum.side === '{side}'")
            .mark_text(align=align, dx=dx, fontSize=9, fontWeight="bold")
            .encode(x=x, y=y, text="text:N", color=colour)
            for side, align, dx in sides
        ),
    ]


def _range(series: Series) -> tuple[float, float]:
    """Return the ends of the vertical axis in ms: every level, the figures near one, and a margin.

    A figure is near a level where it differs by at most six times the noise, or 1 %. A panel shows at least
    4 % of its figure, so that noise of a thousandth does not fill it.
    """
    reach = max(6 * (series.noise or 0.0), 0.01)
    near = [
        point.figure_ms
        for start, end, median in series.levels
        for point in series.points[start:end]
        if abs(point.figure_ms / median - 1) <= reach
    ] + [median for _, _, median in series.levels]
    if len(series.points) < FEWEST:  # too few to know what is unusual
        near = [point.figure_ms for point in series.points]
    low, high = min(near), max(near)
    middle = (low + high) / 2
    padding = max((high - low) * 0.1, middle * 0.02 - (high - low) / 2)
    labels = 0.08 * min(len(series.changes), ROWS) * (high - low + 2 * padding)
    return low - padding, high + padding + labels
