"""Figures of the report, each described once: the page draws the description itself, PNG and SVG are made from it."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from fastvit_bench.records import Measurement, Shape
from fastvit_bench.render.charts import (
    Chart,
    Palette,
    Spec,
    chart,
    distinct,
    line_looks,
    scale,
    short,
    text_behind,
    values,
)
from fastvit_bench.render.frontiers import Basis, Frontier, FrontierPlace, Group
from fastvit_bench.render.joined import BASES, accuracy_text, label_of, probability_text, ratio_text, some
from fastvit_bench.render.ratios import Key, Ratio
from fastvit_bench.render.row_text import legend
from fastvit_bench.render.rows import Row, size_of
from fastvit_bench.render.text import NOT_COMPARED_NOTE, compared, figure_text, printable
from fastvit_bench.stats.pareto import SURE, Counted

MOST_LINES = 16  # models in one chart; colour and shape together distinguish that many
MOST_POINTS = 60  # in one frontier's chart: its members, then the quickest
MOST_CHOICES = 16  # figures of one kind
SIZE = (560, 380)  # pixels of the axes, at least
LABELLED = 14  # models whose names a frontier's chart has room for


def conditions(rows: Sequence[Row]) -> dict[bytes, str]:
    """Return how the figures of each row were measured, by the row's key."""
    marks, lines = legend(rows)
    texts = [line[line.index("Measured: ") :].removesuffix(".") for line in lines]
    numbers = list(dict.fromkeys(marks.values()))
    return {row_key: texts[numbers.index(mark)] for row_key, mark in marks.items()}


def about(row: Row, cell: Measurement, name: str, measured: str, *more: str) -> str:
    """Return the text behind a number: figure and interval, further facts, and how, where and when it was measured."""
    doubts = row.doubts(cell)
    lines = [
        f"{name}, {size_of(cell.shape)} px",
        f"{figure_text(cell, doubts)} ms",
        *more,
        measured,
        f"finished {cell.finished[:16].replace('T', ' ')} UTC",
        *(f"* {printable(warning)}" for warning in doubts),
        *([] if compared(cell) else [NOT_COMPARED_NOTE]),
    ]
    return "\n".join(lines)


# --- accuracy against latency -----------------------------------------------------------------------------------------

ON, OPEN, OFF = "on the frontier", "uncertain", "dominated"


def word(share: float) -> str:
    """Return a standing in a word, by its probability of being on the frontier."""
    return ON if share >= SURE else OFF if share <= 1 - SURE else OPEN


def accuracy(frontier: Frontier, measured: Mapping[bytes, str], palette: Palette) -> Chart:
    """Return top-1 against latency, with the frontier as a staircase, and both intervals where they are known."""
    drawn, omitted = _chosen(frontier)
    alike = all(place.row.is_random for place in frontier.places)
    labelled = {
        id(place) for place in (drawn if len(drawn) <= LABELLED else [p for p in drawn if p.standing.on_frontier])
    }
    points: list[Spec] = [
        {
            **_point(frontier, place, measured),
            **_fill(place, palette),
            "label": short(place.name if alike else label_of(frontier, place), 36) if id(place) in labelled else "",
        }
        for place in drawn
    ]
    where = f"{frontier.group.label}, {size_of(frontier.shape)} px"
    return chart(
        "accuracy",
        f"{where}, {frontier.basis} top-1",
        f"Accuracy against latency: {where}",
        _accuracy_caption(frontier, omitted),
        points,
        accuracy_layers(frontier.basis, points, palette),
        palette,
    )


