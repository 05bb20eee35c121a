"""Histories as a picture: a small panel per series, its figures over the days, its levels and where they changed."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fastvit_bench.history.series import HistoryChange, HistoryPoint, Series
from fastvit_bench.history.table import changes_in_words, condition_marks, label, percent, settings
from fastvit_bench.render import charts
from fastvit_bench.render.charts import LIGHT, Chart, Palette, Spec
from fastvit_bench.render.text import latency, printable
from fastvit_bench.stats.changepoints import FEWEST

MOST = 24  # panels of a picture
MOST_ON_PAGE = 12  # panels of a device
MOST_POINTS = 300  # figures of a panel; more are one blot
COLUMNS = 2

ROWS = 3  # of labels above each other
ROW = 13  # pixels between them

PANEL = (262, 130)  # pixels, width and height: two fit the width of a sheet

LEGEND = (
    "Dots: figure of a run with the 95 % interval of its samples; triangles: beyond the panel. Line: median of a "
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


def figure(device: str, series: Sequence[Series], palette: Palette) -> Chart:
    """Return the chart of a device's history for a page: a panel per cell, whose points have texts behind them."""
    drawn, omissions = choose(series, MOST_ON_PAGE)
    marks, conditions = condition_marks(drawn)
    title = f"History of {printable(device)}"
    caption = " ".join([LEGEND, *omissions, *(conditions if len(conditions) > 1 else [])])
    spec: Spec = (
        _panels(drawn, marks, palette)
        .properties(description=f"{title}. {caption}")
        .configure(**charts.config(palette))
        .to_dict(validate=False)
    )
    return Chart("history", charts.slug(f"history-{device}"), printable(device), title, caption, spec)


def choose(series: Sequence[Series], most: int = MOST) -> tuple[list[Series], list[str]]:
    """Return the series to draw, in their order, and sentences on what is not drawn.

    Of more than so many series, those with the largest changes are drawn, then those with the most points. Of each the
    newest `MOST_POINTS` figures are drawn.
    """
    drawn, omissions = _choose(series, most)
    if (longest := max((len(one.points) for one in drawn), default=0)) > MOST_POINTS:
        omissions.append(f"Of up to {longest:,} figures of a series the newest {MOST_POINTS} are drawn.")
    return [_recent(one) for one in drawn], omissions


def _recent(series: Series) -> Series:
    """Return the newest points of a series, and the changes among them."""
    if (earlier := len(series.points) - MOST_POINTS) <= 0:
        return series
    changes = (replace(change, at=change.at - earlier) for change in series.changes if change.at > earlier)
    return Series(series.points[earlier:], tuple(changes))


def _choose(series: Sequence[Series], most: int) -> tuple[list[Series], list[str]]:
    if len(series) <= most:
        return list(series), []
    numbers = sorted(
        range(len(series)),
        key=lambda at: (-max(map(_size, series[at].changes), default=0.0), -len(series[at].points)),
    )
    drawn, omitted = sorted(numbers[:most]), numbers[most:]
    changed = sum(bool(series[at].changes) for at in omitted)
    message = f"{len(omitted)} of {len(series)} series are not drawn, {changed or 'none'} of them with changes"
    return [series[at] for at in drawn], [f"{message}: choose some with --model and --res of `history`."]


def _size(change: HistoryChange) -> float:
    return abs(change.shift.ratio - 1)


def draw(series: Sequence[Series], notes: Sequence[str], kind: str) -> bytes:
    """Return the content of a picture of at least one series; deterministic. `kind` is svg or png."""
    import altair as alt

    columns = min(COLUMNS, len(series))
    marks, conditions = condition_marks(series)
    wide = columns * (PANEL[0] + 60) // 6  # characters of the small print
    palette = LIGHT.beside(one.row.model for one in series)
    small = [line for note in (LEGEND, *notes, *conditions) for line in textwrap.wrap(note, wide) or [""]]
    drawn = _panels(series, marks, palette).properties(
        title=alt.TitleParams(
            small,
            orient="bottom",
            anchor="start",
            fontSize=charts.SMALL,
            fontWeight="normal",
            color=palette.muted,
            offset=14,
        )
    )
    spec: Spec = drawn.configure(**charts.config(palette)).to_dict(validate=False)
    return charts.rendered({**spec, "padding": 12}, kind)


def _panels(series: Sequence[Series], marks: Sequence[str], palette: Palette) -> Any:
    """Return the panels beside and below each other."""
    import altair as alt

    panels = [_panel(one, mark, palette) for one, mark in zip(series, marks, strict=True)]
    return alt.concat(*panels, columns=min(COLUMNS, len(series)), spacing=24)