def accuracy_layers(
    basis: Basis,
    points: Sequence[Spec],
    palette: Palette,
    latency_title: str = "latency, ms per batch",
    size: tuple[int, int] = SIZE,
) -> list[Any]:
    """Return the staircase, the intervals, the marks and their labels; `size` is the axes' in pixels, for labels."""
    import altair as alt

    stairs = [{"ms": point["ms"], "top1": point["top1"]} for point in points if point["member"]]
    across = scale([point[end] for point in points for end in ("low", "ms", "high")], 0.7, 1.2)
    x = alt.X("ms:Q", title=latency_title, scale=across)
    shares = [point[end] for point in points for end in ("top1", "least", "most")]
    apart = max(max(shares) - min(shares), 1.0)
    domain = [min(shares) - 0.12 * apart, max(shares) + 0.16 * apart]
    title = f"{basis} top-1, %"
    up = alt.Scale(domain=domain, zero=False, nice=False)
    y = alt.Y("top1:Q", title=title, scale=up)
    # the caption says what is filled and hollow: a legend could not show it in every model's colour
    shape = alt.Shape(
        "standing:N", legend=None, scale=alt.Scale(domain=[ON, OPEN, OFF], range=["circle", "diamond", "circle"])
    )
    fill, stroke = alt.Fill("fill:N", scale=None), alt.Stroke("stroke:N", scale=None)
    layers: list[Any] = [
        alt.Chart(values(stairs))
        .mark_line(interpolate="step-after", color=palette.muted, strokeWidth=1.5, opacity=0.7, aria=False)
        .encode(x=x, y=y),
        alt.Chart()
        .mark_rule(color=palette.muted, strokeWidth=1.2, aria=False)
        .encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y),
    ]
    if basis is Basis.MEASURED:
        layers.append(
            alt.Chart()
            .mark_rule(color=palette.muted, strokeWidth=1.2, aria=False)
            .encode(x=x, y=alt.Y("least:Q"), y2=alt.Y2("most:Q"))
        )
    layers.append(
        alt.Chart()
        .mark_point(size=95, strokeWidth=2, opacity=1)
        .encode(
            x=x,
            y=y,
            fill=fill,
            stroke=stroke,
            shape=shape,
            **text_behind(),
        )
    )
    return [*layers, *_labels(_placed(points, across, up, size), x, y, palette)]


# places of a label beside its mark: text alignment, and pixels to the right and down
_PLACES: tuple[tuple[Literal["left", "right", "center"], int, int], ...] = (
    ("right", -7, -9),
    ("left", 8, 12),
    ("left", 8, -10),
    ("right", -7, 12),
    ("right", -10, 0),
    ("left", 11, 0),
    ("center", 0, -15),
    ("center", 0, 17),
    ("left", -4, -16),
    ("left", -4, 18),
    ("right", 4, -16),
    ("right", 4, 18),
)
_LETTER, _LINE, _MARK = 6.5, 12, 5  # pixels: width of a letter, height of a label, radius of a mark


def _labels(places: Iterable[tuple[Spec, int]], x: Any, y: Any, palette: Palette) -> Iterator[Any]:
    """Yield the names at their places beside the marks."""
    import altair as alt

    by_place: dict[int, list[Spec]] = {}
    for point, place in places:
        label = {name: point[name] for name in ("ms", "top1", "label", "member")}
        by_place.setdefault(place, []).append(label)
    ink = alt.condition("datum.member", alt.value(palette.ink), alt.value(palette.muted))
    for place, labelled in sorted(by_place.items()):
        align, dx, dy = _PLACES[place]
        yield (
            alt.Chart(values(labelled))
            .mark_text(align=align, dx=dx, dy=dy, fontSize=12, aria=False)
            .encode(x=x, y=y, text=alt.Text("label:N"), color=ink)
        )


def _placed(points: Sequence[Spec], x: Any, y: Any, size: tuple[int, int]) -> Iterator[tuple[Spec, int]]:
    """Yield the points whose names have a place where no other name or mark is, with its number; the first choose."""
    width, height = size
    marks = [(width * _share(point["ms"], x), height * (1 - _share(point["top1"], y))) for point in points]
    taken: list[tuple[float, float, float, float]] = []  # left, right, top and bottom of the names so far
    for at, point in enumerate(points):
        if not point["label"]:
            continue
        long = _LETTER * len(point["label"])
        usual = range(len(_PLACES)) if point["member"] else (1, 2, 3, 0, 5, 4, 7, 6, 9, 11, 8, 10)
        for place in usual:
            align, dx, dy = _PLACES[place]
            start = marks[at][0] + dx - {"left": 0.0, "right": long, "center": long / 2}[align]
            top = marks[at][1] + dy - _LINE / 2
            box = (start, start + long, top, top + _LINE)
            other_marks = (
                (mx - _MARK, mx + _MARK, my - _MARK, my + _MARK) for n, (mx, my) in enumerate(marks) if n != at
            )
            inside = box[0] >= 0 and box[1] <= width and box[2] >= 0 and box[3] <= height
            if inside and not any(_overlap(box, obstacle) for obstacle in (*taken, *other_marks)):
                taken.append(box)
                yield point, place
                break