def _panel(series: Series, mark: str, palette: Palette) -> Any:
    import altair as alt

    days = [_milliseconds(point.cell.finished) for point in series.points]
    low, high = _range(series)
    margin = max((days[-1] - days[0]) * 0.04, 3_600_000)
    # Vega-Lite's own interpreter of expressions, which the page needs, cannot read a domain of times
    ends = [{"day": days[0] - margin}, {"day": days[-1] + margin}]
    x = alt.X(
        "day:T",
        title=None,
        scale=alt.Scale(type="utc", nice=False),
        axis=alt.Axis(tickCount=4, labelFontSize=charts.SMALL, grid=False, labelOverlap=True),
    )
    y = alt.Y(
        "ms:Q",
        title="ms",
        scale=alt.Scale(domain=[low, high], nice=False, zero=False),
        axis=alt.Axis(tickCount=4, labelFontSize=charts.SMALL, titleFontSize=charts.SMALL, titlePadding=4),
    )
    layers = [
        alt.Chart(charts.values(ends)).mark_rule(opacity=0, aria=False).encode(x=x),
        *_figures(series, days, low, high, x, y, palette),
        *_levels(series, days, x, palette),
        *_changes(series, days, low, high, x, y, palette),
    ]
    subtitle_parts = [f"{series.row.device.name}{mark}", settings(series)]
    if not series.searched:
        subtitle_parts.insert(0, changes_in_words(series))
    title = alt.TitleParams(
        charts.short(label(series), 40),
        subtitle=charts.short(", ".join(subtitle_parts), 50),
        anchor="start",
        fontSize=12,
        subtitleFontSize=charts.SMALL,
    )
    return alt.layer(*layers).properties(width=PANEL[0], height=PANEL[1], title=title)


def _milliseconds(finished: str) -> float:
    """Return the milliseconds since 1970, UTC, of a record's time."""
    return 1e3 * datetime.fromisoformat(finished).astimezone(UTC).timestamp()


def _figures(
    series: Series, days: Sequence[float], low: float, high: float, x: Any, y: Any, palette: Palette
) -> list[Any]:
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
                "about": _about(series, point),
            }
        )
    shape = alt.Shape(
        "place:N",
        legend=None,
        scale=alt.Scale(domain=["inside", "above", "below"], range=["circle", "triangle-up", "triangle-down"]),
    )
    marks = alt.Chart(charts.values(points))
    colour = palette.models.of(series.row.model)
    return [
        marks.mark_rule(color=colour, opacity=0.5, aria=False).encode(
            x=x, y=alt.Y("low:Q", title="ms"), y2=alt.Y2("high:Q")
        ),
        marks.mark_point(filled=True, color=colour, opacity=0.75, size=26 if len(days) <= 60 else 12).encode(
            x=x, y=y, shape=shape, **charts.text_behind()
        ),
    ]


def _about(series: Series, point: HistoryPoint) -> str:
    """Return the text behind a point: its figure, its time, and the run and commit that it belongs to."""
    commit = f", commit {printable(point.commit)}" if point.commit else ""
    return "\n".join(
        [
            label(series),
            f"{latency(point.figure_ms, point.cell.interval_ms)} ms",
            f"run {printable(point.run.id)}{commit}",
            f"finished {point.cell.finished[:16].replace('T', ' ')} UTC",
        ]
    )


def _levels(series: Series, days: Sequence[float], x: Any, palette: Palette) -> list[Any]:
    import altair as alt

    levels = [{"day": days[start], "end": days[end - 1], "level": middle} for start, end, middle in series.levels]
    return [
        alt.Chart(charts.values(levels))
        .mark_rule(color=palette.ink, strokeWidth=1.6, aria=False)
        .encode(x=x, x2=alt.X2("end:T"), y=alt.Y("level:Q", title="ms"))
    ]


def _changes(
    series: Series, days: Sequence[float], low: float, high: float, x: Any, y: Any, palette: Palette
) -> list[Any]:
    """Return a dashed line at each change, and its size; neighbours' labels are stacked in up to `ROWS` rows."""
    import altair as alt

    labels: list[Spec] = []
    for number, change in enumerate(series.changes):
        commit = series.points[change.at].commit
        late = days[change.at] - days[0] > 0.6 * (days[-1] - days[0])
        labels.append(
            {
                "day": days[change.at],
                "ms": high - (7 + ROW * (number % ROWS)) / PANEL[1] * (high - low),
                "text": f"{percent(change.shift.ratio)} %{' at ' * bool(commit)}{printable(commit)}",
                "side": "left" if late else "right",
                "way": "slower" if change.shift.ratio > 1 else "quicker",
            }
        )
    if not labels:
        return []
    scale = alt.Scale(domain=["slower", "quicker"], range=[palette.bad, palette.good])
    colour = alt.Color("way:N", legend=None, scale=scale)
    lines = alt.Chart(charts.values(labels))
    sides: tuple[tuple[str, Literal["left", "right"], int], ...] = (("left", "right", -3), ("right", "left", 3))
    return [
        lines.mark_rule(strokeDash=[4, 2], aria=False).encode(x=x, color=colour),
        *(
            lines.transform_filter(f"datum.side === '{side}'")
            .mark_text(align=align, dx=dx, fontSize=charts.SMALL, fontWeight="bold", aria=False)
            .encode(x=x, y=y, text=alt.Text("text:N"), color=colour)
            for side, align, dx in sides
            if any(label["side"] == side for label in labels)
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
    labels = ROW / PANEL[1] * min(len(series.changes), ROWS) * (high - low + 2 * padding)
    return low - padding, high + padding + labels