def _overlap(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> bool:
    return first[0] < second[1] and second[0] < first[1] and first[2] < second[3] and second[2] < first[3]


def _share(value: float, scale: Any) -> float:
    """Return how far along its axis a value lies, 0 to 1."""
    low, high = scale.domain
    if scale.type == "log":
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _accuracy_caption(frontier: Frontier, omitted: int) -> str:
    """Return how to read the chart, and how many places it leaves out."""
    caption = (
        f"The line joins the models that no other is both as quick and as accurate as. Filled: on it in at least "
        f"{100 * SURE:.0f} % of resamplings; hollow: in at most {100 - 100 * SURE:.0f} %; diamond: in between. "
        f"Bars: 95 % intervals. Accuracy: {BASES[frontier.basis]}."
    )
    random = [place.row.is_random for place in frontier.places]
    if frontier.basis is Basis.PUBLISHED and any(random):
        which = "All" if all(random) else "Models marked so"
        caption += f" {which} were timed with random weights, whose speed is that of any."
    if omitted:
        caption += f" {omitted} further dominated models are in the table only."
    return caption


def _chosen(frontier: Frontier) -> tuple[list[FrontierPlace], int]:
    """Return the places that are drawn, and how many are not."""
    places = frontier.places
    if len(places) <= MOST_POINTS:
        return list(places), 0
    ranked = sorted(places, key=lambda place: (not place.standing.on_frontier, -place.standing.probability))
    drawn = {id(place) for place in ranked[:MOST_POINTS]}
    return [place for place in places if id(place) in drawn], len(places) - MOST_POINTS


def _fill(place: FrontierPlace, palette: Palette) -> Spec:
    """Return the colours of a mark: the model's own, and the paper's inside one that is not on the frontier."""
    own = palette.models.of(place.row.model)
    return {"stroke": own, "fill": own if word(place.standing.probability) == ON else palette.paper}


def _point(frontier: Frontier, place: FrontierPlace, measured: Mapping[bytes, str]) -> Spec:
    share, interval = place.accuracy.percent, place.cell.interval_ms
    least, most = share, share
    top1 = f"{accuracy_text(place.accuracy)} % top-1, published ({printable(place.source)})"
    if isinstance(place.accuracy, Counted):
        least, most = 100 * place.accuracy.share.low, 100 * place.accuracy.share.high
        top1 = f"{accuracy_text(place.accuracy)} % top-1, measured on {place.accuracy.images} images"
    by = frontier.dominating(place)
    return {
        "ms": place.cell.figure_ms,
        "low": interval.low if interval else place.cell.figure_ms,
        "high": interval.high if interval else place.cell.figure_ms,
        "top1": share,
        "least": least,
        "most": most,
        "member": place.standing.on_frontier,
        "standing": word(place.standing.probability),
        "about": about(
            place.row,
            place.cell,
            label_of(frontier, place),
            measured[place.row.key],
            top1,
            f"on the frontier with {probability_text(place.standing.probability)}",
            *([f"dominated by {some(by)}"] if by else []),
        ),
    }


# --- latency and ratio against resolution -----------------------------------------------------------------------------


def resolution(group: Group, measured: Mapping[bytes, str], palette: Palette) -> Chart | None:
    """Return a chart with a line per model; None where everything was measured at one size."""

    def value(name: str, row: Row, cell: Measurement) -> tuple[float, float, float, str]:
        interval = cell.interval_ms
        ends = (interval.low, interval.high) if interval else (cell.figure_ms, cell.figure_ms)
        return cell.figure_ms, *ends, about(row, cell, name, measured[row.key])

    points, layers, caption = _lines(group, value, "latency, ms per batch", palette, at_one=None)
    if not layers:
        return None
    caption = (
        "Size: side of the square, or of one of the same area. Bars: 95 % intervals, often smaller than the marks."
        + caption
    )
    title = f"Latency against resolution: {group.label}"
    return chart("latency", group.label, title, caption, points, layers, palette)


def ratios(
    group: Group, by_cell: Mapping[Key, Ratio], reference: str, measured: Mapping[bytes, str], palette: Palette
) -> Chart | None:
    """Return a chart with a line per model, of its ratios to the reference; None where there is nothing to draw."""

    def value(name: str, row: Row, cell: Measurement) -> tuple[float, float, float, str] | None:
        ratio = by_cell.get((row.key, cell.shape))
        if ratio is None:
            return None
        interval = ratio.interval
        ends = (interval.low, interval.high) if interval else (ratio.value, ratio.value)
        times = f"{ratio_text(ratio)} times {printable(reference)}"
        return ratio.value, *ends, about(row, cell, name, measured[row.key], times)

    points, layers, caption = _lines(group, value, f"ratio to {short(reference)}", palette, at_one=1.0)
    if not layers:
        return None
    caption = (
        f"Below 1 is quicker than {printable(reference)} at the same size. Bars: 95 % intervals of the ratio." + caption
    )
    title = f"Ratio to {printable(reference)}: {group.label}"
    return chart("ratio", group.label, title, caption, points, layers, palette)


# the figure of a cell, the ends of its interval, and the text behind it; None where there is none
_Value = Callable[[str, Row, Measurement], tuple[float, float, float, str] | None]


def _series(group: Group, value: _Value) -> dict[str, list[Spec]]:
    """Return the points of each model by its name, in the order of their sizes."""
    series: dict[str, list[Spec]] = {}
    for name, row in zip(group.names, group.rows, strict=True):
        for cell in row.measured:
            if cell.shape is None or (measured := value(name, row, cell)) is None:
                continue
            figure, low, high, details = measured
            point = {"side": _side(cell.shape), "value": figure, "low": low, "high": high, "about": details}
            series.setdefault(name, []).append(point)
    return series


def _lines(
    group: Group,
    value: _Value,
    title: str,
    palette: Palette,
    at_one: float | None,
) -> tuple[list[Spec], list[Any], str]:
    """Return points, layers of lines over the sizes, and a sentence on models left out.

    There are no layers where no line has two points.
    """
    import altair as alt

    series = _series(group, value)
    if not any(len(points) > 1 for points in series.values()):
        return [], [], ""
    # from the top of the chart to its bottom, as the legend is read
    ordered = sorted(series, key=lambda name: -series[name][-1]["value"])
    shown, omitted = _spread(ordered, MOST_LINES), max(0, len(ordered) - MOST_LINES)
    labels = distinct([short(name) for name in shown])
    points: list[Spec] = [
        {"name": label, **point} for name, label in zip(shown, labels, strict=True) for point in series[name]
    ]
    ticks = sorted({point["side"] for line in series.values() for point in line})
    every = alt.Axis(values=ticks, format="d", labelOverlap="greedy", grid=False)
    # no wider than what was measured: a logarithmic axis would go on to the next power of ten
    x = alt.X(
        "side:Q",
        title="image size, px",
        axis=every,
        scale=alt.Scale(type="log", domain=[ticks[0] / 1.04, ticks[-1] * 1.04], nice=False),
    )
    y = alt.Y(
        "value:Q", title=title, scale=scale([point[end] for point in points for end in ("low", "high")], 0.85, 1.15)
    )
    model_of = {name: row.model for name, row in zip(group.names, group.rows, strict=True)}
    looks = line_looks([model_of[name] for name in shown], palette)
    colour = alt.Color("name:N", title=None, sort=labels, scale=alt.Scale(domain=labels, range=looks.colours))
    shape = alt.Shape("name:N", title=None, sort=labels, scale=alt.Scale(domain=labels, range=looks.shapes))
    dash = alt.StrokeDash("name:N", title=None, sort=labels, scale=alt.Scale(domain=labels, range=looks.dashes))
    layers: list[Any] = []
    if at_one is not None:
        layers.append(
            alt.Chart(alt.Data(values=[{"value": at_one}]))
            .mark_rule(color=palette.muted, strokeDash=[4, 3], aria=False)
            .encode(y=y)
        )
    layers += [
        alt.Chart()
        .mark_line(strokeWidth=1.8, aria=False)
        .encode(x=x, y=y, color=colour, strokeDash=dash, detail=alt.Detail("name:N")),
        alt.Chart()
        .mark_rule(strokeWidth=1.5, aria=False)
        .encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=colour),
        alt.Chart()
        .mark_point(filled=True, size=55, opacity=1)
        .encode(x=x, y=y, color=colour, shape=shape, **text_behind()),
    ]
    return points, layers, f" {omitted} of {len(ordered)} models are in the table only." if omitted else ""


def _spread(names: Sequence[str], most: int) -> list[str]:
    """Return so many of an ordered list, from its first to its last at even steps."""
    if len(names) <= most:
        return list(names)
    return [names[round(at * (len(names) - 1) / (most - 1))] for at in range(most)]


def _side(shape: Shape) -> float:
    return round((shape.height * shape.width) ** 0.5, 1)
